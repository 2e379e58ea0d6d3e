"""The settings, each with its one default. Nothing else in the code declares a default of its own.

Errors name the command-line flag, so that they read the same from Python and from a shell.
"""

from dataclasses import dataclass
from typing import Literal

from stemsplit.errors import SettingsError

DEFAULT_MODEL = "htdemucs"

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def _require(good: bool, flag: str, rule: str, value: object) -> None:
    if not good:
        raise SettingsError(f"{flag} {value}: {rule}", setting=flag)


@dataclass(frozen=True)
class ChunkSettings:
    """How a track is cut into chunks and put together again.

    Attributes:
        overlap: the fraction of a chunk that it shares with the next, in [0, 1).
        shifts: average over this many randomly delayed passes; 0 and 1 pass once (0 without a delay).
        seed: of the delays; nothing else is random.
        batch_size: chunks per call of the model; None means what fits the device.
    """

    overlap: float = 0.25
    shifts: int = 0
    seed: int = 0
    batch_size: int | None = None

    def __post_init__(self) -> None:
        _require(0 <= self.overlap < 1, "--overlap", "must be at least 0 and below 1", self.overlap)
        _require(self.shifts >= 0, "--shifts", "must not be negative", self.shifts)
        _require(
            self.batch_size is None or self.batch_size > 0,
            "--batch-size",
            "must be positive",
            self.batch_size,
        )


@dataclass(frozen=True)
class ComputeSettings:
    """What the model runs on.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        precision: of the model's arithmetic; auto is fp32 on a CPU, what the device gains by elsewhere.
        threads: CPU threads; None leaves the choice to torch.
    """

    device: str = "auto"
    precision: Precision = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        _require(self.threads is None or self.threads > 0, "--threads", "must be positive", self.threads)


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and how much of it.

    Attributes:
        model: a name from the registry, a path, or hf:OWNER/REPO.
        stems: the stems wanted, None for all.
        segment_s: the chunk's length in seconds; None is the model's own.
        offline: never open a connection.
    """

    model: str = DEFAULT_MODEL
    stems: tuple[str, ...] | None = None
    segment_s: float | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        _require(
            self.segment_s is None or self.segment_s > 0, "--segment", "must be positive", self.segment_s
        )

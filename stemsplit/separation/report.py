"""What came of a batch, as data: `--report`, `--json`, the summary line and the exit code."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from stemsplit import __version__
from stemsplit.errors import OutputError, ResourceError, StemsplitError
from stemsplit.events import Callback, TrackDone, TrackFailed, emit
from stemsplit.files import is_full

Status = Literal["done", "skipped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)
SCHEMA = 1
PARTIAL = 3  # the exit code of a batch of which only some failed


@dataclass(frozen=True)
class Failure:
    """Why a track failed: the exit code that it would have caused alone, and the sentence."""

    code: int
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: BaseException) -> "Failure":
        """The failure that an exception means."""
        if isinstance(error, OutputError):  # the track has several outputs, so say which
            return cls(error.code, str(error), error.hint)
        if isinstance(error, StemsplitError):
            return cls(error.code, error.reason, error.hint)
        if isinstance(error, MemoryError):
            return cls(5, "out of memory", "use a shorter --segment")
        if isinstance(error, OSError) and error.strerror:
            code = ResourceError.code if is_full(error) else StemsplitError.code
            return cls(code, f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return cls(1, f"{type(error).__name__}: {error}", "this is a bug; --debug shows where")


@dataclass(frozen=True)
class TrackResult:
    """What came of one track."""

    input: str
    status: Status
    outputs: Mapping[str, str] = field(default_factory=dict)
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    gain_db: float | None = None
    wall_s: float = 0.0
    error: Failure | None = None


def exit_code(errors: Sequence[Failure | None]) -> int:
    """Return 0 if no track failed, 3 if some did, and if all did their common class or 1.

    Args:
        errors: of every track, None where it didn't fail.
    """
    codes = {error.code for error in errors if error}
    if not codes:
        return 0
    if None in errors:
        return PARTIAL
    return codes.pop() if codes in ({4}, {5}) else 1


def announce(result: TrackResult, callback: Callback | None) -> None:
    """Tell what came of a track."""
    if result.error:
        emit(callback, TrackFailed(result.input, result.error.code, result.error.message))
    else:
        emit(callback, TrackDone(result.input, result.status, dict(result.outputs), result.wall_s))


@dataclass(frozen=True)
class Report:
    """What came of a batch."""

    model: str
    sha256: str | None
    device: str
    settings: Mapping[str, Any]
    tracks: tuple[TrackResult, ...]
    wall_s: float

    def count(self, status: Status) -> int:
        """How many tracks have `status`."""
        return sum(track.status == status for track in self.tracks)

    @property
    def realtime(self) -> float | None:
        """Seconds of audio separated per second; None if none was."""
        audio = sum(t.duration_s or 0 for t in self.tracks if t.status == "done")
        return audio / self.wall_s if audio and self.wall_s else None

    @property
    def exit_code(self) -> int:
        """See `exit_code`."""
        return exit_code([track.error for track in self.tracks])

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        counts = {status: self.count(status) for status in STATUSES}
        return {
            "schema": SCHEMA,
            "version": __version__,
            "model": {"name": self.model, "sha256": self.sha256},
            "device": self.device,
            "settings": dict(self.settings),
            "tracks": [asdict(track) for track in self.tracks],
            "summary": {**counts, "wall_s": self.wall_s, "realtime": self.realtime},
        }

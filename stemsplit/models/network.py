"""Base class of every family: a network that the separation core calls chunk by chunk.

Legend: `B` batch, `S` stems, `C` channels, `T` samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from stemsplit.chunking import Chunking, Level
from stemsplit.errors import SettingsError
from stemsplit.stems import canonical_stems, find_stem


@dataclass(frozen=True)
class Identity:
    """The weights of a network.

    Attributes:
        name: that they were requested by.
        sha256: of their file; None without a file.
    """

    name: str
    sha256: str | None


class Network(nn.Module):
    """A network that estimates stems from a mix.

    A family implements `estimate`, and overrides `padded_samples` if its layers need more samples than the
    chunk has. The core calls `forward`.

    Attributes:
        Arguments: a frozen dataclass of the constructor's arguments, stored in the family's checkpoints.
        arguments: its instance for this network.
        stems: canonical names of the stems in the order of the output; fewer after `select`.
        sample_rate: in Hz.
        channels: audio channels of the mix and of every stem.
        segment_samples: the chunk length that the network was made for.
        context_samples: real audio needed on each side of a chunk.
        normalise: True if the input is the mix scaled by a measure of the whole track.
        normalised_by: the measure; by default mean and standard deviation of the mono mix.
        kept: indices of the network's outputs that are estimated.
        narrowed: True if `select` left out any.
        identity: of the weights, once they are loaded from a checkpoint.
        precisions: dtypes that `prepare` takes.
        overlap: recommended fraction of a chunk shared with the next, None for the default.
        residual: a stem that isn't estimated but is the mix minus all others; None for none.
        chunking: weights of overlapping chunks, and silence around the track.
        trim_before: submodules before which freed memory goes back to the operating system.
        options: names of `Arguments` that a user may change when running the network, because the weights
            don't depend on them.
    """

    Arguments: ClassVar[Any]
    context_samples: int = 0
    normalise: bool = False
    normalised_by: Level = "deviation"
    chunking: Chunking = Chunking()
    narrowed: bool = False
    identity: Identity | None = None
    precisions: tuple[torch.dtype, ...] = (torch.float32,)
    overlap: float | None = None
    residual: str | None = None
    trim_before: tuple[str, ...] = ()
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        arguments: Any,
        *,
        stems: Sequence[str],
        sample_rate: int,
        channels: int,
        segment_samples: int,
    ) -> None:
        super().__init__()
        self.arguments = arguments
        self.stems: tuple[str, ...] = canonical_stems(stems)
        self.sample_rate = sample_rate
        self.channels = channels
        self.segment_samples = segment_samples
        self.kept: tuple[int, ...] = tuple(range(len(self.stems)))

    def estimate(self, mix: Tensor) -> Tensor:
        """Estimate the stems that `select` kept, from a mix of any length that the family can take.

        Args:
            mix: [B, C, T], standardised if `normalise`.

        Returns:
            [B, S, C, T].
        """
        raise TypeError(f"{type(self).__name__} estimates nothing")

    def padded_samples(self, samples: int) -> int:
        """Return P(n), the number of samples that `estimate` gets for a chunk of n = `samples`."""
        return samples

    def forward(self, mix: Tensor) -> Tensor:
        """Separate one batch of chunks, each with its context.

        The chunk is centred in P(n) samples, (P − n)//2 of them before it, and the output is cut back to n.

        Args:
            mix: [B, C, context + n + context].

        Returns:
            [B, S, C, n].
        """
        samples = mix.shape[-1] - 2 * self.context_samples
        padded = self.padded_samples(samples)
        before = (padded - samples) // 2
        start = self.context_samples - before
        stems = self.estimate(mix[..., start : start + padded])  # [B, S, C, P(n)]
        return stems[..., before : before + samples]  # [B, S, C, n]

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`, in the network's own order. Call it once, before the first use.

        Raises:
            UnknownNameError: the network has no such stem.
        """
        wanted = {find_stem(stem, self.stems) for stem in stems}
        kept = [(i, s) for i, s in zip(self.kept, self.stems, strict=True) if s in wanted]
        self.narrowed = self.narrowed or len(kept) < len(self.stems)
        self.kept = tuple(i for i, _ in kept)
        self.stems = tuple(s for _, s in kept)
        return self

    def use_segment(self, seconds: float) -> Self:
        """Work on chunks of `seconds`, at most `longest_segment_samples`.

        Raises:
            SettingsError: the network can't take chunks of that length.
        """
        samples = int(seconds * self.sample_rate)
        longest = self.longest_segment_samples()
        if samples < 1 or (longest is not None and samples > longest):
            limit = "" if longest is None else f", at most {longest / self.sample_rate:g} s"
            raise SettingsError(
                f"--segment {seconds:g}: {type(self).__name__} takes chunks of at least one sample{limit}",
                setting="--segment",
            )
        self.segment_samples = samples
        return self

    def longest_segment_samples(self) -> int | None:
        """Return the longest chunk that the network can take; None for any."""
        return None

    def optimizer_overrides(self) -> dict[str, dict[str, float]]:
        """Return optimiser settings that differ from the rest's: lr or weight_decay by pattern of names."""
        return {}

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Rearrange the weights for faster inference on a CPU, once, after loading.

        Args:
            dtype: to compute in, one of `precisions`.
        """
        return self


def ignore_when_loading(module: nn.Module, *beginnings: str) -> None:
    """Leave out tensors when a module loads a state dict: published files hold more than weights.

    Args:
        module: a network or a part of it.
        beginnings: of the tensors' names within the module.
    """
    module.register_load_state_dict_pre_hook(partial(_drop, beginnings))


def _drop(
    beginnings: tuple[str, ...], module: nn.Module, state: dict[str, Any], prefix: str, *_: Any
) -> None:
    for key in [key for key in state if key.startswith(tuple(prefix + each for each in beginnings))]:
        del state[key]

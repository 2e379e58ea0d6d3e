"""The base of every family: a network that the separation core can call chunk by chunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from stemsplit.errors import SettingsError
from stemsplit.stems import canonical_stems, find_stem


@dataclass(frozen=True)
class Identity:
    """A network's weights: the name they were asked for by, and their file's sha256 (None without one)."""

    name: str
    sha256: str | None


class Network(nn.Module):
    """A network that estimates stems from a mix.

    A family implements `estimate`, and overrides `padded_samples` when its layers want more samples
    than the chunk has. Everything else follows: `forward` is the call that the core makes.

    Attributes:
        Arguments: a frozen dataclass of the constructor's arguments, stored in the family's checkpoints.
        stems: canonical names of the stems in the order of the output; fewer after `select`.
        sample_rate: in Hz.
        channels: audio channels of the mix and of every stem.
        segment_samples: the chunk length that the network was made for.
        context_samples: real audio needed on each side of a chunk.
        normalise: the mix is to be standardised over the whole track.
        kept: which of the network's outputs are estimated.
        narrowed: whether `select` left out any.
        identity: of the weights, once they are loaded from a checkpoint.
        precisions: types of arithmetic that `prepare` takes.
        overlap: the fraction of a chunk shared with the next that it was made for, None for the default.
        residual: a stem that isn't estimated and is the mix minus all that are; None for none.
        rests: names of modules before which memory is given back, so that the waste of what came before and
            their own don't add up.
    """

    Arguments: ClassVar[Any]
    context_samples: int = 0
    normalise: bool = False
    narrowed: bool = False
    identity: Identity | None = None
    precisions: tuple[torch.dtype, ...] = (torch.float32,)
    overlap: float | None = None
    residual: str | None = None
    rests: tuple[str, ...] = ()

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
        """All stems that `select` left, from a mix of any length that the family can take.

        Args:
            mix: [B, C, T], standardised if `normalise`.

        Returns:
            [B, S, C, T].
        """
        raise TypeError(f"{type(self).__name__} estimates nothing")

    def padded_samples(self, samples: int) -> int:
        """P(n): how many samples `estimate` is given for a chunk of n."""
        return samples

    def forward(self, mix: Tensor) -> Tensor:
        """Separate one batch of chunks, each with its context.

        The chunk is centred in P(n) samples, (P − n)//2 of them before it, and the output is cut back the
        same way.

        Args:
            mix: [B, C, context + n + context].

        Returns:
            [B, S, C, n].
        """
        samples = mix.shape[-1] - 2 * self.context_samples
        padded = self.padded_samples(samples)
        before = (padded - samples) // 2
        start = self.context_samples - before
        return self.estimate(mix[..., start : start + padded])[..., before : before + samples]

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`, in the network's own order. Called once, before the first use.

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
        """Work on chunks of `seconds`. Families whose length is bounded override `longest_segment_samples`.

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
        """The longest chunk that the network can take; None for any."""
        return None

    def optimizer_overrides(self) -> dict[str, dict[str, float]]:
        """Settings of the optimiser, such as lr and weight_decay, by pattern of parameter names.

        They hold for parameters that want something else than the rest.
        """
        return {}

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Rearrange the weights for inference, once, after loading; the plain forward needs nothing.

        Args:
            dtype: of the arithmetic where the family offers a choice.
        """
        return self

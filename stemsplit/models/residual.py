"""A stem that no network estimates: what the others leave of the mix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.network import Network
from stemsplit.stems import canonical


class Residual(Network):
    """A network with one stem more, the mix minus all the others.

    Args:
        network: estimates the others.
        name: of the residual stem.

    Raises:
        StemsplitError: the network has a stem of that name.
    """

    @dataclass(frozen=True)
    class Arguments:
        """The stem's name."""

        name: str

    def __init__(self, network: Network, name: str) -> None:
        name = canonical(name)
        if name in network.stems:
            raise StemsplitError(f"the network estimates {name} itself")
        super().__init__(
            self.Arguments(name),
            stems=(*network.stems, name),
            sample_rate=network.sample_rate,
            channels=network.channels,
            segment_samples=network.segment_samples,
        )
        self.network = network
        self.context_samples = network.context_samples
        self.normalise = network.normalise
        self.precisions = network.precisions
        self.overlap = network.overlap

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`. The residual needs all the others, so with it nothing is saved."""
        super().select(stems)
        if self.arguments.name not in self.stems:
            self.network.select(self.stems)
        return self

    def forward(self, mix: Tensor) -> Tensor:
        """[B, C, context + n + context] to [B, S, C, n]."""
        found = self.network(mix)
        own = self.context_samples
        rest = mix[..., own : mix.shape[-1] - own] - found.sum(dim=1)
        everything = torch.cat([found, rest[:, None]], dim=1)
        names = (*self.network.stems, self.arguments.name)
        return everything[:, [names.index(stem) for stem in self.stems]]

    def use_segment(self, seconds: float) -> Self:
        """Let the network work on chunks of `seconds`."""
        self.network.use_segment(seconds)
        self.segment_samples = self.network.segment_samples
        self.context_samples = self.network.context_samples
        return self

    def longest_segment_samples(self) -> int | None:
        """The longest chunk that the network can take; None for any."""
        return self.network.longest_segment_samples()

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Let the network rearrange its weights."""
        self.network.prepare(dtype)
        return self

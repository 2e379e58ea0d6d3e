"""Real channels for complex spectrograms at a network's input, and complex spectrograms from its output.

Hybrid Demucs, "Spectrogram representation". Legend: `B` batch, `S` stems, `C` audio channels, `F` bins.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stemsplit.models.blocks.wiener import wiener

PHASE_FLOOR = 1e-8  # added to magnitudes before dividing by them, as in demucs


class Representation(Protocol):
    """Real channels for a complex spectrogram.

    Attributes:
        width: real channels per audio channel.
        separable: True if each stem's spectrogram depends on its own channels only.
    """

    @property
    def width(self) -> int:
        """Real channels per audio channel."""

    @property
    def separable(self) -> bool:
        """True if each stem's spectrogram depends on its own channels only."""

    def encode(self, z: Tensor) -> Tensor:
        """Complex [B, C, F, frames] -> real [B, C · width, F, frames]."""

    def decode(self, x: Tensor, z: Tensor, training: bool) -> Tensor:
        """Real [B, S, C · width, F, frames], the mix [B, C, F, frames] -> complex [B, S, C, F, frames]."""


@dataclass(frozen=True)
class ComplexAsChannels:
    """Real and imaginary part as two channels, at input and output (Choi et al. 2020)."""

    width: int = 2
    separable: bool = True

    def encode(self, z: Tensor) -> Tensor:
        """Complex [B, C, F, frames] -> real [B, 2C, F, frames]."""
        return torch.view_as_real(z).permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, 2C, F, frames]

    def decode(self, x: Tensor, z: Tensor, training: bool) -> Tensor:
        """Real [B, S, 2C, F, frames] -> complex [B, S, C, F, frames]; the mix isn't needed."""
        parts = x.unflatten(2, (-1, 2)).movedim(3, -1)  # [B, S, C, F, frames, 2]
        if parts.stride(-1) == 1:  # channels last in memory: both parts of a number are adjacent, no copy
            return torch.view_as_complex(parts)
        return torch.complex(parts[..., 0], parts[..., 1])


@dataclass(frozen=True)
class Magnitudes:
    """Magnitudes at input and output; the stems' phases come from the mix.

    Attributes:
        iterations: of Wiener filtering; 0 takes the mix's phase z/|z|, a negative number z/(|z| + 1e-8).
        iterations_in_training: the same in training.
        residual: filter with one more stem, the rest of the mix, and drop it.
    """

    iterations: int
    iterations_in_training: int
    residual: bool
    width: int = 1

    @property
    def separable(self) -> bool:
        """False with Wiener filtering, which weighs all stems against each other."""
        return max(self.iterations, self.iterations_in_training) <= 0

    def encode(self, z: Tensor) -> Tensor:
        """Complex [B, C, F, frames] -> real [B, C, F, frames]."""
        return z.abs()

    def decode(self, x: Tensor, z: Tensor, training: bool) -> Tensor:
        """Real [B, S, C, F, frames], the mix [B, C, F, frames] -> complex [B, S, C, F, frames]."""
        iterations = self.iterations_in_training if training else self.iterations
        if iterations < 0:
            return x * (z / (PHASE_FLOOR + z.abs()))[:, None]  # phase: [B, 1, C, F, frames]
        residual = self.residual and iterations > 0
        return wiener(x, z, iterations=iterations, residual=residual)[:, : x.shape[1]]

"""Embeddings of positions and frequencies.

Legend: `B` batch, `C` channels, `F` bins, `T` positions.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError


class ScaledEmbedding(nn.Module):
    """Embedding whose stored weights are `boost` times smaller than its output, so that it learns faster.

    Args:
        count: number of positions.
        channels: C, width of a vector.
        boost: factor from the stored weights to the output.
        init: initial standard deviation of the output.
        smooth: start with similar neighbours, from a normalised random walk over the positions.
    """

    def __init__(
        self, count: int, channels: int, *, boost: float, init: float = 1.0, smooth: bool = False
    ) -> None:
        super().__init__()
        self.boost = boost
        self.embedding = nn.Embedding(count, channels)
        with torch.no_grad():
            weight = self.embedding.weight
            if smooth:  # the sum of n unit Gaussians has deviation √n
                weight.copy_(weight.cumsum(0) / torch.arange(1, count + 1).to(weight).sqrt()[:, None])
            weight.mul_(init / boost)

    def forward(self, positions: Tensor) -> Tensor:
        """Embed integers: [N] -> [N, C]."""
        out: Tensor = self.embedding(positions) * self.boost
        return out


def sinusoids(positions: Tensor, channels: int, period: float) -> Tensor:
    """Return cosine and sine of every position at geometrically spaced rates from 1 down to 1/period.

    Args:
        positions: [..., T], real.
        channels: C, even.
        period: 2π times this is the longest wavelength, in positions.

    Returns:
        [..., T, C], all cosines before all sines.
    """
    half = channels // 2
    exponents = torch.arange(half, device=positions.device) / (half - 1)
    phase = positions[..., None] / period**exponents  # [..., T, C/2]
    return torch.cat([phase.cos(), phase.sin()], dim=-1)  # [..., T, C]


@lru_cache(maxsize=8)
def _time_sinusoids(steps: int, channels: int, period: float, device: torch.device) -> Tensor:
    """Return `sinusoids` of positions 0 … steps − 1, [1, steps, C]; cached, so don't write into it."""
    with torch.inference_mode(False):  # a cached inference tensor couldn't be used in training later
        return sinusoids(torch.arange(steps, device=device), channels, period)[None]


@lru_cache(maxsize=8)
def grid_sinusoids(bins: int, frames: int, channels: int, period: float, device: torch.device) -> Tensor:
    """Return the two-dimensional position embedding of a spectrogram; cached, so don't write into it.

    The lower half of the channels encodes the frame, the upper half the bin, sines and cosines alternating.

    Args:
        bins: F.
        frames: of the spectrogram.
        channels: C, a multiple of four.
        period: 2π times this bounds the wavelengths.
        device: of the result.

    Returns:
        [frames · F, C], bin after bin within a frame.
    """
    half = channels // 2
    with torch.inference_mode(False):
        rates = torch.exp(torch.arange(0.0, half, 2) * -(math.log(period) / half))  # period^(−2i/half), [C/4]
        of_frame = _alternating(torch.arange(0.0, frames)[:, None] * rates)  # [frames, C/2]
        of_bin = _alternating(torch.arange(0.0, bins)[:, None] * rates)  # [F, C/2]
        grid = torch.cat(
            [of_frame[:, None].expand(-1, bins, -1), of_bin[None].expand(frames, -1, -1)], dim=-1
        )  # [frames, F, C]
        return grid.reshape(frames * bins, channels).to(device)  # [frames·F, C]


def _alternating(phase: Tensor) -> Tensor:
    """Return sine, cosine, sine, cosine … of the phases: [N, C] -> [N, 2C]."""
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)  # [N, C, 2] -> [N, 2C]


class SinusoidalPositions(nn.Module):
    """Fixed sinusoids as positions of a sequence.

    Args:
        channels: C.
        period: 2π times this is the longest wavelength, in positions.
        random_shift: largest random start position in training.
    """

    def __init__(self, channels: int, period: float, random_shift: int) -> None:
        super().__init__()
        self.channels = channels
        self.period = period
        self.random_shift = random_shift

    def forward(self, batch: int, steps: int, device: torch.device) -> Tensor:
        """Return the embedding of `steps` positions, [1, steps, C], the same for the whole batch."""
        if not (self.training and self.random_shift):
            return _time_sinusoids(steps, self.channels, self.period, device)
        first = torch.randint(self.random_shift + 1, (1, 1), device=device)
        return sinusoids(first + torch.arange(steps, device=device), self.channels, self.period)


class AugmentedPositions(nn.Module):
    """Sinusoids of continuous positions, jittered in training (CAPE, Likhomanenko et al. 2021).

    Args:
        channels: C.
        period: 2π times this is the longest wavelength, in positions.
        centre: count positions from the middle of the sequence.
        jitter: largest shift of a whole sequence, largest shift of a single step, and largest factor of
            scaling, with 1/factor as the smallest. Each is drawn uniformly, the factor on a logarithmic
            scale. None for no jitter.
    """

    def __init__(
        self, channels: int, period: float, centre: bool, jitter: tuple[float, float, float] | None
    ) -> None:
        super().__init__()
        self.channels = channels
        self.period = period
        self.centre = centre
        self.jitter = jitter

    def forward(self, batch: int, steps: int, device: torch.device) -> Tensor:
        """Return the embedding of `steps` positions, jittered anew for every item: [batch, steps, C]."""
        positions = torch.arange(steps, device=device, dtype=torch.float32).expand(batch, -1)  # [B, T]
        if self.centre:
            positions = positions - positions.mean(dim=-1, keepdim=True)
        if self.training and self.jitter is not None:
            positions = self._move(positions, *self.jitter)
        return sinusoids(positions, self.channels, self.period)

    def _move(self, positions: Tensor, whole: float, step: float, factor: float) -> Tensor:
        """Shift and scale positions [B, T] at random."""
        shift, scale = _symmetric(positions[:, :1]), _symmetric(positions[:, :1])
        moved = positions + whole * shift + step * _symmetric(positions)
        return moved * torch.exp(math.log(factor) * scale)  # factor^s for s in [−1, 1)


class LearntPositions(ScaledEmbedding):
    """Learnt vector per position.

    Args:
        longest: number of positions.
        channels: C.
    """

    def __init__(self, longest: int, channels: int) -> None:
        super().__init__(longest, channels, boost=3.0, init=0.2)

    def forward(self, batch: int, steps: int, device: torch.device) -> Tensor:  # type: ignore[override]
        """Return the embedding of `steps` positions, [1, steps, C], the same for the whole batch.

        Raises:
            StemsplitError: there are more steps than learnt positions.
        """
        if steps > self.embedding.num_embeddings:
            raise StemsplitError(
                f"the network knows {self.embedding.num_embeddings} positions, the chunk has {steps}"
            )
        return super().forward(torch.arange(steps, device=device))[None]  # [1, steps, C]


def _symmetric(like: Tensor) -> Tensor:
    """Return uniform random numbers in [−1, 1), in the shape of `like`."""
    return 2 * torch.rand_like(like) - 1

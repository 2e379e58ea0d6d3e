"""Embeddings of positions and frequencies."""

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError


class ScaledEmbedding(nn.Module):
    """An embedding that is stored `boost` times smaller than it is used, so that it learns faster.

    Args:
        count: number of positions.
        channels: width of a vector.
        boost: factor between what is stored and what is used.
        init: initial standard deviation of what is used.
        smooth: start with neighbours alike, as a normalised random walk over the positions.
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
        """Integers [N] -> [N, C]."""
        out: Tensor = self.embedding(positions) * self.boost
        return out


def sinusoids(positions: Tensor, channels: int, period: float) -> Tensor:
    """Cosine and sine of every position at geometrically spaced rates from 1 down to 1/period.

    Args:
        positions: [..., T], real.
        channels: C, even.
        period: 2π times this is the longest wavelength, in positions.

    Returns:
        [..., T, C], all cosines before all sines.
    """
    half = channels // 2
    exponents = torch.arange(half, device=positions.device) / (half - 1)
    phase = positions[..., None] / period**exponents
    return torch.cat([phase.cos(), phase.sin()], dim=-1)


@lru_cache(maxsize=8)
def _time_sinusoids(steps: int, channels: int, period: float, device: torch.device) -> Tensor:
    """`sinusoids` of the positions 0 … steps − 1: [1, steps, C]. Don't write into it."""
    with torch.inference_mode(False):
        return sinusoids(torch.arange(steps, device=device), channels, period)[None]


@lru_cache(maxsize=8)
def grid_sinusoids(bins: int, frames: int, channels: int, period: float, device: torch.device) -> Tensor:
    """Two-dimensional position embedding of a spectrogram. Don't write into it.

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
        rates = torch.exp(torch.arange(0.0, half, 2) * -(math.log(period) / half))
        of_frame = _alternating(torch.arange(0.0, frames)[:, None] * rates)
        of_bin = _alternating(torch.arange(0.0, bins)[:, None] * rates)
        grid = torch.cat(
            [of_frame[:, None].expand(-1, bins, -1), of_bin[None].expand(frames, -1, -1)], dim=-1
        )
        return grid.reshape(frames * bins, channels).to(device)


def _alternating(phase: Tensor) -> Tensor:
    """Sine, cosine, sine, cosine … of [N, C] phases: [N, 2C]."""
    return torch.stack([phase.sin(), phase.cos()], dim=-1).flatten(-2)


class SinusoidalPositions(nn.Module):
    """Fixed sinusoids.

    Args:
        channels: C.
        period: of the slowest is 2π times this.
        random_shift: while training, start at a random position up to this one.
    """

    def __init__(self, channels: int, period: float, random_shift: int) -> None:
        super().__init__()
        self.channels = channels
        self.period = period
        self.random_shift = random_shift

    def forward(self, batch: int, steps: int, device: torch.device) -> Tensor:
        """The embedding of `steps` positions: [1, steps, C], the same for the whole batch."""
        if not (self.training and self.random_shift):
            return _time_sinusoids(steps, self.channels, self.period, device)
        first = torch.randint(self.random_shift + 1, (1, 1), device=device)
        return sinusoids(first + torch.arange(steps, device=device), self.channels, self.period)


class AugmentedPositions(nn.Module):
    """Sinusoids of continuous positions that are jittered while training (CAPE, Likhomanenko et al. 2021).

    Args:
        channels: C.
        period: of the slowest sinusoid is 2π times this.
        centre: count positions from the middle.
        jitter: None for none; otherwise the largest shift of a whole sequence, the largest shift of a single
            step and the largest factor (and 1/factor) of scaling, each drawn uniformly, the factor on a
            logarithmic axis.
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
        """The embedding of `steps` positions, drawn anew for every item: [batch, steps, C]."""
        positions = torch.arange(steps, device=device, dtype=torch.float32).expand(batch, -1)
        if self.centre:
            positions = positions - positions.mean(dim=-1, keepdim=True)
        if self.training and self.jitter is not None:
            positions = self._move(positions, *self.jitter)
        return sinusoids(positions, self.channels, self.period)

    def _move(self, positions: Tensor, whole: float, step: float, factor: float) -> Tensor:
        """Shift and scale positions [B, T] at random."""
        shift, scale = _symmetric(positions[:, :1]), _symmetric(positions[:, :1])
        moved = positions + whole * shift + step * _symmetric(positions)
        return moved * torch.exp(math.log(factor) * scale)


class LearntPositions(ScaledEmbedding):
    """A learnt vector per position.

    Args:
        longest: number of positions.
        channels: C.
    """

    def __init__(self, longest: int, channels: int) -> None:
        super().__init__(longest, channels, boost=3.0, init=0.2)

    def forward(self, batch: int, steps: int, device: torch.device) -> Tensor:  # type: ignore[override]
        """The embedding of `steps` positions: [1, steps, C], the same for the whole batch.

        Raises:
            StemsplitError: there are more steps than positions.
        """
        if steps > self.embedding.num_embeddings:
            raise StemsplitError(
                f"the network knows {self.embedding.num_embeddings} positions, the chunk has {steps}"
            )
        return super().forward(torch.arange(steps, device=device))[None]


def _symmetric(like: Tensor) -> Tensor:
    """Uniform in [−1, 1), of the shape of `like`."""
    return 2 * torch.rand_like(like) - 1

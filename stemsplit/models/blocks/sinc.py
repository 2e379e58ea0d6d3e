"""Resampling by a rational factor with the filters of scipy's `resample_poly` and of libsamplerate.

Networks that were trained on bands made with one of these filters expect its cutoff and its ripple.
Legend: `T` samples.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Kaiser(NamedTuple):
    """A sinc under a Kaiser window, in samples of the lower of the two rates.

    Attributes:
        cutoff: in units of the lower rate's Nyquist frequency.
        half: samples on each side of the centre.
        beta: of the window.
        unity: scale the filter so that a constant stays the same.
    """

    cutoff: float
    half: float
    beta: float
    unity: bool


# `resample_poly`'s default window; the parameters that libsamplerate's table of coefficients follows to
# 150 dB, as measured on its response to an impulse: 2462 coefficients on each side, 128 per sample.
FILTERS = {
    "polyphase": Kaiser(1.0, 10.0, 5.0, unity=True),
    "sinc_fastest": Kaiser(0.831471, 2462 / 128, 10.08, unity=False),
}


@dataclass(frozen=True)
class Resampling:
    """A change of sample rate without delay, with silence beyond both ends.

    Attributes:
        from_hz: sample rate of the input, in Hz.
        to_hz: sample rate of the output, in Hz.
        filter: a key of `FILTERS`.
    """

    from_hz: int
    to_hz: int
    filter: str

    @property
    def factor(self) -> tuple[int, int]:
        """Numerator and denominator of the output's rate over the input's, without a common divisor."""
        common = math.gcd(self.from_hz, self.to_hz)
        return self.to_hz // common, self.from_hz // common

    @property
    def reach(self) -> float:
        """Samples of the input, on each side, that a sample of the output depends on."""
        up, down = self.factor
        return 0.0 if up == down else FILTERS[self.filter].half * max(up, down) / up

    def __call__(self, x: Tensor) -> Tensor:
        """[..., T] -> [..., ⌈T·to/from⌉]."""
        up, down = self.factor
        if up == down:
            return x
        kernels = _kernels(up, down, self.filter, x.device).to(x.dtype)  # [up, 1, taps]
        samples = -(-x.shape[-1] * up // down)
        before = _reach(up, down, self.filter) // up
        steps = -(-samples // up)
        after = max(0, (steps - 1) * down + kernels.shape[-1] - before - x.shape[-1])
        rows = F.pad(x.reshape(-1, 1, x.shape[-1]), (before, after))  # [N, 1, ·]
        y = F.conv1d(rows, kernels, stride=down)[..., :steps]  # [N, up, steps]
        return y.transpose(1, 2).reshape(*x.shape[:-1], -1)[..., :samples]


def _reach(up: int, down: int, name: str) -> int:
    """Return the filter's half length at `up` times the input's rate."""
    return math.floor(FILTERS[name].half * max(up, down))


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what is kept may be needed in training
def _kernels(up: int, down: int, name: str, device: torch.device) -> Tensor:
    """Return the filter's polyphase components, [up, 1, taps]; cached, so don't write into them.

    Sample m = q·up + r of the output is Σ_j x[q·down + j]·h[r·down − j·up], a convolution of stride `down`
    with one kernel for each r.
    """
    cutoff, half, beta, unity = FILTERS[name]
    rate, reach = max(up, down), _reach(up, down, name)
    time = torch.arange(-reach, reach + 1, dtype=torch.float64, device="cpu") / rate
    window = torch.i0(beta * (1 - (time / half).square()).clamp_min(0).sqrt()) / torch.i0(
        torch.tensor(beta).to(time)
    )
    h = cutoff * torch.sinc(cutoff * time) * window  # [2·reach + 1], at `up` times the input's rate
    h = h * up / (h.sum() if unity else rate)
    first, last = -(reach // up), ((up - 1) * down + reach) // up
    j = torch.arange(first, last + 1, device="cpu")
    index = torch.arange(up, device="cpu")[:, None] * down - j * up + reach  # [up, taps]
    inside = (index >= 0) & (index < len(h))
    return torch.where(inside, h[index.clamp(0, len(h) - 1)], 0.0)[:, None].float().to(device)

"""Spectrograms in blocks of frames, mel filters, and the weightings of hearing that metrics use.

`community` takes its metrics from these, so that a long track needs no whole spectrogram in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import log, pi, tan
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

# Filters are designed for this rate at any rate of a track, as msst's are, so that scores compare.
DESIGN_HZ = 44100
_BLOCK_FRAMES = 256


@dataclass(frozen=True)
class Stft:
    """A short-time Fourier transform whose frames are centred on every `hop`-th sample.

    Attributes:
        n_fft: length of the transform, and of its window, in samples.
        hop: samples between two frames.
        window: periodic Hann, Hann of unit energy, or none at all.
        edges: the signal beyond its ends, mirrored or zero.
    """

    n_fft: int
    hop: int
    window: Literal["hann", "unit", "none"] = "hann"
    edges: Literal["reflect", "constant"] = "reflect"

    def fits(self, samples: int) -> bool:
        """Tell whether a signal is long enough to be mirrored at its ends."""
        return self.edges == "constant" or samples > self.n_fft // 2

    def blocks(self, signal: Tensor) -> Iterator[Tensor]:
        """Yield the spectrogram of a signal [C, T] by some frames at a time, complex [C, F, frames]."""
        window = torch.ones(self.n_fft) if self.window == "none" else torch.hann_window(self.n_fft)
        if self.window == "unit":
            window = window.double().div(window.double().norm()).float()
        centred = pad(signal.float(), (self.n_fft // 2, self.n_fft // 2), self.edges)
        frames = signal.shape[-1] // self.hop + 1
        for first in range(0, frames, _BLOCK_FRAMES):
            last = min(first + _BLOCK_FRAMES, frames) - 1
            piece = centred[:, first * self.hop : last * self.hop + self.n_fft]
            yield torch.stft(piece, self.n_fft, self.hop, window=window, center=False, return_complex=True)


@cache
def mel_filters(count: int, n_fft: int) -> Tensor:
    """Return triangular filters, spaced evenly on Slaney's mel scale from 0 Hz and of equal area.

    Returns:
        A sparse matrix [count, F]: each bin lies in two filters at most.
    """
    top = 15 + 27 * log(DESIGN_HZ / 2000) / log(6.4)
    mel = np.linspace(0, top, count + 2)
    edges = np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((mel - 15) / 27))[:, None]  # in Hz
    bins = np.linspace(0, DESIGN_HZ / 2, n_fft // 2 + 1)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    triangles = np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])
    return torch.from_numpy(triangles).float().to_sparse()


def mel(filters: Tensor, magnitudes: Tensor) -> Tensor:
    """Apply filters [M, F] to magnitudes [C, F, frames], [C, M, frames]."""
    return torch.stack([torch.sparse.mm(filters, one.contiguous()) for one in magnitudes])


# ---------------------------------------------------------------- weightings


def a_weighted(signal: Tensor) -> Tensor:
    """Apply A-weighting to a signal [C, T] by a linear-phase filter of 101 taps, as auraloss has it."""
    taps = _a_weighting(101)
    return conv1d(signal.float()[:, None], taps[None, None], padding=len(taps) // 2)[:, 0]


@cache
def _a_weighting(taps: int) -> Tensor:
    """Return the least-squares filter whose response is A-weighting (IEC 61672) by the bilinear transform.

    The desired response is linear within bands between the frequencies 2i and 2i + 1 of 512, and free between
    the bands.
    """
    edges = np.arange(512) / 512  # of half the rate
    s = 2 * DESIGN_HZ * np.tan(pi / 2 * edges)  # analog frequencies in rad/s
    f1, f2, f3, f4 = (2 * pi * hertz for hertz in (20.598997, 107.65265, 737.86223, 12194.217))
    poles = (s**2 + f1**2) * (s**2 + f4**2) * np.sqrt((s**2 + f2**2) * (s**2 + f3**2))
    desired = f4**2 * 10 ** (1.9997 / 20) * s**4 / poles
    order, lags = np.arange(taps // 2 + 1)[:, None], np.arange(taps)[:, None]
    # ∫ cos(πnf) over the bands: the normal equations are a Toeplitz plus a Hankel matrix.
    overlap = _over_bands(edges * np.sinc(lags * edges))
    system = overlap[abs(order - order.T)] + overlap[order + order.T]
    # ∫ D(f)·cos(πnf) by parts, D being linear in a band
    slope = np.repeat((desired[1::2] - desired[::2]) / (edges[1::2] - edges[::2]), 2)
    primitive = edges * desired * np.sinc(order * edges)
    primitive[0] -= slope * edges**2 / 2
    primitive[1:] += slope * np.cos(pi * order[1:] * edges) / (pi * order[1:]) ** 2
    half = np.linalg.solve(system, _over_bands(primitive))
    return torch.from_numpy(np.concatenate([half[:0:-1], 2 * half[:1], half[1:]])).float()


def _over_bands(primitive: Array) -> Array:
    """Return integrals over the bands, from a primitive at their edges [N, 2·bands], summed to [N]."""
    total: Array = (primitive[:, 1::2] - primitive[:, ::2]).sum(1)
    return total


@cache
def hearing_response(size: int) -> Tensor:
    """Return the spectrum of the filter of log-WMSE, for transforms of `size` samples, complex [F].

    Its magnitude is that of a high shelf (1500 Hz, 5 dB), a high-pass (120 Hz, second order), a peak (500 Hz,
    2.5 dB) and a low-pass (10 kHz, first order, applied twice), as the Audio EQ Cookbook and Butterworth have
    them (after Fenton and Lee, 2017). It has 4000 taps.
    """
    grid = 4097  # the original samples [0, π) at so many frequencies, and takes them for those of 8192 bins
    w = pi * np.arange(grid) / grid
    shelf, high, peak, low = (
        1j * np.tan(w / 2) / tan(pi * hertz / DESIGN_HZ) for hertz in (1500, 120, 500, 1e4)
    )
    response = _shelf(shelf, 5, 0.5**0.5) * _peak(peak, 2.5, 1.5 * 0.5**0.5)
    response *= high**2 / (high**2 + 2**0.5 * high + 1) / (1 + low) ** 2
    impulse = np.fft.fftshift(np.fft.irfft(abs(response), 8192))[2097:6097]  # [4000]
    spectrum: Tensor = torch.fft.rfft(torch.from_numpy(impulse), size)
    return spectrum.to(torch.complex64)


def _shelf(s: Complex, gain_db: float, q: float) -> Complex:
    """Return a high shelf's response at s = jω/ω₀."""
    root = 10 ** (gain_db / 80)  # √A of the cookbook
    return root**2 * (root**2 * s**2 + root / q * s + 1) / (s**2 + root / q * s + root**2)


def _peak(s: Complex, gain_db: float, q: float) -> Complex:
    """Return a peaking equaliser's response at s = jω/ω₀."""
    a = 10 ** (gain_db / 40)
    return (s**2 + a / q * s + 1) / (s**2 + s / (a * q) + 1)

"""Short-time Fourier transforms, and the framing that lines them up with strided convolutions."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


def stft(
    x: Tensor,
    fft_size: int,
    hop: int,
    *,
    centred: bool = True,
    normalised: bool = False,
    window: Tensor | None = None,
) -> Tensor:
    """STFT over the last dimension.

    Args:
        x: [..., T].
        fft_size: samples per frame.
        hop: samples from frame to frame.
        centred: frame k is centred on sample k·hop, x being reflected at its ends; otherwise it starts there.
        normalised: divide by √fft_size.
        window: [fft_size]; None is a periodic Hann window.

    Returns:
        complex [..., fft_size/2 + 1, frames].
    """
    if window is None:
        window = torch.hann_window(fft_size, dtype=x.dtype, device=x.device)
    z = torch.stft(
        x.reshape(-1, x.shape[-1]),
        fft_size,
        hop,
        window=window,
        center=centred,
        normalized=normalised,
        return_complex=True,
    )
    return z.view(*x.shape[:-1], *z.shape[-2:])


def istft(
    z: Tensor, hop: int, samples: int, *, normalised: bool = False, window: Tensor | None = None
) -> Tensor:
    """The inverse of the centred `stft`.

    Args:
        z: complex [..., fft_size/2 + 1, frames].
        hop: samples from frame to frame.
        samples: T.
        normalised: multiply by √fft_size.
        window: that of the transform.

    Returns:
        [..., T].
    """
    fft_size = 2 * (z.shape[-2] - 1)
    if window is None:
        window = torch.hann_window(fft_size, dtype=z.real.dtype, device=z.device)
    frames = z.reshape(-1, *z.shape[-2:])
    x = torch.istft(frames, fft_size, hop, window=window, normalized=normalised, length=samples)
    return x.view(*z.shape[:-2], samples)


def reflect_pad(x: Tensor, left: int, right: int) -> Tensor:
    """Reflection that works for any length.

    Where x is too short to be reflected, zeros are first put after it, then before it.

    Args:
        x: [B, C, T].
        left: samples to add in front.
        right: samples to add behind.

    Returns:
        [B, C, left + T + right].
    """
    missing = max(0, max(left, right) - x.shape[-1] + 1)
    behind = min(right, missing)
    before = missing - behind
    x = F.pad(x, (before, behind))
    return F.pad(x, (left - before, right - behind), mode="reflect")


class Framing(Protocol):
    """Where the frames of a spectrogram lie. The highest bin is dropped, which leaves F = fft_size/2."""

    def analyse(self, x: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, C, F, frames]."""

    def synthesise(self, z: Tensor, samples: int) -> Tensor:
        """Complex [..., F, frames] -> [..., T] for T = `samples`."""


@dataclass(frozen=True)
class CentredFraming:
    """The usual ⌊T/hop⌋ + 1 frames, frame k centred on sample k·hop; hop = fft_size/4.

    Attributes:
        fft_size: samples per frame.
    """

    fft_size: int

    def analyse(self, x: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, C, F, frames]."""
        half = self.fft_size // 2
        z = stft(
            reflect_pad(x, half, half), self.fft_size, self.fft_size // 4, centred=False, normalised=True
        )
        return z[..., :-1, :]

    def synthesise(self, z: Tensor, samples: int) -> Tensor:
        """Complex [..., F, frames] -> [..., T] for T = `samples`."""
        return istft(F.pad(z, (0, 0, 0, 1)), self.fft_size // 4, samples, normalised=True)


@dataclass(frozen=True)
class AlignedFraming:
    """Exactly ⌈T/hop⌉ frames, frame k centred on the middle of samples k·hop … (k+1)·hop; hop = fft_size/4.

    That is what a convolution of kernel fft_size, stride hop and padding (fft_size − hop)/2 on both sides
    gives, so spectral and temporal branches of equal stride line up (Hybrid Demucs, "Padding for easy
    alignment").

    Attributes:
        fft_size: samples per frame, a multiple of eight.
        legacy: pad with zeros rather than by reflection, and take the output from 3/2 hops too early: the
            slip of the first published Hybrid Demucs checkpoints, which were trained to live with it.
    """

    fft_size: int
    legacy: bool = False

    def analyse(self, x: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, C, F, frames]."""
        hop, margin = self._hop_and_margin()
        behind = margin + -x.shape[-1] % hop
        padded = F.pad(x, (margin, behind)) if self.legacy else reflect_pad(x, margin, behind)
        return stft(padded, self.fft_size, hop, centred=False, normalised=True)[..., :-1, :]

    def synthesise(self, z: Tensor, samples: int) -> Tensor:
        """Complex [..., F, frames] -> [..., T] for T = `samples`."""
        hop, margin = self._hop_and_margin()
        whole = hop * z.shape[-1]
        z = F.pad(z, (2, 2, 0, 1))
        if self.legacy:
            return istft(z, hop, whole, normalised=True)[..., :samples]
        return istft(z, hop, whole + 2 * margin, normalised=True)[..., margin : margin + samples]

    def _hop_and_margin(self) -> tuple[int, int]:
        hop = self.fft_size // 4
        return hop, (self.fft_size - hop) // 2

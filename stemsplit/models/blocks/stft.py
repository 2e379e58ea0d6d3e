"""Short-time Fourier transforms, and framings that align them with strided convolutions.

Legend: `B` batch, `C` channels, `F` bins, `T` samples.
"""

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
    """Short-time Fourier transform over the last dimension.

    Args:
        x: [..., T].
        fft_size: samples per frame.
        hop: samples from frame to frame.
        centred: centre frame k on sample k·hop and reflect x at its ends; otherwise frame k starts there.
        normalised: divide by √fft_size.
        window: [fft_size]; None is a periodic Hann window.

    Returns:
        complex [..., fft_size/2 + 1, frames].
    """
    if window is None:
        window = torch.hann_window(fft_size, dtype=x.dtype, device=x.device)
    z = torch.stft(
        x.reshape(-1, x.shape[-1]),  # [N, T]
        fft_size,
        hop,
        window=window,
        center=centred,
        normalized=normalised,
        return_complex=True,
    )
    return z.view(*x.shape[:-1], *z.shape[-2:])  # [N, F, frames] -> [..., F, frames]


def istft(
    z: Tensor, hop: int, samples: int, *, normalised: bool = False, window: Tensor | None = None
) -> Tensor:
    """Inverse of the centred `stft`.

    Args:
        z: complex [..., fft_size/2 + 1, frames].
        hop: samples from frame to frame.
        samples: T, length of the result.
        normalised: multiply by √fft_size.
        window: of the transform, [fft_size]; None is a periodic Hann window.

    Returns:
        [..., T].
    """
    fft_size = 2 * (z.shape[-2] - 1)
    if window is None:
        window = torch.hann_window(fft_size, dtype=z.real.dtype, device=z.device)
    frames = z.reshape(-1, *z.shape[-2:])  # [N, F, frames]
    x = torch.istft(frames, fft_size, hop, window=window, normalized=normalised, length=samples)  # [N, T]
    return x.view(*z.shape[:-2], samples)  # [..., T]


def overlap_add_(out: Tensor, frames: Tensor, hop: int) -> None:
    """Add frames to a signal, frame k at k·hop.

    Args:
        out: the signal, contiguous, [..., T] for T of at least (n + ⌈size/hop⌉ − 1)·hop.
        frames: [..., n, size].
        hop: samples from frame to frame.
    """
    count, size = frames.shape[-2:]
    overlapping = -(-size // hop)
    rows = out[..., : (count + overlapping - 1) * hop].unflatten(
        -1, (-1, hop)
    )  # [..., n + ⌈size/hop⌉ − 1, hop]
    for k in range(overlapping):
        piece = frames[..., k * hop : (k + 1) * hop]  # [..., n, hop], the last one perhaps narrower
        rows[..., k : k + count, : piece.shape[-1]] += piece


def reflect_pad(x: Tensor, left: int, right: int) -> Tensor:
    """Pad by reflection, whatever the length.

    If x is too short to be reflected, it is lengthened by zeros first, at its end, then at its start.

    Args:
        x: [B, C, T].
        left: samples to add at the start.
        right: samples to add at the end.

    Returns:
        [B, C, left + T + right].
    """
    missing = max(0, max(left, right) - x.shape[-1] + 1)  # a reflection by n takes n + 1 samples
    behind = min(right, missing)
    before = missing - behind
    x = F.pad(x, (before, behind))
    return F.pad(x, (left - before, right - behind), mode="reflect")


class Framing(Protocol):
    """STFT without the highest bin, F = fft_size/2, at given positions of the frames."""

    def analyse(self, x: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, C, F, frames]."""

    def synthesise(self, z: Tensor, samples: int) -> Tensor:
        """Complex [..., F, frames] -> [..., T] for T = `samples`."""


@dataclass(frozen=True)
class CentredFraming:
    """⌊T/hop⌋ + 1 frames, frame k centred on sample k·hop; hop = fft_size/4.

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
        return z[..., :-1, :]  # [B, C, F + 1, frames] -> [B, C, F, frames]

    def synthesise(self, z: Tensor, samples: int) -> Tensor:
        """Complex [..., F, frames] -> [..., T] for T = `samples`."""
        whole = F.pad(z, (0, 0, 0, 1))  # [..., F + 1, frames], the highest bin zero
        return istft(whole, self.fft_size // 4, samples, normalised=True)


@dataclass(frozen=True)
class AlignedFraming:
    """⌈T/hop⌉ frames, frame k centred on the middle of samples k·hop … (k+1)·hop; hop = fft_size/4.

    A convolution of kernel fft_size, stride hop and padding (fft_size − hop)/2 on both sides gives the same
    frames, so spectral and temporal branches of equal stride are aligned (Hybrid Demucs, "Padding for easy
    alignment").

    Attributes:
        fft_size: samples per frame, a multiple of eight.
        legacy: pad with zeros rather than by reflection, and start the output 3/2 hops too early, as the code
            did that the first published Hybrid Demucs checkpoints were trained with.
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
        z = F.pad(z, (2, 2, 0, 1))  # [..., F + 1, frames + 4]: the highest bin, two frames at each end
        if self.legacy:
            return istft(z, hop, whole, normalised=True)[..., :samples]
        return istft(z, hop, whole + 2 * margin, normalised=True)[..., margin : margin + samples]

    def _hop_and_margin(self) -> tuple[int, int]:
        hop = self.fft_size // 4
        return hop, (self.fft_size - hop) // 2

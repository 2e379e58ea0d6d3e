"""Oracles: estimates made from the true stems, upper limits for models that mask spectrograms.

The ideal ratio mask and the STFT are as in SiSEC 2018 (Stöter, Liutkus and Ito, "The 2018 Signal Separation
Evaluation Campaign"). `score` scores the oracles as baselines of a track.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import fold, pad

# Window and hop of the STFT in samples, as in SiSEC 2018.
SIZE, HOP = 4096, 1024
FRAMES = 512  # STFT frames that are in memory at a time
_TINY = 1e-10  # keeps quotients of silence finite

Oracle = Callable[[Tensor, Tensor], Tensor]


def irm(stems: Tensor, mixture: Tensor) -> Tensor:
    """Return estimates by the ideal ratio mask: the mixture's spectrogram times |S_j| / Σ_i |S_i|.

    Args:
        stems: [S, C, T].
        mixture: [C, T].

    Returns:
        [S, C, T].
    """

    def mask(stems: Tensor, mixture: Tensor) -> Tensor:
        size = stems.abs()
        return mixture * size / (size.sum(0) + _TINY)

    return _in_pieces(mask, stems, mixture)


def mixphase(stems: Tensor, mixture: Tensor) -> Tensor:
    """Return estimates with the magnitudes of the stems and the phases of the mixture.

    Args:
        stems: [S, C, T].
        mixture: [C, T].

    Returns:
        [S, C, T].
    """

    def combine(stems: Tensor, mixture: Tensor) -> Tensor:
        return torch.polar(stems.abs(), mixture.angle().expand_as(stems))

    return _in_pieces(combine, stems, mixture)


ORACLES: Mapping[str, Oracle] = {"irm": irm, "mixphase": mixphase}


def _in_pieces(work: Oracle, stems: Tensor, mixture: Tensor) -> Tensor:
    """Apply `work` to the spectra of stems [S, C, T] and mixture [C, T], some frames at a time.

    `work` gets spectra [S, C, F, frames] and [C, F, frames]. The result [S, C, T] is the same as with all
    frames at once.
    """
    samples = mixture.shape[-1]
    result = torch.empty_like(stems)
    step = FRAMES * HOP
    for start in range(0, samples, step):
        # Frames begin at multiples of the hop. With SIZE more samples on both sides a piece has all frames
        # that overlap it.
        first, last = start - SIZE, min(start + step, samples + SIZE) + SIZE
        estimate = _synthesise(work(_analyse(_cut(stems, first, last)), _analyse(_cut(mixture, first, last))))
        result[..., start : start + step] = estimate[..., SIZE : SIZE + min(step, samples - start)]
    return result


def _cut(signals: Tensor, first: int, last: int) -> Tensor:
    """Return samples `first` to `last` of [..., T], zeros outside the signal."""
    before, behind = max(0, -first), max(0, last - signals.shape[-1])
    return pad(signals[..., max(0, first) : last], (before, behind))


def _window(like: Tensor) -> Tensor:
    return torch.hann_window(SIZE, dtype=like.real.dtype)


def _analyse(signals: Tensor) -> Tensor:
    """Return the STFT of [..., n], complex [..., F, frames]."""
    spectra = torch.stft(
        signals.flatten(0, -2), SIZE, HOP, window=_window(signals), center=False, return_complex=True
    )  # [B, F, frames]
    return spectra.view(*signals.shape[:-1], *spectra.shape[1:])  # [..., F, frames]


def _synthesise(spectra: Tensor) -> Tensor:
    """Return the inverse STFT of [..., F, frames], [..., n]: Σ windowed frames / Σ squared windows.

    Not `torch.istft`: it refuses windows that add up to zero, as they do at the ends of a piece.
    """
    window = _window(spectra)
    frames = torch.fft.irfft(spectra, SIZE, dim=-2) * window[:, None]  # [..., SIZE, frames]
    total = _overlap_add(frames.flatten(0, -3))  # [B, n]
    weight = _overlap_add(window.square()[None, :, None].expand(1, -1, frames.shape[-1]))  # [1, n]
    return (total / weight.clamp_min(_TINY)).view(*frames.shape[:-2], -1)  # [..., n]


def _overlap_add(frames: Tensor) -> Tensor:
    """Add up frames [B, SIZE, frames] at multiples of the hop, [B, n]."""
    samples = SIZE + HOP * (frames.shape[-1] - 1)
    return fold(frames, (1, samples), (1, SIZE), stride=(1, HOP)).flatten(1)  # [B, 1, 1, n] -> [B, n]

"""What masks of a spectrogram could reach at best, made of the true stems: upper limits for a model."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import fold, pad

# The transform of the oracles of SiSEC 2018.
SIZE, HOP = 4096, 1024
FRAMES = 512  # treated at a time
_TINY = 1e-10

Oracle = Callable[[Tensor, Tensor], Tensor]


def irm(stems: Tensor, mixture: Tensor) -> Tensor:
    """Ideal ratio mask: the mixture times |S_j| / Σ|S_i|.

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
    """The magnitudes of the stems with the phases of the mixture.

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
    """`work` on spectra [S, C, F, frames] and [C, F, frames], some frames at a time, as if on all at once."""
    samples = mixture.shape[-1]
    result = torch.empty_like(stems)
    step = FRAMES * HOP
    for start in range(0, samples, step):
        # Frames lie at multiples of the hop, so a piece with SIZE more samples on both sides has all frames
        # that reach into it.
        first, last = start - SIZE, min(start + step, samples + SIZE) + SIZE
        estimate = _synthesise(work(_analyse(_cut(stems, first, last)), _analyse(_cut(mixture, first, last))))
        result[..., start : start + step] = estimate[..., SIZE : SIZE + min(step, samples - start)]
    return result


def _cut(signals: Tensor, first: int, last: int) -> Tensor:
    """Samples `first` to `last` of [..., T], zeros where there are none."""
    before, behind = max(0, -first), max(0, last - signals.shape[-1])
    return pad(signals[..., max(0, first) : last], (before, behind))


def _window(like: Tensor) -> Tensor:
    return torch.hann_window(SIZE, dtype=like.real.dtype)


def _analyse(signals: Tensor) -> Tensor:
    """[..., n] to [..., F, frames]."""
    spectra = torch.stft(
        signals.flatten(0, -2), SIZE, HOP, window=_window(signals), center=False, return_complex=True
    )
    return spectra.view(*signals.shape[:-1], *spectra.shape[1:])


def _synthesise(spectra: Tensor) -> Tensor:
    """[..., F, frames] to [..., n]: overlap-add of windowed frames over the squared windows' sum.

    torch.istft would divide by what the windows add up to at the ends, which is nothing.
    """
    window = _window(spectra)
    frames = torch.fft.irfft(spectra, SIZE, dim=-2) * window[:, None]
    total = _overlap_add(frames.flatten(0, -3))
    weight = _overlap_add(window.square()[None, :, None].expand(1, -1, frames.shape[-1]))
    return (total / weight.clamp_min(_TINY)).view(*frames.shape[:-2], -1)


def _overlap_add(frames: Tensor) -> Tensor:
    """[B, SIZE, frames] to [B, n]."""
    samples = SIZE + HOP * (frames.shape[-1] - 1)
    return fold(frames, (1, samples), (1, SIZE), stride=(1, HOP)).flatten(1)

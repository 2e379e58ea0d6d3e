"""Metrics of an estimated stem against its reference, as batched functions on tensors.

Different metrics are not comparable: `usdr` is one ratio over the whole song, `median_sdr` the median of the
same ratio over seconds, `si_sdr` allows a gain, and the ISR, SIR and SAR of `bsseval` allow filters.

Energies are summed in double precision. An undefined score is NaN; `nan_median` and `nan_mean` ignore NaN.
`table` has all metrics by name, with those of `community` and `bsseval`.
"""

import torch
from torch import Tensor

# ε, added to both energies so that silence has a score; 1e-7 as in the Music Demixing Challenge.
EPSILON = 1e-7


def energy(signal: Tensor) -> Tensor:
    """Return the sum of squares over channels and time.

    Args:
        signal: [..., C, T].

    Returns:
        [...], float64.
    """
    return signal.square().sum(dim=(-2, -1), dtype=torch.float64)


def decibels(ratio: Tensor) -> Tensor:
    """Return 10·log10 of a ratio of energies; a ratio of 0 gives −∞, 0/0 gives NaN."""
    return 10 * torch.log10(ratio)


def usdr(reference: Tensor, estimate: Tensor, *, epsilon: float = EPSILON) -> Tensor:
    """Return the signal-to-distortion ratio of whole songs: 10·log10((Σs² + ε) / (Σ(s − ŝ)² + ε)).

    The metric of the Music Demixing Challenge 2021 (Mitsufuji et al., 2022), which averages it over songs.
    Also known as nSDR (Défossez, "Hybrid Spectrogram and Waveform Source Separation", 2021) and uSDR (Luo
    and Yu, "Music Source Separation with Band-split RNN", 2022).

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].
        epsilon: added to both energies.

    Returns:
        [...] in dB, float64. A silent reference has a score too, though it says little.
    """
    return decibels((energy(reference) + epsilon) / (energy(reference - estimate) + epsilon))


def si_sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the scale-invariant SDR: 10·log10(|α·s|² / |α·s − ŝ|²), α = <ŝ, s> / |s|².

    With this α the error is orthogonal to s. There is one α for all channels, and no mean is removed (Le
    Roux et al., "SDR – half-baked or well done?", 2019).

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].

    Returns:
        [...] in dB, float64; NaN for a silent reference or estimate, ∞ for a perfect one.
    """
    product = (reference * estimate).sum(dim=(-2, -1), dtype=torch.float64)  # [...]
    alpha = product / energy(reference)
    target = alpha[..., None, None] * reference.double()  # [..., C, T]
    return decibels(energy(target) / energy(target - estimate))


def frame_sdr(reference: Tensor, estimate: Tensor, frame: int) -> Tensor:
    """Return `usdr` of each full frame, or of the whole signal if it is shorter than a frame.

    Frames whose reference is digital silence are NaN, as in SiSEC 2018: with ε their score would be tens of
    dB below zero.

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].
        frame: length in samples.

    Returns:
        [..., frames] in dB, float64; frames = max(1, T // frame).
    """
    frame = min(frame, reference.shape[-1])
    whole = reference.shape[-1] // frame * frame

    def framed(signal: Tensor) -> Tensor:
        pieces: Tensor = signal[..., :whole].unflatten(-1, (-1, frame))  # [..., C, frames, frame]
        return pieces.transpose(-3, -2)  # [..., frames, C, frame]

    reference, estimate = framed(reference), framed(estimate)
    silent = reference.abs().amax(dim=(-2, -1)) == 0  # [..., frames]
    return usdr(reference, estimate).masked_fill(silent, torch.nan)


def median_sdr(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Return the median over a song's seconds of their plain SDR, which allows no filter.

    The "median SDR" of Porcelli, "Evaluation of the impact of the Multi-Head Attention algorithm in Music
    Source Separation" (2024), section 4.3; over songs it takes the median again.

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].
        sample_rate: in Hz, which is also the length of a frame in samples.

    Returns:
        [...] in dB, float64; NaN if every second of the reference is silent.
    """
    return nan_median(frame_sdr(reference, estimate, sample_rate), dim=-1)


def nan_median(values: Tensor, dim: int = -1) -> Tensor:
    """Return the median of the values that aren't NaN; NaN if there are none.

    Of an even number it is the mean of the middle two, where `torch.nanmedian` takes the lower one.

    Args:
        values: a tensor of any shape; infinities count.
        dim: the dimension that is reduced.
    """
    if values.shape[dim] == 0:
        return values.new_full(values.sum(dim).shape, torch.nan)
    ordered = values.sort(dim).values  # NaN is sorted to the end
    count = (~values.isnan()).sum(dim, keepdim=True)
    lower, upper = ((count - 1) // 2).clamp_min(0), (count // 2).clamp_max(values.shape[dim] - 1)
    low, high = ordered.gather(dim, lower), ordered.gather(dim, upper)
    # A sum of halves: low + (high − low) / 2 would be NaN for equal infinities.
    middle = low / 2 + high / 2
    return middle.masked_fill(count == 0, torch.nan).squeeze(dim)


def nan_mean(values: Tensor, dim: int = -1) -> Tensor:
    """Return the mean of the values that aren't NaN; NaN if there are none."""
    return values.nanmean(dim)

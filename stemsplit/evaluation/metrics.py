"""How near an estimated stem comes to the reference, as batched functions on tensors.

The names matter, because the numbers are not comparable: `usdr` is one ratio over the whole song,
`median_sdr` the median of the same ratio over seconds, `si_sdr` forgives a gain, and the ISR, SIR and SAR of
`bsseval` know a filter.

Energies are summed in double precision. What has no value is NaN; `nan_median` and `nan_mean` leave NaN out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

# Added to both energies, so that silence has a value (the Music Demixing Challenge's 1e-7).
EPSILON = 1e-7


def energy(signal: Tensor) -> Tensor:
    """Sum of squares over channels and time.

    Args:
        signal: [..., C, T].

    Returns:
        [...], float64.
    """
    return signal.square().sum(dim=(-2, -1), dtype=torch.float64)


def decibels(ratio: Tensor) -> Tensor:
    """10·log10 of a ratio of energies; a ratio of 0 is −∞, of 0/0 NaN."""
    return 10 * torch.log10(ratio)


def usdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Signal-to-distortion ratio of a whole song, also known as nSDR: (Σs² + ε) / (Σ(s − ŝ)² + ε).

    The definition of the Music Demixing Challenge 2021, which averages it over songs (nSDR in "Hybrid
    Spectrogram and Waveform Source Separation", uSDR in "Music Source Separation with Band-split RNN").

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].

    Returns:
        [...] in dB, float64. A silent reference has a value, though it says little.
    """
    return decibels((energy(reference) + EPSILON) / (energy(reference - estimate) + EPSILON))


def si_sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Scale-invariant SDR: |α·s|² / |α·s − ŝ|² with the α that makes the error orthogonal to s.

    One α for all channels, no mean removed (Le Roux et al., "SDR – half-baked or well done?", 2019).

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].

    Returns:
        [...] in dB, float64; NaN for a silent reference or estimate, ∞ for a perfect one.
    """
    product = (reference * estimate).sum(dim=(-2, -1), dtype=torch.float64)
    alpha = product / energy(reference)
    target = alpha[..., None, None] * reference.double()
    return decibels(energy(target) / energy(target - estimate))


def frame_sdr(reference: Tensor, estimate: Tensor, frame: int) -> Tensor:
    """`usdr` of each of the consecutive frames that fit; of everything, if it is shorter than one.

    Frames whose reference is digital silence are NaN, as in SiSEC 2018: with ε they would count as tens of
    decibels below zero.

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].
        frame: length in samples.

    Returns:
        [..., frames] in dB, float64; frames = max(1, T // frame).
    """
    frame = min(frame, reference.shape[-1])
    whole = reference.shape[-1] // frame * frame
    # [..., C, frames, frame] -> [..., frames, C, frame]
    pieces, guesses = (
        x[..., :whole].unflatten(-1, (-1, frame)).transpose(-3, -2) for x in (reference, estimate)
    )
    silent = pieces.abs().amax(dim=(-2, -1)) == 0
    return usdr(pieces, guesses).masked_fill(silent, torch.nan)


def median_sdr(reference: Tensor, estimate: Tensor, sample_rate: int) -> Tensor:
    """Median over the song's seconds of their plain SDR, without any filter allowed.

    The "median SDR" of Porcelli, "Evaluation of the impact of the Multi-Head Attention algorithm in Music
    Source Separation" (2024), section 4.3, which takes the median over songs of it.

    Args:
        reference: [..., C, T].
        estimate: [..., C, T].
        sample_rate: in Hz, the samples of a frame.

    Returns:
        [...] in dB, float64; NaN if every second of the reference is silent.
    """
    return nan_median(frame_sdr(reference, estimate, sample_rate), dim=-1)


def nan_median(values: Tensor, dim: int = -1) -> Tensor:
    """The median of what is not NaN, the mean of the middle two if there are two; NaN of nothing.

    `torch.nanmedian` takes the lower of the two.

    Args:
        values: of any shape; infinities count.
        dim: disappears.
    """
    if values.shape[dim] == 0:
        return values.new_full(values.sum(dim).shape, torch.nan)
    ordered = values.sort(dim).values  # NaN is sorted to the end
    count = (~values.isnan()).sum(dim, keepdim=True)
    lower, upper = ((count - 1) // 2).clamp_min(0), (count // 2).clamp_max(values.shape[dim] - 1)
    low, high = ordered.gather(dim, lower), ordered.gather(dim, upper)
    # equal infinities have no difference, so the mean is taken as a sum of halves
    middle = low / 2 + high / 2
    return middle.masked_fill(count == 0, torch.nan).squeeze(dim)


def nan_mean(values: Tensor, dim: int = -1) -> Tensor:
    """The mean of what is not NaN; NaN of nothing."""
    return values.nanmean(dim)


OverSongs = Literal["mean", "median"]
OVER_SONGS: Mapping[OverSongs, Callable[..., Tensor]] = {"mean": nan_mean, "median": nan_median}


@dataclass(frozen=True)
class Metric:
    """A metric as scores, tables and validations have it; all are in dB.

    Attributes:
        title: as the papers write it.
        over_songs: how it was defined over songs: the mean in the Music Demixing Challenge, the median in
            SiSEC.
        function: of references and estimates [..., C, T] and their rate in Hz; None for those of BSS Eval,
            which takes all stems together.
        bss: its name among the `bsseval.Scores`.
        validation: the names by which training's validation has it, and how it takes each over songs.
    """

    title: str
    over_songs: OverSongs
    function: Callable[[Tensor, Tensor, int], Tensor] | None = None
    bss: str | None = None
    validation: Mapping[str, OverSongs] = field(default_factory=dict)


# In the order of the tables' columns.
METRICS: Mapping[str, Metric] = {
    "usdr": Metric(
        "uSDR",
        "mean",
        lambda reference, estimate, _: usdr(reference, estimate),
        validation={"usdr": "mean", "usdr_median": "median"},
    ),
    "csdr": Metric("cSDR", "median", bss="sdr"),
    "isr": Metric("ISR", "median", bss="isr"),
    "sir": Metric("SIR", "median", bss="sir"),
    "sar": Metric("SAR", "median", bss="sar"),
    "si_sdr": Metric("SI-SDR", "mean", lambda reference, estimate, _: si_sdr(reference, estimate)),
    "median_sdr": Metric("median SDR", "median", median_sdr, validation={"median_sdr": "median"}),
}

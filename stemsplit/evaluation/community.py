"""The metrics by which the community chooses models, under the names and with the constants of msst 0.1.0.

Each takes a whole track: a reference and an estimate [C, T]. Spectrograms are made in blocks, and sums are in
double precision; a metric of a track that is too short for its longest transform is NaN. `table` has the
metrics' names, and a paragraph on each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log1p

import torch
from torch import Tensor

from stemsplit.evaluation.metrics import decibels, usdr
from stemsplit.evaluation.spectra import Stft, a_weighted, hearing_response, mel, mel_filters

TOP_DB = 80.0  # what is further below the loudest bin of the whole track counts as silence
_FLOOR = 1e-8  # of a power, in auraloss


def sdr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return `metrics.usdr` with an ε of 1e-8, in dB."""
    return usdr(reference, estimate, epsilon=1e-8)


def k_sdr(reference: Tensor, estimate: Tensor, bound: float = 10.0) -> Tensor:
    """Return the SDR, bounded to ±10 dB and on a logarithmic scale from 0 to 100."""
    bounded = sdr(reference, estimate).clamp(1e-6 - bound, bound)
    return 100 * torch.log1p(bounded + bound) / log1p(2 * bound)


def l1_freq(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return 100 / (1 + 10·mean|difference of magnitudes|), by an STFT without window."""
    stft = Stft(2048, 1024, "none")
    if not stft.fits(reference.shape[-1]):
        return _undefined()
    total, count = _zero(), 0
    for x, y in _magnitudes(stft, reference, estimate):
        total += _sum((x - y).abs())
        count += x.numel()
    return 100 / (1 + 10 * total / count)


# ---------------------------------------------------------------- auraloss


def aura_stft(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return 100 / (1 + 10·loss) for the STFT loss of auraloss (Yamamoto et al., 2019)."""
    stft = Stft(1024, 256)
    if not stft.fits(reference.shape[-1]):
        return _undefined()
    return 100 / (1 + 10 * _stft_loss(_magnitudes(stft, reference, estimate, _FLOOR)))


def aura_mrstft(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return 100 / (1 + 10·loss) for the mean of three STFT losses over 128 mel, after A-weighting."""
    stfts = [Stft(size, size // 4) for size in (1024, 2048, 4096)]
    if not stfts[-1].fits(reference.shape[-1]):
        return _undefined()
    reference, estimate = a_weighted(reference), a_weighted(estimate)
    losses = []
    for stft in stfts:
        filters = mel_filters(128, stft.n_fft)
        pairs = _magnitudes(stft, reference, estimate, _FLOOR)
        losses.append(_stft_loss((mel(filters, x), mel(filters, y)) for x, y in pairs))
    return 100 / (1 + 10 * torch.stack(losses).mean())


def _stft_loss(pairs: Iterator[tuple[Tensor, Tensor]]) -> Tensor:
    """Return spectral convergence, relative to the estimate, plus the mean difference of logarithms."""
    error, power, logs, count = _zero(), _zero(), _zero(), 0
    for x, y in pairs:
        error += _sum((y - x).square())
        power += _sum(y.square())
        logs += _sum((x.log() - y.log()).abs())
        count += x.numel()
    return (error / power).sqrt() + logs / count


# ---------------------------------------------------------------- log-WMSE


def log_wmse(reference: Tensor, estimate: Tensor, mixture: Tensor) -> Tensor:
    """Return −4·ln(E / M + 1e-8), averaged over channels.

    E is the energy of the error and M that of the mixture, both weighted by the sensitivity of hearing
    (`torch-log-wmse` 1.1.0).
    """
    samples = reference.shape[-1]
    error = heard_energy(estimate.float() - reference.float(), torch.float64) / samples
    level = heard_energy(mixture.float(), torch.float64) / samples
    return (-4 * (error / level.clamp_min(1e-16) + 1e-8).log()).mean()


def heard_energy(signal: Tensor, dtype: torch.dtype | None = None, size: int = 1 << 17) -> Tensor:
    """Return the energy of a signal [..., T] after the filter of hearing, ringing included, [...].

    The filter is applied by overlap and add, in transforms of `size` samples. The squares are summed in
    `dtype`, or in that of the signal.
    """
    response, ringing = hearing_response(size).to(signal.device), 3999
    step = size - ringing
    total = torch.zeros(signal.shape[:-1], dtype=dtype or signal.dtype, device=signal.device)
    tail = signal.new_zeros(*signal.shape[:-1], ringing)
    for piece in signal.split(step, -1):
        filtered = torch.fft.irfft(torch.fft.rfft(piece, size) * response, size)
        filtered[..., :ringing] += tail
        whole, tail = filtered.split([step, ringing], -1)
        total = total + whole.square().sum(-1, dtype=dtype)
    return total + tail.square().sum(-1, dtype=dtype)


# ---------------------------------------------------------------- L1 SNR


def l1_snr(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the ratio of mean magnitudes in dB: half of the samples, half of the spectrograms.

    The spectrograms' part is the mean over three transforms of the ratios of real and imaginary parts. From
    the samples' part up to the difference of levels is subtracted, if the estimate is too quiet
    (Watcharasupat et al., "A Generalized Bandsplit Neural Network for Cinematic Audio Source Separation",
    2023, and "Separate This, and All of these Things Around It", 2025; `MultiL1SNRDBLoss` of torch-l1-snr). A
    track of under 512 samples has the samples' part only.
    """
    reference, estimate = reference.double(), estimate.double()
    samples = reference.shape[-1]
    in_time = l1_ratio((reference - estimate).abs().mean(), reference.abs().mean())
    stfts = [Stft(size, size // 4, "unit") for size in (512, 1024, 2048)]
    usable = [stft for stft in stfts if stft.fits(samples) and samples >= 512]
    in_frequency = torch.stack([_complex_ratio(stft, reference, estimate) for stft in usable] or [in_time])
    return (in_time - _too_quiet(reference, estimate)) / 2 + in_frequency.mean() / 2


def l1_ratio(error: Tensor, signal: Tensor) -> Tensor:
    """Return the ratio of mean magnitudes, [...] in dB."""
    return decibels((signal + 1e-3) / (error + 1e-3))


def _complex_ratio(stft: Stft, reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the sum of the ratios of the real parts and of the imaginary parts, in dB."""
    error, signal, count = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64), 0
    for x, y in zip(stft.blocks(reference), stft.blocks(estimate), strict=True):
        error += torch.view_as_real(x - y).abs().sum((0, 1, 2), dtype=torch.float64)
        signal += torch.view_as_real(x).abs().sum((0, 1, 2), dtype=torch.float64)
        count += x.numel()
    return l1_ratio(error / count, signal / count).sum()


def _too_quiet(reference: Tensor, estimate: Tensor) -> Tensor:
    """Return the difference of levels in dB, weighted by 0.1, and by up to 1 if the estimate is quieter."""
    true, found = (decibels(x.square().mean() + 1e-8) for x in (reference, estimate))
    least, difference = -60.0, (found - true).abs()
    quieter = true > found.clamp_min(least)
    weight = 0.1 + 0.9 * quieter * (difference / (true - least).clamp_min(1e-6)).clamp(0, 1)
    return weight * difference


# ---------------------------------------------------------------- bleed and fullness


@dataclass(frozen=True)
class Bleed:
    """Two scores from 0 to 100 of where a spectrogram is too loud, and of where it is too quiet.

    Attributes:
        bleedless: 100 / (1 + mean excess in dB of the bins that are too loud).
        fullness: 100 / (1 + mean lack in dB of the bins that are too quiet).
    """

    bleedless: Tensor
    fullness: Tensor


def bleed(reference: Tensor, estimate: Tensor, sizes: Sequence[int] = (4096,)) -> Bleed:
    """Compare mel spectrograms in dB, with transforms of some sizes, and average the scores.

    Levels end 80 dB below the loudest bin of the track, so that each spectrogram is made twice.
    """
    scores = torch.stack([_bleed(reference, estimate, Stft(n, n // 4, "hann", "constant")) for n in sizes])
    return Bleed(*scores.mean(0))


def _bleed(reference: Tensor, estimate: Tensor, stft: Stft) -> Tensor:
    """Return bleedless and fullness with one transform, [2]."""
    filters = mel_filters(stft.n_fft // 8, stft.n_fft)
    floors = [
        max(float(_level(filters, block).max()) for block in stft.blocks(signal)) - TOP_DB
        for signal in (reference, estimate)
    ]
    totals, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    for pair in zip(stft.blocks(reference), stft.blocks(estimate), strict=True):
        x, y = (_level(filters, block).clamp_min(floor) for block, floor in zip(pair, floors, strict=True))
        for i, excess in enumerate((y - x, x - y)):
            totals[i] += _sum(excess.clamp_min(0))
            counts[i] += (excess > 0).sum()
    return 100 / (1 + totals / counts.clamp_min(1))


def _level(filters: Tensor, spectrogram: Tensor) -> Tensor:
    """Return the mel bins of a spectrogram [C, F, frames] in dB, [C, M, frames]."""
    return level_db(mel(filters, spectrogram.abs()))


def level_db(magnitudes: Tensor) -> Tensor:
    """Return magnitudes in dB, at least −200."""
    return 20 * magnitudes.clamp_min(1e-10).log10()


# ---------------------------------------------------------------- sums


def _magnitudes(
    stft: Stft, reference: Tensor, estimate: Tensor, floor: float = 0.0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the magnitudes [C, F, frames] of both, of powers of at least `floor`."""
    for pair in zip(stft.blocks(reference), stft.blocks(estimate), strict=True):
        x, y = (torch.view_as_real(block).square().sum(-1).clamp_min(floor).sqrt() for block in pair)
        yield x, y


def _sum(values: Tensor) -> Tensor:
    return values.sum(dtype=torch.float64)


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


def _undefined() -> Tensor:
    return torch.tensor(torch.nan, dtype=torch.float64)

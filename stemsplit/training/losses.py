"""Loss terms: distances of estimated stems from the targets, one number per stem.

`B` batch, `S` stems, `C` channels, `T` samples, `F` bins. A term takes the estimate and the target as
`Signals` and returns [S]; `criterion` sums the terms by their factors and the stems by their weights. MAE is
the mean absolute error, MSE the mean squared error. `LOSSES` has all terms by name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from stemsplit.evaluation.community import TOP_DB, heard_energy, l1_ratio, level_db
from stemsplit.evaluation.spectra import mel_filters
from stemsplit.models.blocks.stft import stft
from stemsplit.training.learning import LossConfig

# Keeps logarithms and quotients of silence finite; 80 dB below a full-scale square wave.
EPSILON = 1e-8
# Windows of l1_snr_stft in samples.
L1_SNR_SIZES = (512, 1024, 2048)


@dataclass(frozen=True)
class Signals:
    """Stems as audio and, if a term needs them, as spectrograms.

    Attributes:
        audio: [B, S, C, T].
        spectra: complex [B, S, C, F, frames]; None if no term needs them.
        mix: of the targets, [B, C, T]; None takes the sum of the stems.
    """

    audio: Tensor
    spectra: Tensor | None = None
    mix: Tensor | None = None

    @property
    def spectrogram(self) -> Tensor:
        """Return the spectra, complex [B, S, C, F, frames]; there must be some."""
        if self.spectra is None:
            raise ValueError("this loss needs spectra")
        return self.spectra


Term = Callable[[Signals, Signals], Tensor]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Loss:
    """Loss term that a configuration may name.

    Attributes:
        make: returns the term for a configuration.
        spectral: true if the term needs spectra.
        about: what it is, the first line of its docstring.
    """

    make: Callable[[LossConfig], Term]
    spectral: bool = False
    about: str = ""


LOSSES: dict[str, Loss] = {}


def loss(
    name: str, *, spectral: bool = False, settings: Callable[[LossConfig], tuple[Any, ...]] | None = None
) -> Callable[[F], F]:
    """Register a term in `LOSSES`; with `settings`, register a function that makes it from these settings."""

    def enter(function: F) -> F:
        def make(config: LossConfig) -> Term:
            made: Term = function if settings is None else function(*settings(config))
            return made

        about, *_ = (function.__doc__ or "").splitlines() or [""]
        LOSSES[name] = Loss(make, spectral, about)
        return function

    return enter


@loss("l1")
def l1(estimate: Signals, target: Signals) -> Tensor:
    """Return the MAE of the samples, [S]."""
    return _per_stem((estimate.audio - target.audio).abs())


@loss("mse")
def mse(estimate: Signals, target: Signals) -> Tensor:
    """Return the MSE of the samples, [S]."""
    return _per_stem((estimate.audio - target.audio).square())


@loss("frequency_time", spectral=True)
def frequency_time(estimate: Signals, target: Signals) -> Tensor:
    """Return MAE of real parts + MAE of imaginary parts + MAE of samples, [S] (BSRNN, equation 1)."""
    difference = estimate.spectrogram - target.spectrogram
    return _per_stem(difference.real.abs()) + _per_stem(difference.imag.abs()) + l1(estimate, target)


@loss("magnitude", spectral=True)
def magnitude(estimate: Signals, target: Signals) -> Tensor:
    """Return the MAE of magnitudes, [S]."""
    return _per_stem((estimate.spectrogram.abs() - target.spectrogram.abs()).abs())


@loss("phase", spectral=True)
def phase(estimate: Signals, target: Signals) -> Tensor:
    """Return the MAE of phases in (−π, π], [S]; the difference isn't wrapped."""
    return _per_stem((estimate.spectrogram.angle() - target.spectrogram.angle()).abs())


@loss("si_sdr")
def negative_si_sdr(estimate: Signals, target: Signals) -> Tensor:
    """Return the mean negative SI-SDR, [S] in dB (Le Roux et al. 2019, "SDR: half-baked or well done?").

    −10·log₁₀(|α·s|² / |α·s − ŝ|²) with α = ŝᵀs / |s|², over all channels of an item together.
    """
    s, estimated = target.audio.flatten(2), estimate.audio.flatten(2)  # [B, S, C·T]
    alpha = (estimated * s).sum(-1, keepdim=True) / (s.square().sum(-1, keepdim=True) + EPSILON)  # [B, S, 1]
    projected = alpha * s
    signal, error = projected.square().sum(-1), (projected - estimated).square().sum(-1)  # [B, S]
    return -10 * torch.log10((signal + EPSILON) / (error + EPSILON)).mean(0)


@loss("multi_stft", settings=lambda config: (config.resolutions, config.resolution_hop))
def multi_stft(resolutions: Sequence[int], hop: int) -> Term:
    """Return a term: the complex MAE of the STFT, summed over resolutions, [S].

    The multi-resolution loss of BS-RoFormer (Lu et al. 2023).

    Args:
        resolutions: STFT windows in samples.
        hop: in samples, the same for all windows.
    """

    def term(estimate: Signals, target: Signals) -> Tensor:
        # the STFT is linear: the difference of two STFTs is one STFT of the difference
        difference = estimate.audio - target.audio
        distances = [_per_stem(stft(difference, size, hop).abs()) for size in resolutions]
        return torch.stack(distances).sum(0)  # [resolutions, S] → [S]

    return term


@loss("spectral_convergence", settings=lambda config: (config.resolutions,))
def spectral_convergence(resolutions: Sequence[int]) -> Term:
    """Return a term: spectral convergence + log magnitude MAE, summed over resolutions, [S].

    ‖|S| − |Ŝ|‖ / ‖|S|‖ + mean |log |S| − log |Ŝ|| (Yamamoto et al. 2020, "Parallel WaveGAN", section 3).
    The norms are those of a micro-batch, so that `fit.accumulate` and `fit.devices` change the result.

    Args:
        resolutions: STFT windows in samples; the hop is a quarter of each.
    """

    def term(estimate: Signals, target: Signals) -> Tensor:
        distances = [_convergence(estimate.audio, target.audio, size) for size in resolutions]
        return torch.stack(distances).sum(0)  # [resolutions, S] → [S]

    return term


def _convergence(estimate: Tensor, target: Tensor, size: int) -> Tensor:
    """Return the terms of one STFT size for [B, S, C, T], [S]."""
    # magnitudes [B, S, C, F, frames], bounded away from 0 for the logarithm
    s, estimated = (
        stft(audio, size, size // 4).abs().clamp(min=EPSILON**0.5) for audio in (target, estimate)
    )
    difference = (s - estimated).square().sum((0, 2, 3, 4)).clamp(min=EPSILON).sqrt()  # [S]
    return difference / s.square().sum((0, 2, 3, 4)).sqrt() + _per_stem((s.log() - estimated.log()).abs())


def _per_stem(distance: Tensor) -> Tensor:
    """Return the mean of [B, S, ...] over everything but the stems, [S]."""
    return distance.transpose(0, 1).flatten(1).mean(1)  # [B, S, ...] → [S, B·...] → [S]


# ---------------------------------------------------------------- noisy targets


@loss("masked_mse", settings=lambda config: (config.quantile,))
def masked_mse(quantile: float) -> Term:
    """Return a term: the MSE of a stem without the samples of a micro-batch with the largest errors, [S].

    It is for songs with mislabelled or bleeding stems (Fabbro et al. 2024, "The Sound Demixing Challenge 2023
    – Music Demixing Track"). It sees one micro-batch at a time, a device's part of the batch divided by
    `fit.accumulate`, so that both change what is left out; of a single sample nothing is.

    Args:
        quantile: of the errors in a micro-batch; larger ones are left out.
    """

    def term(estimate: Signals, target: Signals) -> Tensor:
        errors = (estimate.audio - target.audio).square().mean((2, 3))  # [B, S]
        kept = errors <= errors.detach().quantile(quantile, dim=0)  # [B, S]
        return (errors * kept).sum(0) / kept.sum(0)

    return term


# ---------------------------------------------------------------- the community's metrics as losses


@loss("l1_snr")
def l1_snr(estimate: Signals, target: Signals) -> Tensor:
    """Return the mean negative ratio of mean magnitudes of the samples, [S] in dB.

    −10·log₁₀((mean|s| + ε) / (mean|s − ŝ| + ε)) with ε = 10⁻³ (Watcharasupat et al. 2023, "A Generalized
    Bandsplit Neural Network for Cinematic Audio Source Separation").
    """
    error = (target.audio - estimate.audio).abs().mean((2, 3))  # [B, S]
    return -l1_ratio(error, target.audio.abs().mean((2, 3))).mean(0)


@loss("l1_snr_stft")
def l1_snr_stft(estimate: Signals, target: Signals) -> Tensor:
    """Return l1_snr of the real parts plus that of the imaginary parts, mean of three STFTs, [S] in dB."""
    ratios = [_complex_ratio(estimate.audio, target.audio, size) for size in L1_SNR_SIZES]
    return -torch.stack(ratios).mean((0, 1))  # [3, B, S] → [S]


def _complex_ratio(estimate: Tensor, target: Tensor, size: int) -> Tensor:
    """Return the ratios of [B, S, C, T] by an STFT whose window has unit energy, [B, S]."""
    window = torch.hann_window(size, dtype=target.dtype, device=target.device)
    window = window / window.norm()
    error, signal = (
        torch.view_as_real(stft(x, size, size // 4, window=window)).abs().mean((2, 3, 4))  # [B, S, 2]
        for x in (target - estimate, target)
    )
    return l1_ratio(error, signal).sum(-1)


@loss("log_wmse")
def log_wmse(estimate: Signals, target: Signals) -> Tensor:
    """Return the negative of the metric log WMSE, [S].

    It is 4·ln(E / M + 10⁻⁸), averaged over batch and channels. E is the energy of the error and M that of the
    mixture, both weighted by the sensitivity of hearing.
    """
    mix = target.audio.sum(1) if target.mix is None else target.mix  # [B, C, T]
    level = heard_energy(mix)[:, None]  # [B, 1, C]
    error = heard_energy(estimate.audio - target.audio)  # [B, S, C]
    floor = 1e-16 * mix.shape[-1]
    return (4 * (error / level.clamp_min(floor) + 1e-8).log()).mean((0, 2))


@loss("bleedless")
def bleedless(estimate: Signals, target: Signals) -> Tensor:
    """Return the mean excess of the mel bins that are too loud, [S] in dB; the metric is 100 / (1 + it)."""
    return _mean_excess(*_levels(target, estimate))


@loss("fullness")
def fullness(estimate: Signals, target: Signals) -> Tensor:
    """Return the mean lack of the mel bins that are too quiet, [S] in dB; the metric is 100 / (1 + it)."""
    return _mean_excess(*reversed(_levels(target, estimate)))


def _mean_excess(quieter: Tensor, louder: Tensor) -> Tensor:
    """Return the mean of what is positive in the difference of levels [B, S, bins], [S]."""
    excess = (louder - quieter).clamp_min(0)
    counts = (excess > 0).sum(-1).clamp_min(1)  # [B, S]
    return (excess.sum(-1) / counts).mean(0)


def _levels(*signals: Signals, size: int = 4096) -> list[Tensor]:
    """Return the mel bins of signals in dB, down to 80 dB below their loudest, [B, S, C·M·frames]."""
    found = []
    for one in signals:
        padded = pad(one.audio, (size // 2, size // 2))
        magnitudes = stft(padded, size, size // 4, centred=False).abs()  # [B, S, C, F, frames]
        filters = mel_filters(size // 8, size).to(magnitudes).to_dense()  # [M, F]
        levels = level_db(filters @ magnitudes).flatten(2)  # [B, S, C, M, frames] → [B, S, C·M·frames]
        found.append(torch.maximum(levels, levels.detach().amax(-1, keepdim=True) - TOP_DB))
    return found

"""Loss terms: distances of estimated stems from the targets, one number per stem.

`B` batch, `S` stems, `C` channels, `T` samples, `F` bins. A term takes the estimate and the target as
`Signals` and returns [S]; `Criterion` sums the terms by their factors and the stems by their weights. MAE is
the mean absolute error, MSE the mean squared error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from stemsplit.models.blocks.stft import stft
from stemsplit.models.network import Network
from stemsplit.models.spectral import SpectralNetwork
from stemsplit.training.learning import LossConfig

# Keeps logarithms and quotients of silence finite; 80 dB below a full-scale square wave.
EPSILON = 1e-8


@dataclass(frozen=True)
class Signals:
    """Stems as audio and, if a term needs them, as spectrograms.

    Attributes:
        audio: [B, S, C, T].
        spectra: complex [B, S, C, F, frames]; None if no term needs them.
    """

    audio: Tensor
    spectra: Tensor | None = None

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
    """

    make: Callable[[LossConfig], Term]
    spectral: bool = False


LOSSES: dict[str, Loss] = {}


def loss(
    name: str, *, spectral: bool = False, settings: Callable[[LossConfig], tuple[Any, ...]] | None = None
) -> Callable[[F], F]:
    """Register a term in `LOSSES`; with `settings`, register a function that makes it from these settings."""

    def enter(function: F) -> F:
        def make(config: LossConfig) -> Term:
            made: Term = function if settings is None else function(*settings(config))
            return made

        LOSSES[name] = Loss(make, spectral)
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


# Distance of the masked mix's spectrogram from the target's, computed by networks that estimate masks.
MASK_ERROR: Final = "mask_error"


@runtime_checkable
class Masking(Protocol):
    """A network that computes the distance of its masks from the target without the inverse STFT."""

    def mask_error(self, mix: Tensor, target: Tensor) -> Tensor:
        """Return the distance [B, S] for a mix [B, C, T] and targets [B, S, C, T]."""


class Criterion:
    """Loss function of a training step.

    Spectral terms compare the spectrograms of a `SpectralNetwork` as it estimates them: the STFT of its audio
    would only have their consistent part. For other networks, they compare the STFT of the audio.

    Args:
        config: terms, weights and the penalty.
        stems: stems of the network.
    """

    def __init__(self, config: LossConfig, stems: Sequence[str]) -> None:
        self.config = config
        self.mask_factor = config.terms.get(MASK_ERROR, 0.0)
        named = {LOSSES[name]: factor for name, factor in config.terms.items() if name != MASK_ERROR}
        self.terms = {one.make(config): factor for one, factor in named.items()}
        self.weights = torch.tensor([config.weights.get(stem, 1.0) for stem in stems])
        self.spectral = any(one.spectral for one in named)

    def __call__(self, network: Network, mix: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch.

        Args:
            network: in training mode.
            mix: [B, C, T].
            target: [B, S, C, T].

        Returns:
            The loss [] with its gradient, and the unweighted loss of each stem [S] without.
        """
        per_stem = self._terms(network, mix, target) if self.terms else torch.zeros(())
        if self.mask_factor and isinstance(network, Masking):
            per_stem = per_stem + self.mask_factor * network.mask_error(mix, target).mean(0)  # [B, S] → [S]
        weights, svd = self.weights.to(mix.device), self.config.svd
        loss = (per_stem * weights).sum() / weights.sum()
        if svd.penalty:
            # singular values need fp32: autocast would multiply the matrices in half precision
            with torch.autocast(mix.device.type, enabled=False):
                loss = loss + svd.penalty * svd_penalty(
                    network, smallest=svd.smallest, rank=svd.rank, iterations=svd.iterations
                )
        return loss, per_stem.detach()

    def _terms(self, network: Network, mix: Tensor, target: Tensor) -> Tensor:
        """Return the sum of the terms that compare estimates, [S]."""
        estimate = self._estimate(network, mix)
        with torch.autocast(mix.device.type, enabled=False):
            reference = Signals(target, self._analyse(network, target) if self.spectral else None)
            terms = [factor * term(estimate, reference) for term, factor in self.terms.items()]
            return torch.stack(terms).sum(0)  # [terms, S] → [S]

    def _estimate(self, network: Network, mix: Tensor) -> Signals:
        if self.spectral and isinstance(network, SpectralNetwork):
            spectra = network.spectrograms(mix)  # [B, S, C, F, frames]
            audio = network.transform.synthesise(spectra, mix.shape[-1])  # [B, S, C, T]
            # a network may pad the mix to a length that suits it; the targets lack the frames of the padding
            return Signals(audio, spectra[..., : mix.shape[-1] // network.transform.hop + 1])
        audio = network.estimate(mix).float()  # [B, S, C, T]
        return Signals(audio, self._analyse(network, audio) if self.spectral else None)

    def _analyse(self, network: Network, audio: Tensor) -> Tensor:
        """Return the STFT of [B, S, C, T], complex [B, S, C, F, frames]."""
        if isinstance(network, SpectralNetwork):
            spectra: Tensor = network.transform.analyse(audio.flatten(0, 1))  # [B·S, C, F, frames]
            unflattened: Tensor = spectra.unflatten(0, audio.shape[:2])  # [B, S, C, F, frames]
            return unflattened
        return stft(audio, self.config.fft, self.config.hop)


def svd_penalty(network: nn.Module, *, smallest: int, rank: int, iterations: int) -> Tensor:
    """Return the sum of the squared largest singular values of the weights (Hybrid Demucs).

    The singular vectors u, v come from a randomised low-rank SVD (Halko et al. 2011) without a gradient; then
    σ = uᵀWv has the exact one, ∂σ/∂W = u·vᵀ.

    Args:
        network: any module. Weights are seen as matrices [out, everything else].
        smallest: number of elements below which a weight is ignored.
        rank: rank of the random sketch; larger is more exact.
        iterations: number of subspace iterations; more are more exact.

    Returns:
        [] with a gradient.
    """
    weights = [_matrix(module, weight) for module, weight in _weights(network) if weight.numel() >= smallest]
    values = [_largest_singular_value(weight, rank, iterations).square() for weight in weights]
    return torch.stack(values).sum() if values else torch.zeros(())


def _weights(network: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    """Return the trainable weights that are matrices when flattened, with their modules."""
    found = ((m, p) for m in network.modules() for p in m.parameters(recurse=False))
    return [(m, p) for m, p in found if p.requires_grad and p.dim() > 1 and prod(p.shape[1:]) > 1]


def _matrix(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a weight as [out, everything else]; a transposed convolution's output channels come second."""
    transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d))
    return (weight.transpose(0, 1) if transposed else weight).flatten(1)  # [out, everything else]


def _largest_singular_value(matrix: Tensor, rank: int, iterations: int) -> Tensor:
    """Return σ₁ of a matrix [m, n] with a gradient, []."""
    with torch.no_grad(), torch.autocast(matrix.device.type, enabled=False):
        u, s, v = torch.svd_lowrank(matrix.float(), min(rank, *matrix.shape), iterations)  # [m, r] [r] [n, r]
        first = s.argmax()
        left, right = u[:, first], v[:, first]  # [m], [n]
    return left @ matrix.float() @ right

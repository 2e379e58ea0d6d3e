"""What training minimises: distances of estimated stems from the true ones, one number per stem.

`B` batch, `S` stems, `C` channels, `T` samples, `F` bins. A term takes the estimate and the target as
`Signals` and returns [S]; `Criterion` adds terms up by their factors and stems by their weights.
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

# Keeps logarithms and quotients of silence finite; −80 dB of a full-scale square wave.
EPSILON = 1e-8


@dataclass(frozen=True)
class Signals:
    """Stems as audio and, where a term asks for them, as spectrograms.

    Attributes:
        audio: [B, S, C, T].
        spectra: complex [B, S, C, F, frames], None unless a term asks for them.
    """

    audio: Tensor
    spectra: Tensor | None = None

    @property
    def spectrogram(self) -> Tensor:
        """The spectra, which are there."""
        if self.spectra is None:
            raise ValueError("this loss needs spectra")
        return self.spectra


Term = Callable[[Signals, Signals], Tensor]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Loss:
    """A term that a configuration may name.

    Attributes:
        make: gives the term for the configuration.
        spectral: whether it asks for spectra.
    """

    make: Callable[[LossConfig], Term]
    spectral: bool = False


LOSSES: dict[str, Loss] = {}


def loss(
    name: str, *, spectral: bool = False, settings: Callable[[LossConfig], tuple[Any, ...]] | None = None
) -> Callable[[F], F]:
    """Enter a term into `LOSSES`; with `settings`, a function that makes the term of these."""

    def enter(function: F) -> F:
        def make(config: LossConfig) -> Term:
            made: Term = function if settings is None else function(*settings(config))
            return made

        LOSSES[name] = Loss(make, spectral)
        return function

    return enter


@loss("l1")
def l1(estimate: Signals, target: Signals) -> Tensor:
    """Mean absolute difference of samples, [S]."""
    return _per_stem((estimate.audio - target.audio).abs())


@loss("mse")
def mse(estimate: Signals, target: Signals) -> Tensor:
    """Mean squared difference of samples, [S]."""
    return _per_stem((estimate.audio - target.audio).square())


@loss("frequency_time", spectral=True)
def frequency_time(estimate: Signals, target: Signals) -> Tensor:
    """MAE of real parts + MAE of imaginary parts + MAE of samples, [S] (BSRNN, equation 1)."""
    difference = estimate.spectrogram - target.spectrogram
    return _per_stem(difference.real.abs()) + _per_stem(difference.imag.abs()) + l1(estimate, target)


@loss("magnitude", spectral=True)
def magnitude(estimate: Signals, target: Signals) -> Tensor:
    """MAE of magnitudes, [S]."""
    return _per_stem((estimate.spectrogram.abs() - target.spectrogram.abs()).abs())


@loss("phase", spectral=True)
def phase(estimate: Signals, target: Signals) -> Tensor:
    """MAE of phases in (−π, π], unwrapped nowhere, [S]."""
    return _per_stem((estimate.spectrogram.angle() - target.spectrogram.angle()).abs())


@loss("si_sdr")
def negative_si_sdr(estimate: Signals, target: Signals) -> Tensor:
    """Mean of −10·log10(|α·s|² / |α·s − ŝ|²), α = ŝᵀs / |s|² over all channels of an item, [S] in dB."""
    s, guess = target.audio.flatten(2), estimate.audio.flatten(2)
    alpha = (guess * s).sum(-1, keepdim=True) / (s.square().sum(-1, keepdim=True) + EPSILON)
    projected = alpha * s
    wanted, wrong = projected.square().sum(-1), (projected - guess).square().sum(-1)
    return -10 * torch.log10((wanted + EPSILON) / (wrong + EPSILON)).mean(0)


@loss("multi_stft", settings=lambda config: (config.resolutions, config.resolution_hop))
def multi_stft(resolutions: Sequence[int], hop: int) -> Term:
    """The sum over STFT sizes of the mean complex distance (BS-RoFormer's multi-resolution loss), [S].

    Args:
        resolutions: window lengths in samples.
        hop: in samples, the same for all.
    """

    def term(estimate: Signals, target: Signals) -> Tensor:
        # the STFT is linear: one of the difference does for both
        difference = estimate.audio - target.audio
        distances = [_per_stem(stft(difference, size, hop).abs()) for size in resolutions]
        return torch.stack(distances).sum(0)

    return term


@loss("spectral_convergence", settings=lambda config: (config.resolutions,))
def spectral_convergence(resolutions: Sequence[int]) -> Term:
    """The sum over STFT sizes of ‖|S| − |Ŝ|‖ / ‖|S|‖ + mean |log |S| − log |Ŝ|| (Parallel WaveGAN, III), [S].

    Args:
        resolutions: window lengths in samples; the hop is a quarter of each.
    """

    def term(estimate: Signals, target: Signals) -> Tensor:
        return torch.stack([_convergence(estimate.audio, target.audio, size) for size in resolutions]).sum(0)

    return term


def _convergence(estimate: Tensor, target: Tensor, size: int) -> Tensor:
    s, guess = (stft(audio, size, size // 4).abs().clamp(min=EPSILON**0.5) for audio in (target, estimate))
    difference = (s - guess).square().sum((0, 2, 3, 4)).clamp(min=EPSILON).sqrt()
    return difference / s.square().sum((0, 2, 3, 4)).sqrt() + _per_stem((s.log() - guess.log()).abs())


def _per_stem(distance: Tensor) -> Tensor:
    """[B, S, ...] to its mean over everything else, [S]."""
    return distance.transpose(0, 1).flatten(1).mean(1)


# The distance of the masked mix's spectrogram; networks that mask compute it themselves.
MASKS: Final = "mask_error"


@runtime_checkable
class Masking(Protocol):
    """A network that knows a short way from its masks to their distance from the truth."""

    def mask_error(self, mix: Tensor, target: Tensor) -> Tensor:
        """[B, C, T] and [B, S, C, T] to [B, S]."""


class Criterion:
    """What a training step minimises.

    A `SpectralNetwork` shows the terms on spectrograms its estimates as they are; after the inverse STFT and
    another STFT there would be their consistent part only. Of other networks the audio is analysed.

    Args:
        config: terms, weights and the penalty.
        stems: of the network.
    """

    def __init__(self, config: LossConfig, stems: Sequence[str]) -> None:
        self.config = config
        self.masks = config.terms.get(MASKS, 0.0)
        named = {LOSSES[name]: factor for name, factor in config.terms.items() if name != MASKS}
        self.terms = {one.make(config): factor for one, factor in named.items()}
        self.weights = torch.tensor([config.weights.get(stem, 1.0) for stem in stems])
        self.spectral = any(one.spectral for one in named)

    def __call__(self, network: Network, mix: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate and compare.

        Args:
            network: in training mode.
            mix: [B, C, T].
            target: [B, S, C, T].

        Returns:
            The loss with its gradient, and what each stem contributes before weighting, [S].
        """
        per_stem = self._terms(network, mix, target) if self.terms else torch.zeros(())
        if self.masks and isinstance(network, Masking):
            per_stem = per_stem + self.masks * network.mask_error(mix, target).mean(0)
        weights, svd = self.weights.to(mix.device), self.config.svd
        loss = (per_stem * weights).sum() / weights.sum()
        if svd.penalty:
            with torch.autocast(mix.device.type, enabled=False):
                loss = loss + svd.penalty * svd_penalty(
                    network, smallest=svd.smallest, rank=svd.rank, iterations=svd.iterations
                )
        return loss, per_stem.detach()

    def _terms(self, network: Network, mix: Tensor, target: Tensor) -> Tensor:
        """What the terms that look at estimates come to, [S]."""
        estimate = self._estimate(network, mix)
        with torch.autocast(mix.device.type, enabled=False):
            wanted = Signals(target, self._analyse(network, target) if self.spectral else None)
            return torch.stack([f * term(estimate, wanted) for term, f in self.terms.items()]).sum(0)

    def _estimate(self, network: Network, mix: Tensor) -> Signals:
        if self.spectral and isinstance(network, SpectralNetwork):
            spectra = network.spectrograms(mix)
            audio = network.transform.synthesise(spectra, mix.shape[-1])
            # some pad the mix to a length that suits them; the targets have no such frames
            return Signals(audio, spectra[..., : mix.shape[-1] // network.transform.hop + 1])
        audio = network.estimate(mix).float()
        return Signals(audio, self._analyse(network, audio) if self.spectral else None)

    def _analyse(self, network: Network, audio: Tensor) -> Tensor:
        """[B, S, C, T] to complex [B, S, C, F, frames]."""
        if isinstance(network, SpectralNetwork):
            spectra: Tensor = network.transform.analyse(audio.flatten(0, 1)).unflatten(0, audio.shape[:2])
            return spectra
        return stft(audio, self.config.fft, self.config.hop)


def svd_penalty(network: nn.Module, *, smallest: int, rank: int, iterations: int) -> Tensor:
    """The sum of the squared largest singular values of the weights ("Stabilizing training", Hybrid Demucs).

    The singular vectors come from a randomised low-rank SVD (Halko et al. 2011) without a gradient; σ = uᵀWv
    then has the exact one, ∂σ/∂W = u·vᵀ.

    Args:
        network: of any kind. Weights are seen as matrices [out, everything else].
        smallest: weights of fewer elements are left alone.
        rank: of the random sketch; larger is more exact.
        iterations: of the subspace iteration; more is more exact.

    Returns:
        A scalar with a gradient.
    """
    weights = [_matrix(module, weight) for module, weight in _weights(network) if weight.numel() >= smallest]
    values = [_largest_singular_value(weight, rank, iterations).square() for weight in weights]
    return torch.stack(values).sum() if values else torch.zeros(())


def _weights(network: nn.Module) -> list[tuple[nn.Module, Tensor]]:
    found = ((m, p) for m in network.modules() for p in m.parameters(recurse=False))
    return [(m, p) for m, p in found if p.requires_grad and p.dim() > 1 and prod(p.shape[1:]) > 1]


def _matrix(module: nn.Module, weight: Tensor) -> Tensor:
    """[out, everything else]; transposed convolutions keep their output channels second."""
    transposed = isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d))
    return (weight.transpose(0, 1) if transposed else weight).flatten(1)


def _largest_singular_value(matrix: Tensor, rank: int, iterations: int) -> Tensor:
    with torch.no_grad(), torch.autocast(matrix.device.type, enabled=False):
        u, s, v = torch.svd_lowrank(matrix.float(), min(rank, *matrix.shape), iterations)
        first = s.argmax()
        left, right = u[:, first], v[:, first]
    return left @ matrix.float() @ right

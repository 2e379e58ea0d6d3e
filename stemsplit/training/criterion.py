"""Loss function of a training step: terms of `losses` by their factors, stems by their weights, a penalty.

`B` batch, `S` stems, `C` channels, `T` samples, `F` bins.
"""

from collections.abc import Sequence
from math import prod
from typing import Final, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from stemsplit.models.blocks.stft import stft
from stemsplit.models.network import Network
from stemsplit.models.spectral import SpectralNetwork
from stemsplit.training.learning import LossConfig
from stemsplit.training.losses import LOSSES, Signals

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
            reference = Signals(target, self._analyse(network, target) if self.spectral else None, mix)
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

"""Multichannel Wiener filtering: from the stems' magnitudes and the mix's spectrum to the stems' spectra.

Every stem s is taken for a complex Gaussian with a power v_s(f, t) and a spatial covariance R_s(f) (Duong,
Vincent, Gribonval 2010; Nugraha, Liutkus, Vincent 2016). Given those, the mix x(f, t) is best explained by

    y_s = v_s R_s (√ε I + Σ_j v_j R_j)⁻¹ x,

and given the y_s, the model is v_s = mean over channels of |y_s|² and R_s = Σ_t y_s y_sᴴ / (ε + Σ_t v_s).
Expectation maximisation alternates the two, from a first guess that gives every stem the mix's phase.

Legend: `B` batch, `S` stems, `C` channels, `F` bins.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The numbers are part of the method (open-unmix 1.3, `filtering`): other windows change the output.
WINDOW_FRAMES = 300  # R_s holds for this many consecutive frames
LARGEST_MAGNITUDE = 10.0  # a louder mix is scaled down to this, which keeps ε meaningful in float32
EPSILON = 1e-10


def wiener(
    magnitudes: Tensor,
    mix: Tensor,
    *,
    iterations: int,
    softmask: bool = False,
    residual: bool = False,
    keep: Sequence[int] | None = None,
) -> Tensor:
    """Separate a mix by the magnitudes of its stems, in independent windows counted from the first frame.

    Args:
        magnitudes: [B, S, C, F, frames], not negative.
        mix: [B, C, F, frames], complex. One or two channels if there are iterations.
        iterations: of expectation maximisation; 0 returns the first guess.
        softmask: guess each stem's share of the mix instead of its magnitude with the mix's phase.
        residual: model what the stems leave of the mix as one more stem, the last.
        keep: return only the stems at these positions, in this order; None for all.

    Returns:
        [B, S, C, F, frames], complex; S + 1 stems with the residual.
    """
    positions = list(range(magnitudes.shape[1] + residual) if keep is None else keep)
    stems = mix.new_empty(len(mix), len(positions), *mix.shape[1:])
    for start in range(0, mix.shape[-1], WINDOW_FRAMES):
        window = slice(start, start + WINDOW_FRAMES)
        guess = _first_guess(magnitudes[..., window], mix[..., window], softmask, residual)
        stems[..., window] = _maximise(guess, mix[..., window], iterations)[:, positions]
    return stems


def _first_guess(magnitudes: Tensor, mix: Tensor, softmask: bool, residual: bool) -> Tensor:
    if softmask:
        stems = mix[:, None] * (magnitudes / (EPSILON + magnitudes.sum(1, keepdim=True)))
    else:
        stems = magnitudes * _phase(mix)[:, None]
    if residual:
        stems = torch.cat([stems, (mix - stems.sum(1))[:, None]], dim=1)
    return stems


def _phase(mix: Tensor) -> Tensor:
    """Complex numbers of modulus 1; an empty bin has phase 0."""
    modulus = mix.abs()
    empty = modulus == 0
    return torch.where(empty, 1, mix / torch.where(empty, 1, modulus))  # no 0/0 in the gradient either


def _maximise(stems: Tensor, mix: Tensor, iterations: int) -> Tensor:
    """Expectation maximisation of one window: stems [B, S, C, F, frames] given the mix [B, C, F, frames]."""
    if iterations == 0:
        return stems
    loudest = mix.abs().amax((1, 2, 3))[:, None, None, None, None]
    scale = (loudest / LARGEST_MAGNITUDE).clamp_min(1)
    stems, mix = stems / scale, mix / scale[:, 0]
    for _ in range(iterations):
        power = torch.view_as_real(stems).square().sum(-1).mean(2)
        covariance = _covariance(stems) / (EPSILON + power.sum(-1))[..., None, None]
        whitened = _whiten(power, covariance, mix)
        stems = torch.einsum("bsfcd,bdft->bscft", covariance, whitened) * power[:, :, None]
    return stems * scale


def _covariance(stems: Tensor) -> Tensor:
    """Σ_t y yᴴ, [B, S, C, F, frames] to [B, S, F, C, C].

    By sums rather than by a matrix product: they add pairwise, and what the product's running sum loses to
    rounding, the inverse of a nearly singular matrix would magnify.
    """
    channels = stems.unbind(2)
    rows = [torch.stack([(left * right.conj()).sum(-1) for right in channels], -1) for left in channels]
    return torch.stack(rows, dim=-2)


def _whiten(power: Tensor, covariance: Tensor, mix: Tensor) -> Tensor:
    """Solve (√ε I + Σ_s v_s R_s) z = x.

    Args:
        power: v, [B, S, F, frames].
        covariance: R, [B, S, F, C, C], Hermitian; one or two channels.
        mix: x, [B, C, F, frames].

    Returns:
        z, [B, C, F, frames].
    """

    def entry(row: int, column: int) -> Tensor:
        return (power * covariance[..., row, column, None]).sum(1)

    ridge = math.sqrt(EPSILON)
    first = entry(0, 0).real
    if mix.shape[1] == 1:
        return mix / (ridge + first)[:, None]
    second, cross = entry(1, 1).real, entry(0, 1)
    # det(δI + M) = δ(δ + tr M) + det M. Rounding alone can make det M of a nearly mono window negative.
    determinant = first * second - torch.view_as_real(cross).square().sum(-1)
    determinant = ridge * (ridge + first + second) + determinant.clamp_min(0)
    left, right = mix.unbind(1)
    adjugate = [(ridge + second) * left - cross * right, (ridge + first) * right - cross.conj() * left]
    return torch.stack(adjugate, dim=1) / determinant[:, None]

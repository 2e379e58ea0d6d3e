"""Multichannel Wiener filtering: the stems' spectra from their magnitudes and the mix's spectrum.

Every stem s is modelled as a complex Gaussian with power v_s(f, t) and spatial covariance R_s(f) (Duong,
Vincent, Gribonval 2010; Nugraha, Liutkus, Vincent 2016). Given these, the best estimate from the mix x(f, t)
is

    y_s = v_s R_s (√ε I + Σ_j v_j R_j)⁻¹ x,

and given the y_s, the model is v_s = mean over channels of |y_s|² and R_s = Σ_t y_s y_sᴴ / (ε + Σ_t v_s).
Expectation maximisation alternates the two, from a first guess that gives every stem the mix's phase.
Reference: open-unmix 1.3, filtering.py.

Legend: `B` batch, `S` stems, `C` channels, `F` bins.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# The constants of open-unmix; other values change the output.
WINDOW_FRAMES = 300  # R_s holds for this many consecutive frames
LARGEST_MAGNITUDE = 10.0  # a louder mix is scaled down to this, which keeps ε meaningful in float32
EPSILON = 1e-10  # ε


def wiener(
    magnitudes: Tensor,
    mix: Tensor,
    *,
    iterations: int,
    softmask: bool = False,
    residual: bool = False,
    keep: Sequence[int] | None = None,
) -> Tensor:
    """Separate a mix by the magnitudes of its stems, in independent windows from the first frame on.

    Args:
        magnitudes: [B, S, C, F, frames], ≥ 0.
        mix: complex [B, C, F, frames], with one or two channels if there are iterations.
        iterations: of expectation maximisation; 0 returns the first guess.
        softmask: start from each stem's share of the mix instead of its magnitude with the mix's phase.
        residual: model the rest of the mix as one more stem, the last.
        keep: indices of the stems to return, in this order; None for all.

    Returns:
        complex [B, S, C, F, frames]; S + 1 stems with the residual.
    """
    positions = list(range(magnitudes.shape[1] + residual) if keep is None else keep)
    stems = mix.new_empty(len(mix), len(positions), *mix.shape[1:])
    for start in range(0, mix.shape[-1], WINDOW_FRAMES):
        window = slice(start, start + WINDOW_FRAMES)
        guess = _first_guess(magnitudes[..., window], mix[..., window], softmask, residual)
        stems[..., window] = _maximise(guess, mix[..., window], iterations)[:, positions]
    return stems


def _first_guess(magnitudes: Tensor, mix: Tensor, softmask: bool, residual: bool) -> Tensor:
    """Return the stems before any iteration, complex [B, S, C, F, frames]."""
    if softmask:
        stems = mix[:, None] * (magnitudes / (EPSILON + magnitudes.sum(1, keepdim=True)))
    else:
        stems = magnitudes * _phase(mix)[:, None]
    if residual:
        stems = torch.cat([stems, (mix - stems.sum(1))[:, None]], dim=1)  # [B, S + 1, C, F, frames]
    return stems


def _phase(mix: Tensor) -> Tensor:
    """Return z/|z|, and 1 where z is 0."""
    modulus = mix.abs()
    empty = modulus == 0
    return torch.where(empty, 1, mix / torch.where(empty, 1, modulus))  # no 0/0 in the gradient either


def _maximise(stems: Tensor, mix: Tensor, iterations: int) -> Tensor:
    """Refine the stems [B, S, C, F, frames] of a window, given the mix [B, C, F, frames]."""
    if iterations == 0:
        return stems
    loudest = mix.abs().amax((1, 2, 3))[:, None, None, None, None]  # [B, 1, 1, 1, 1]
    scale = (loudest / LARGEST_MAGNITUDE).clamp_min(1)
    stems, mix = stems / scale, mix / scale[:, 0]
    for _ in range(iterations):
        power = torch.view_as_real(stems).square().sum(-1).mean(2)  # v, [B, S, F, frames]
        covariance = _covariance(stems) / (EPSILON + power.sum(-1))[..., None, None]  # R, [B, S, F, C, C]
        whitened = _whiten(power, covariance, mix)
        stems = torch.einsum("bsfcd,bdft->bscft", covariance, whitened) * power[:, :, None]
    return stems * scale


def _covariance(stems: Tensor) -> Tensor:
    """Return Σ_t y yᴴ: [B, S, C, F, frames] -> [B, S, F, C, C].

    It uses sums, not a matrix product: torch adds a sum's terms pairwise. The rounding errors of a product's
    running sum would be magnified by the inverse of a nearly singular matrix.
    """
    channels = stems.unbind(2)  # [B, S, F, frames] each
    rows = [torch.stack([(left * right.conj()).sum(-1) for right in channels], -1) for left in channels]
    return torch.stack(rows, dim=-2)  # rows [B, S, F, C] -> [B, S, F, C, C]


def _whiten(power: Tensor, covariance: Tensor, mix: Tensor) -> Tensor:
    """Solve (√ε I + Σ_s v_s R_s) z = x.

    Args:
        power: v, [B, S, F, frames].
        covariance: R, [B, S, F, C, C], Hermitian; one or two channels.
        mix: x, [B, C, F, frames].

    Returns:
        z, [B, C, F, frames].
    """

    def entry(row: int, column: int) -> Tensor:  # of M = Σ_s v_s R_s, [B, F, frames]
        return (power * covariance[..., row, column, None]).sum(1)

    ridge = math.sqrt(EPSILON)
    first = entry(0, 0).real
    if mix.shape[1] == 1:
        return mix / (ridge + first)[:, None]
    second, cross = entry(1, 1).real, entry(0, 1)
    # det(δI + M) = δ(δ + tr M) + det M, δ = √ε. Rounding can make det M of a nearly mono window negative.
    determinant = first * second - torch.view_as_real(cross).square().sum(-1)
    determinant = ridge * (ridge + first + second) + determinant.clamp_min(0)
    left, right = mix.unbind(1)  # [B, F, frames] each
    # z = adj(δI + M) x / det(δI + M)
    adjugate = [(ridge + second) * left - cross * right, (ridge + first) * right - cross.conj() * left]
    return torch.stack(adjugate, dim=1) / determinant[:, None]  # [B, 2, F, frames]

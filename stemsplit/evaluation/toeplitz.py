"""Symmetric block-Toeplitz systems, solved in a time that grows with the square of their size.

A system has L×L blocks of N×N, and block (i, j) is T_{j−i}: the normal equations of N signals delayed by
0 … L−1 samples. It is given by its first block row T_0 … T_{L−1}; below the diagonal stands T_{−k} = T_kᵀ.

Blocks may be taken together: with b delays as one block it is the same matrix of L/b blocks of bN×bN, whose
factorisation takes fewer and larger steps.

Method: Schur's algorithm in its block form (Kailath and Sayed, "Displacement structure", SIAM Review 1995).
G minus G shifted down and right by a block has rank 2N, G − ZGZᵀ = AᵀA − BᵀB, and each step of the Cholesky
factorisation turns that pair into the next one by a 2N×2N hyperbolic rotation.
"""

from math import gcd

import torch
from torch import Tensor
from torch.linalg import cholesky_ex, solve_triangular

# Signals that are equal, or empty in some band, make G singular. What is added to its diagonal (of ones) at
# first and at most, and by which factor that grows.
_LOADING, _MOST, _GROWTH = 1e-15, 1e-6, 10.0
# The relative residual that needs no correction, and the one up to which rounding alone may spoil a
# correction.
_PRECISE, _ROUNDING = 1e-13, 1e-10
_CORRECTIONS = 3
# To which size blocks are taken together: there the many small steps cost as much as the arithmetic.
_WIDTH = 8


def solve(blocks: Tensor, right: Tensor) -> Tensor:
    """The X with G·X = D; where G is singular, one that comes as near as it can.

    Args:
        blocks: first block rows [B, L, N, N] of positive semidefinite G, float64.
        right: D, [B, L, N, M].

    Returns:
        [B, L, N, M].
    """
    power = blocks[:, 0].diagonal(dim1=-2, dim2=-1)  # [B, N]
    scale = torch.where(power > 0, power, 1.0).rsqrt()[:, None, :, None]
    unit, right = blocks * scale * scale.mT, right * scale
    wide, loading = widened(unit), _LOADING
    while True:
        rows = cholesky(wide, loading)
        if rows is not None:
            found, sound = _refined(unit, rows, right)
            if sound or loading >= _MOST:
                return found * scale
        loading *= _GROWTH


def _refined(blocks: Tensor, rows: list[Tensor], right: Tensor) -> tuple[Tensor, bool]:
    """Solve with an inexact factor, correct by what is left over; tell whether the factor does for that."""
    size = right.norm()
    found = _substitute(rows, right)
    rest = right - multiply(blocks, found)
    for _ in range(_CORRECTIONS):
        if rest.norm() <= _PRECISE * size:
            break
        better = found + _substitute(rows, rest)
        remains = right - multiply(blocks, better)
        if not remains.norm() < rest.norm():
            return found, bool(remains.norm() <= _ROUNDING * size)
        found, rest = better, remains
    return found, True


def _substitute(rows: list[Tensor], right: Tensor) -> Tensor:
    """Solve RᵀR·X = D by forward and backward substitution, block by block."""
    size = rows[0].shape[1]
    inner, rest = [], right.flatten(1, 2)
    for row in rows:
        inner.append(solve_triangular(row[..., :size].mT, rest[:, :size], upper=False))
        rest = torch.baddbmm(rest[:, size:], row[..., size:].mT, inner[-1], alpha=-1)
    found = torch.empty_like(right)
    flat = found.view(right.shape[0], -1, right.shape[-1])
    for step in reversed(range(len(rows))):
        here, known = slice(step * size, (step + 1) * size), flat[:, (step + 1) * size :]
        top = torch.baddbmm(inner[step], rows[step][..., size:], known, alpha=-1)
        flat[:, here] = solve_triangular(rows[step][..., :size], top, upper=True)
    return found


def widened(blocks: Tensor) -> Tensor:
    """The same matrix with as many delays in a block as `_WIDTH` allows and the number of delays divides by.

    Args:
        blocks: first block row [B, L, N, N].

    Returns:
        First block row [B, L/b, bN, bN], in the order (delay, signal).
    """
    batch, length, signals, _ = blocks.shape
    together = gcd(length, 1 << max(0, (_WIDTH // signals).bit_length() - 1))
    lags = torch.cat([blocks[:, 1:together].flip(1).mT, blocks], 1)  # from 1 − b on
    one = torch.arange(together)
    start = torch.arange(0, length, together)[:, None, None]
    chosen = lags[:, start + one - one[:, None] + together - 1]  # [B, L/b, b, b, N, N]
    return chosen.transpose(3, 4).reshape(batch, length // together, *[together * signals] * 2)


def multiply(blocks: Tensor, right: Tensor) -> Tensor:
    """G·X by FFT, G being a corner of a block-circulant matrix.

    Args:
        blocks: first block rows [B, L, N, N].
        right: X, [B, L, N, M].

    Returns:
        [B, L, N, M].
    """
    length = blocks.shape[1]
    column = torch.cat([blocks.mT, torch.zeros_like(blocks[:, :1]), blocks[:, 1:].flip(1)], 1)
    spectrum = torch.fft.rfft(column, dim=1) @ torch.fft.rfft(right, 2 * length, dim=1)
    product: Tensor = torch.fft.irfft(spectrum, 2 * length, dim=1)
    return product[:, :length]


def cholesky(blocks: Tensor, loading: float = 0.0) -> list[Tensor] | None:
    """The upper triangular R with RᵀR = G + loading·1, or None if that isn't positive definite.

    Args:
        blocks: first block rows [B, L, N, N].
        loading: added to the diagonal.

    Returns:
        R's L block rows without the zeros at their left, [B, N, (L − i)·N], in the order (delay, signal).
    """
    signals = blocks.shape[-1]
    one = torch.eye(signals, dtype=blocks.dtype)
    loaded = torch.cat([blocks[:, :1] + loading * one, blocks[:, 1:]], 1)
    first, failed = cholesky_ex(loaded[:, 0])
    upper = lower = solve_triangular(first, loaded.movedim(1, 2).flatten(2), upper=False)
    rows = [upper]
    while upper.shape[-1] > signals:
        upper, lower, bad = _rotate(upper[..., :-signals], lower[..., signals:], one)
        rows.append(upper)
        failed = failed + bad
    return None if failed.any() else rows


def _rotate(upper: Tensor, lower: Tensor, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One hyperbolic rotation, [A; B] → [A'; B'] with AᵀA − BᵀB unchanged and zeros at the head of B'.

    With K = B₁A₁⁻¹, MMᵀ = 1 − KᵀK and PPᵀ = 1 − KKᵀ: A' = M⁻¹(A − KᵀB), then B' = PᵀB − P⁻¹KM·A'. Making B'
    of the new A' is what keeps rounding errors bounded.

    Args:
        upper: A, [B, N, n], which begins with an upper triangular A₁.
        lower: B, [B, N, n].
        one: [N, N].

    Returns:
        A', B', and which of the batch, [B], turned out not to be positive definite.
    """
    signals = one.shape[0]
    k = solve_triangular(upper[..., :signals], lower[..., :signals], upper=True, left=False)
    squares = [torch.baddbmm(one, k.mT, k, alpha=-1), torch.baddbmm(one, k, k.mT, alpha=-1)]
    (m, p), bad = cholesky_ex(torch.stack(squares))
    upper = solve_triangular(m, torch.baddbmm(upper, k.mT, lower, alpha=-1), upper=False)
    lower = torch.baddbmm(p.mT @ lower, solve_triangular(p, k @ m, upper=False), upper, alpha=-1)
    return upper, lower, bad.sum(0)

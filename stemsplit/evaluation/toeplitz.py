"""Solver of symmetric block-Toeplitz systems in O(L²) instead of O(L³) block operations, for `bsseval`.

A system G has L×L blocks of N×N, and block (i, j) is T_{j−i}: the normal equations of N signals delayed by
0 … L−1 samples. It is given by its first block row T_0 … T_{L−1}; below the diagonal T_{−k} = T_kᵀ.

Blocks can be joined: with b delays in one block the same matrix has L/b blocks of bN×bN, and its
factorisation takes fewer and larger steps.

Method: Schur's algorithm in its block form (Kailath and Sayed, "Displacement structure: theory and
applications", SIAM Review 37, 1995). G minus G shifted down and right by a block has rank 2N,
G − ZGZᵀ = AᵀA − BᵀB with the generator (A, B), and each step of the Cholesky factorisation turns the
generator into the next one by a 2N×2N hyperbolic rotation. Letters: B batch, L delays, N signals, M
right-hand sides.
"""

from math import gcd

import torch
from torch import Tensor
from torch.linalg import cholesky_ex, solve_triangular

# Signals that are equal, or empty in some band, make G singular. The loading is added to its diagonal of
# ones: at first, at most, and the factor by which it grows after a failure.
_LOADING, _MAX_LOADING, _GROWTH = 1e-15, 1e-6, 10.0
# The relative residual that needs no correction; and the largest one at which it may be due to rounding that
# a correction makes the residual larger.
_PRECISE, _ROUNDING = 1e-13, 1e-10
_CORRECTIONS = 3
# Size of joined blocks. With smaller ones the overhead of the many steps exceeds the arithmetic.
_WIDTH = 8


def solve(blocks: Tensor, right: Tensor) -> Tensor:
    """Return X with G·X = D; if G is singular, an X with the least residual that rounding allows.

    The signals are scaled to unit power, then G is factorised with a diagonal loading, which grows tenfold
    until the factor is precise enough for iterative refinement.

    Args:
        blocks: first block rows [B, L, N, N] of positive semidefinite G, float64.
        right: D, [B, L, N, M].

    Returns:
        X, [B, L, N, M].
    """
    power = blocks[:, 0].diagonal(dim1=-2, dim2=-1)  # [B, N]
    scale = torch.where(power > 0, power, 1.0).rsqrt()[:, None, :, None]  # [B, 1, N, 1]
    unit, right = blocks * scale * scale.mT, right * scale
    joined, loading = widened(unit), _LOADING
    while True:
        rows = cholesky(joined, loading)
        if rows is not None:
            solution, precise = _refined(unit, rows, right)
            if precise or loading >= _MAX_LOADING:
                return solution * scale
        loading *= _GROWTH


def _refined(blocks: Tensor, rows: list[Tensor], right: Tensor) -> tuple[Tensor, bool]:
    """Solve G·X = D by iterative refinement, X ← X + R⁻¹R⁻ᵀ(D − G·X), with an inexact factor R of G.

    Returns:
        X [B, L, N, M], and whether the factor is precise enough: the corrections make the residual smaller.
    """
    size = right.norm()
    solution = _substitute(rows, right)
    residual = right - multiply(blocks, solution)
    for _ in range(_CORRECTIONS):
        if residual.norm() <= _PRECISE * size:
            break
        corrected = solution + _substitute(rows, residual)
        new_residual = right - multiply(blocks, corrected)
        if not new_residual.norm() < residual.norm():
            return solution, bool(new_residual.norm() <= _ROUNDING * size)
        solution, residual = corrected, new_residual
    return solution, True


def _substitute(rows: list[Tensor], right: Tensor) -> Tensor:
    """Solve RᵀR·X = D, [B, L, N, M], by forward and backward substitution, block by block."""
    size = rows[0].shape[1]
    forward, rest = [], right.flatten(1, 2)  # [B, L·N, M]
    for row in rows:  # RᵀY = D
        forward.append(solve_triangular(row[..., :size].mT, rest[:, :size], upper=False))
        rest = torch.baddbmm(rest[:, size:], row[..., size:].mT, forward[-1], alpha=-1)
    solution = torch.empty_like(right)
    flat = solution.view(right.shape[0], -1, right.shape[-1])  # [B, L·N, M]
    for step in reversed(range(len(rows))):  # R·X = Y
        here, known = slice(step * size, (step + 1) * size), flat[:, (step + 1) * size :]
        top = torch.baddbmm(forward[step], rows[step][..., size:], known, alpha=-1)
        flat[:, here] = solve_triangular(rows[step][..., :size], top, upper=True)
    return solution


def widened(blocks: Tensor) -> Tensor:
    """Return the same matrix with b delays joined to one block: the most that divide L and fit `_WIDTH`.

    Args:
        blocks: first block row [B, L, N, N].

    Returns:
        First block row [B, L/b, b·N, b·N], in the order (delay, signal).
    """
    batch, length, signals, _ = blocks.shape
    together = gcd(length, 1 << max(0, (_WIDTH // signals).bit_length() - 1))
    # T_{1−b} … T_{L−1}, so that T_k is at index k + b − 1
    lags = torch.cat([blocks[:, 1:together].flip(1).mT, blocks], 1)  # [B, b − 1 + L, N, N]
    one = torch.arange(together)
    start = torch.arange(0, length, together)[:, None, None]
    chosen = lags[:, start + one - one[:, None] + together - 1]  # [B, L/b, b, b, N, N]
    joined = chosen.transpose(3, 4)  # [B, L/b, b, N, b, N]
    return joined.reshape(batch, length // together, *[together * signals] * 2)  # [B, L/b, b·N, b·N]


def multiply(blocks: Tensor, right: Tensor) -> Tensor:
    """Return G·X by FFT: G is the upper left corner of a block-circulant matrix of 2L×2L blocks.

    Args:
        blocks: first block rows [B, L, N, N].
        right: X, [B, L, N, M].

    Returns:
        G·X, [B, L, N, M].
    """
    length = blocks.shape[1]
    # The circulant's first block column: T_{−k} = T_kᵀ for rows k < L, then zero, then T_{L−1} … T_1.
    column = torch.cat(
        [blocks.mT, torch.zeros_like(blocks[:, :1]), blocks[:, 1:].flip(1)], 1
    )  # [B, 2L, N, N]
    spectrum = torch.fft.rfft(column, dim=1) @ torch.fft.rfft(right, 2 * length, dim=1)  # [B, L + 1, N, M]
    product: Tensor = torch.fft.irfft(spectrum, 2 * length, dim=1)
    return product[:, :length]


def cholesky(blocks: Tensor, loading: float = 0.0) -> list[Tensor] | None:
    """Return the upper triangular R with RᵀR = G + loading·1, or None if that isn't positive definite.

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
    # The first generator, with T_0 = CCᵀ: A = C⁻¹·[T_0 … T_{L−1}], and B the same but for a zero first block.
    upper = lower = solve_triangular(first, loaded.movedim(1, 2).flatten(2), upper=False)  # [B, N, L·N]
    rows = [upper]
    while upper.shape[-1] > signals:
        upper, lower, bad = _rotate(upper[..., :-signals], lower[..., signals:], one)
        rows.append(upper)
        failed = failed + bad
    return None if failed.any() else rows


def _rotate(upper: Tensor, lower: Tensor, one: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the hyperbolic rotation [A; B] → [A'; B'], which keeps AᵀA − BᵀB and makes B' begin with zeros.

    With A₁, B₁ the first N columns, K = B₁A₁⁻¹, MMᵀ = 1 − KᵀK and PPᵀ = 1 − KKᵀ: A' = M⁻¹(A − KᵀB), then
    B' = PᵀB − P⁻¹KM·A'. Computing B' from A' instead of A keeps rounding errors bounded.

    Args:
        upper: A, [B, N, n]; A₁ is upper triangular.
        lower: B, [B, N, n].
        one: the unit matrix, [N, N].

    Returns:
        A' [B, N, n], B' [B, N, n], and for each matrix of the batch nonzero if it isn't positive definite,
        [B].
    """
    signals = one.shape[0]
    k = solve_triangular(upper[..., :signals], lower[..., :signals], upper=True, left=False)  # [B, N, N]
    squares = [torch.baddbmm(one, k.mT, k, alpha=-1), torch.baddbmm(one, k, k.mT, alpha=-1)]
    (m, p), bad = cholesky_ex(torch.stack(squares))  # [2, B, N, N], [2, B]
    upper = solve_triangular(m, torch.baddbmm(upper, k.mT, lower, alpha=-1), upper=False)
    lower = torch.baddbmm(p.mT @ lower, solve_triangular(p, k @ m, upper=False), upper, alpha=-1)
    return upper, lower, bad.sum(0)

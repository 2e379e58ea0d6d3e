import pytest
import torch
from torch import Tensor

from stemsplit.evaluation import toeplitz

SHAPES = [(1, 1, 1), (1, 5, 1), (1, 1, 3), (2, 7, 2), (3, 40, 4), (1, 129, 8)]


def gram(batch: int, length: int, signals: int, samples: int = 3000) -> Tensor:
    """First block rows of the Gram matrices of random signals and their delayed copies."""
    x = torch.randn(batch, signals, samples, dtype=torch.float64)
    return gram_of(x, length)


def gram_of(x: Tensor, length: int) -> Tensor:
    late = torch.nn.functional.pad(x, (0, length))
    return torch.stack(
        [torch.einsum("bpn,bqn->bpq", late[..., k : k + x.shape[-1]], x) for k in range(length)], 1
    )


def dense(blocks: Tensor) -> Tensor:
    batch, length, signals, _ = blocks.shape
    whole = blocks.new_zeros(batch, length, signals, length, signals)
    for i in range(length):
        for j in range(length):
            whole[:, i, :, j] = blocks[:, j - i] if j >= i else blocks[:, i - j].mT
    return whole.flatten(3).flatten(1, 2)


@pytest.mark.parametrize(("batch", "length", "signals"), SHAPES)
def test_cholesky_is_the_dense_one(batch: int, length: int, signals: int) -> None:
    blocks = gram(batch, length, signals)
    rows = toeplitz.cholesky(blocks)
    assert rows is not None
    factor = torch.cat([torch.nn.functional.pad(r, (length * signals - r.shape[-1], 0)) for r in rows], 1)
    expected = torch.linalg.cholesky(dense(blocks), upper=True)
    torch.testing.assert_close(factor, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("batch", "length", "signals"), SHAPES)
def test_solve_and_multiply(batch: int, length: int, signals: int) -> None:
    blocks = gram(batch, length, signals)
    known = torch.randn(batch, length, signals, 3, dtype=torch.float64)
    product = (dense(blocks) @ known.flatten(1, 2)).view_as(known)
    torch.testing.assert_close(toeplitz.multiply(blocks, known), product, rtol=1e-11, atol=1e-8)
    torch.testing.assert_close(toeplitz.solve(blocks, product), known, rtol=1e-9, atol=1e-9)


def test_signals_of_very_different_power() -> None:
    x = torch.randn(1, 3, 400, dtype=torch.float64) * torch.tensor([[1.0], [1e-6], [1e4]])
    blocks = gram_of(x, 20)
    known = torch.randn(1, 20, 3, 2, dtype=torch.float64) / torch.tensor([[1.0], [1e-6], [1e4]])
    right = (dense(blocks) @ known.flatten(1, 2)).view_as(known)
    torch.testing.assert_close(toeplitz.solve(blocks, right), known, rtol=1e-8, atol=1e-12)


def filtered(x: Tensor, filters: Tensor) -> Tensor:
    """Filter signals [B, N, T] by filters [B, L, N, M] to [B, M, T + L − 1]."""
    size = 2 * (x.shape[-1] + filters.shape[1])
    spectra = torch.fft.rfft(filters, size, dim=1) * torch.fft.rfft(x, size).mT[..., None]
    return torch.fft.irfft(spectra.sum(2), size, dim=1)[:, : x.shape[-1] + filters.shape[1] - 1].mT


@pytest.mark.parametrize("kind", ["equal", "silent", "sines", "nearly equal", "band"])
def test_a_singular_system_is_solved_as_far_as_it_goes(kind: str) -> None:
    x = torch.randn(1, 3, 2000, dtype=torch.float64)
    if kind == "equal":
        x[:, 1] = x[:, 0]
    elif kind == "silent":
        x[:, 1] = 0
    elif kind == "sines":
        x = torch.sin(torch.tensor([[0.1], [0.21], [0.33]]) * torch.arange(2000)).double()[None]
    elif kind == "nearly equal":
        x[:, 1] = x[:, 0] + 1e-9 * x[:, 1]
    else:
        spectrum = torch.fft.rfft(x)
        spectrum[..., 100:] = 0
        x = torch.fft.irfft(spectrum, 2000)
    wanted = torch.randn(1, 1, 2000 + 31, dtype=torch.float64)
    right = torch.stack([torch.einsum("bpn,bmn->bpm", x, wanted[..., k : k + 2000]) for k in range(32)], 1)
    found = toeplitz.solve(gram_of(x, 32), right)
    assert found.isfinite().all()
    # The error must be as small as that of the least-squares solution of the delayed signals themselves, but
    # for directions so weak that their squares vanish in the normal equations.
    delayed = torch.stack([torch.nn.functional.pad(x[0], (k, 31 - k)) for k in range(32)], 0).flatten(0, 1).T
    best = torch.linalg.lstsq(delayed, wanted[0].T, rcond=1e-6, driver="gelsd").solution
    least = (wanted[0].T - delayed @ best).square().sum()
    error = (wanted - filtered(x, found)).square().sum()
    assert error / least - 1 < 1e-9


def test_a_matrix_that_is_not_positive_definite() -> None:
    assert toeplitz.cholesky(torch.tensor([[[[1.0]], [[2.0]]]]).double()) is None
    assert toeplitz.cholesky(torch.tensor([[[[-1.0]]]]).double()) is None


def test_one_bad_matrix_of_a_batch_is_noticed() -> None:
    blocks = torch.tensor([[[[1.0]], [[0.5]]], [[[1.0]], [[2.0]]]]).double()
    assert toeplitz.cholesky(blocks[:1]) is not None
    assert toeplitz.cholesky(blocks) is None


def test_zero_is_solved_by_zero() -> None:
    blocks, right = torch.zeros(1, 4, 2, 2).double(), torch.zeros(1, 4, 2, 1).double()
    assert torch.equal(toeplitz.solve(blocks, right), right)


def test_inputs_do_not_change() -> None:
    blocks, right = gram(1, 6, 1), torch.randn(1, 6, 1, 1).double()
    before = blocks.clone(), right.clone()
    toeplitz.solve(blocks, right)
    assert torch.equal(blocks, before[0]) and torch.equal(right, before[1])

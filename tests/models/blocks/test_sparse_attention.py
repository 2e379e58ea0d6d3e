"""Sparse attention keeps the pairs that its rule says."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stemsplit.errors import UnknownNameError
from stemsplit.models.blocks.attention import Attention
from stemsplit.models.blocks.sparse_attention import (
    SparseAttention,
    Sparsity,
    hash_directions,
    hashed_mask,
    pattern_mask,
)

RULE = Sparsity("diag", seed=42, window=2, global_window=3, sparsity=0.9, hashed=False)
CPU = torch.device("cpu")


def mask(pattern: str, queries: int, keys: int) -> Tensor:
    return pattern_mask(replace(RULE, pattern=pattern), queries, keys, CPU)


def test_the_diagonal_is_a_band() -> None:
    i = torch.arange(9)
    assert torch.equal(mask("diag", 9, 9), (i[:, None] - i).abs() <= 2)
    assert mask("diag", 4, 8)[2].nonzero().flatten().tolist() == [2, 3, 4, 5, 6]


def test_jmask_thins_out_with_distance() -> None:
    row = mask("jmask", 40, 40)[20]
    assert (row.nonzero().flatten() - 20).tolist() == [-15, -10, -6, -3, -1, 0, 1, 3, 6, 10, 15]


def test_global_steps_see_and_are_seen() -> None:
    seen = mask("global", 10, 5)
    assert seen[:, :3].all() and seen[:6].all()
    assert not seen[6:, 3:].any()


def test_random_pairs_are_always_the_same() -> None:
    first = mask("random", 100, 80)
    pattern_mask.cache_clear()
    assert torch.equal(first, mask("random", 100, 80))
    assert first.float().mean().item() == pytest.approx(0.1, abs=0.01)
    other = pattern_mask(replace(RULE, pattern="random", seed=1), 100, 80, CPU)
    assert not torch.equal(first, other)


def test_patterns_add_up() -> None:
    both = mask("global_diag", 20, 20)
    assert torch.equal(both, mask("global", 20, 20) | mask("diag", 20, 20))
    assert torch.equal(both, mask("diag_global", 20, 20))


@pytest.mark.parametrize("pattern", ["diag", "jmask", "random", "global"])
def test_patterns_are_those_of_demucs(pattern: str) -> None:
    reference = pytest.importorskip("demucs.transformer")
    for queries, keys in ((7, 7), (40, 90), (90, 40), (333, 128)):
        theirs = reference.get_elementary_mask(keys, queries, pattern, 2, 3, 42, 0.9, "cpu")
        assert torch.equal(theirs, mask(pattern, queries, keys))


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="spiral"):
        replace(RULE, pattern="diag_spiral")


@torch.inference_mode()
def test_masked_attention_is_dense_attention_to_what_is_kept() -> None:
    sparse = SparseAttention(16, 2, 0.0, RULE).eval()
    dense = Attention(16, 2, 0.0).eval()
    weights = {
        "in_proj_weight": torch.cat([sparse.q.weight, sparse.k.weight, sparse.v.weight]),
        "in_proj_bias": torch.cat([sparse.q.bias, sparse.k.bias, sparse.v.bias]),
    }
    dense.load_state_dict(
        weights | {"out_proj.weight": sparse.proj.weight, "out_proj.bias": sparse.proj.bias}
    )
    x = torch.randn(2, 30, 16)
    step = x[:, 10:11]
    torch.testing.assert_close(sparse(x, x)[:, 10:11], dense(step, x[:, 8:13]))
    everything = SparseAttention(16, 2, 0.0, replace(RULE, window=30)).eval()
    everything.load_state_dict(sparse.state_dict())
    torch.testing.assert_close(everything(x, x), dense(x, x))


def test_a_query_that_keeps_nothing_is_harmless() -> None:
    sparse = SparseAttention(8, 2, 0.0, replace(RULE, pattern="random", sparsity=0.999))
    x = torch.randn(1, 40, 8, requires_grad=True)
    out = sparse(x, x)
    out.square().sum().backward()
    assert out.isfinite().all()
    assert x.grad is not None and x.grad.isfinite().all()


def test_inference_leaves_masks_that_training_can_use() -> None:
    pattern_mask.cache_clear()
    sparse = SparseAttention(8, 2, 0.0, RULE)
    x = torch.randn(1, 11, 8)
    with torch.inference_mode():
        sparse(x, x)
    sparse(x, x).sum().backward()
    assert sparse.q.weight.grad is not None


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 0.95])
def test_hashing_drops_the_wanted_fraction(sparsity: float) -> None:
    (directions,) = hash_directions(0, 1, 16, CPU)
    kept = hashed_mask(torch.randn(2, 3, 200, 16), torch.randn(2, 3, 300, 16), sparsity, directions)
    assert kept.shape == (2, 3, 200, 300)
    assert kept.any(dim=-1).all(), "every query keeps something"
    share = kept.float().mean(dim=(-1, -2))
    assert ((share <= 1 - sparsity + 0.01) & (share >= 0.4 * (1 - sparsity))).all()


def test_hashing_finds_the_keys_that_point_the_same_way() -> None:
    keys = torch.randn(64, 32)
    (directions,) = hash_directions(0, 1, 32, CPU)
    kept = hashed_mask(3 * keys, keys, 0.9, directions)
    assert kept.diagonal().all()
    assert not hashed_mask(-keys, keys, 0.9, directions).diagonal().any()


def test_hashes_are_drawn_anew_only_in_training() -> None:
    sparse = SparseAttention(8, 2, 0.0, replace(RULE, hashed=True))
    x = torch.randn(1, 60, 8)
    assert torch.equal(sparse.eval()(x, x), sparse(x, x))
    sparse.train()
    assert not torch.equal(sparse(x, x), sparse(x, x))

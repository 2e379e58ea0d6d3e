"""Attention to a part of the keys: fixed patterns, or pairs that locality-sensitive hashing finds alike.

The patterns say which scores enter the softmax; PyTorch's own attention takes them as a boolean mask.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import UnknownNameError

HASH_ROUNDS = 32
HASH_BUCKETS = 4


@dataclass(frozen=True)
class Sparsity:
    """Which pairs of queries and keys attention keeps.

    Attributes:
        pattern: of `PATTERNS`, joined by underscores: a pair is kept that any of them keeps.
        seed: of the random pattern, and of the hashes outside training.
        window: of the diagonal, in keys on each side.
        global_window: keys that all queries see, and, in proportion, queries that see all keys.
        sparsity: the fraction of pairs that the random pattern and the hashes drop.
        hashed: choose the pairs by hashing, and ignore the pattern.
    """

    pattern: str
    seed: int
    window: int
    global_window: int
    sparsity: float
    hashed: bool

    def __post_init__(self) -> None:
        for name in self.pattern.split("_"):
            if name not in PATTERNS:
                raise UnknownNameError("attention mask", name, sorted(PATTERNS))


def _diagonal(rule: Sparsity, queries: int, keys: int) -> Tensor:
    """Keys within `window` of the query's place in the keys' sequence."""
    return _around(queries, keys, torch.arange(-rule.window, rule.window + 1))


def _triangular(rule: Sparsity, queries: int, keys: int) -> Tensor:
    """Keys at distances 0, 1, 3, 6, 10 …: dense nearby, sparse far away.

    One row and one column beyond each end are laid out and cut off, so that clamped offsets fall away.
    """
    steps = torch.arange(int((2 * keys) ** 0.5 + 1))
    distances = steps * (steps + 1) // 2
    offsets = torch.cat([-distances.flip(0)[:-1], distances])
    return _around(queries + 2, keys + 2, offsets, keys / queries)[1:-1, 1:-1]


def _around(queries: int, keys: int, offsets: Tensor, slope: float | None = None) -> Tensor:
    """Keys at `offsets` from slope · query, slope being keys/queries unless given."""
    slope = keys / queries if slope is None else slope
    columns = (slope * torch.arange(queries)[:, None] + offsets).long().clamp(0, keys - 1)
    return torch.zeros(queries, keys, dtype=torch.bool).scatter_(1, columns, True)


def _global(rule: Sparsity, queries: int, keys: int) -> Tensor:
    """The first keys for everyone, everything for the first queries."""
    mask = torch.zeros(queries, keys, dtype=torch.bool)
    mask[:, : rule.global_window] = True
    mask[: int(rule.global_window * queries / keys)] = True
    return mask


def _random(rule: Sparsity, queries: int, keys: int) -> Tensor:
    """Any pair with probability 1 − sparsity, the same pairs at every call."""
    generator = torch.Generator().manual_seed(rule.seed)
    return torch.rand(queries * keys, generator=generator).view(queries, keys) > rule.sparsity


PATTERNS: dict[str, Callable[[Sparsity, int, int], Tensor]] = {
    "diag": _diagonal,
    "jmask": _triangular,
    "random": _random,
    "global": _global,
}


@lru_cache(maxsize=8)
def pattern_mask(rule: Sparsity, queries: int, keys: int, device: torch.device) -> Tensor:
    """The kept pairs of a fixed pattern: boolean [queries, keys]. Don't write into it."""
    with torch.inference_mode(False):
        masks = [PATTERNS[name](rule, queries, keys) for name in rule.pattern.split("_")]
        return torch.stack(masks).any(dim=0).to(device)


def hashed_mask(query: Tensor, key: Tensor, sparsity: float, generator: torch.Generator | None) -> Tensor:
    """The pairs that random hashes most often put into one bucket (HT Demucs, "Sparse attention").

    Each of 32 rounds sorts queries and keys into four buckets by the largest of ±⟨x, r₁⟩, ±⟨x, r₂⟩ for random
    directions r. Pairs that meet in at least k rounds are kept, k being the least that drops a fraction
    `sparsity` of all pairs; a query always keeps the keys that it meets most often.

    Args:
        query: [..., T, D].
        key: [..., N, D].
        sparsity: in [0, 1).
        generator: of the directions, on the CPU; None uses the global one.

    Returns:
        boolean [..., T, N].
    """
    directions = torch.randn(query.shape[-1], HASH_ROUNDS * HASH_BUCKETS // 2, generator=generator)
    directions = directions.to(query)
    meetings = _buckets(query, directions) @ _buckets(key, directions).transpose(-1, -2)
    best = meetings.amax(dim=-1, keepdim=True)
    return (meetings >= _least_meetings(meetings, sparsity)) | (meetings == best)


def _buckets(x: Tensor, directions: Tensor) -> Tensor:
    """The bucket of every vector in every round, one-hot: [..., T, D] -> [..., T, rounds · buckets]."""
    projected = (x @ directions).unflatten(-1, (HASH_ROUNDS, HASH_BUCKETS // 2))
    chosen = torch.cat([projected, -projected], dim=-1).argmax(dim=-1)
    return F.one_hot(chosen, HASH_BUCKETS).flatten(-2).to(x.dtype)


def _least_meetings(meetings: Tensor, sparsity: float) -> Tensor:
    """The smallest k for which at most a fraction 1 − sparsity of the pairs meets k times: [..., 1, 1]."""
    flat = meetings.float().flatten(-2)
    rows = flat.reshape(-1, flat.shape[-1])
    counts = [torch.histc(row, HASH_ROUNDS + 1, -0.5, HASH_ROUNDS + 0.5) for row in rows]
    reaching = torch.stack(counts).flip(-1).cumsum(-1).flip(-1)
    least = (reaching > (1 - sparsity) * flat.shape[-1]).sum(-1)
    return least.view(*flat.shape[:-1], 1, 1)


class SparseAttention(nn.Module):
    """Multi-head attention to the pairs that `rule` keeps.

    Args:
        channels: a multiple of `heads`.
        heads: attention heads.
        dropout: on the attention weights and on the output.
        rule: which pairs are kept.
    """

    def __init__(self, channels: int, heads: int, dropout: float, rule: Sparsity) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.rule = rule
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(channels, channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)
        self.proj_drop = nn.Dropout(dropout)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        """Queries [B, T, C] attend to the source [B, N, C]: [B, T, C]."""
        q, k, v = self._heads(self.q(query)), self._heads(self.k(source)), self._heads(self.v(source))
        attended = self._attend_hashed(q, k, v) if self.rule.hashed else self._attend_pattern(q, k, v)
        out: Tensor = self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, heads, T, C/heads]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)

    def _attend_pattern(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = pattern_mask(self.rule, q.shape[-2], k.shape[-2], q.device)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    def _attend_hashed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """One head at a time: a mask has as many elements as there are pairs."""
        generator = None if self.training else torch.Generator().manual_seed(self.rule.seed)
        heads = []
        for one_q, one_k, one_v in zip(q.split(1, 1), k.split(1, 1), v.split(1, 1), strict=True):
            with torch.no_grad():
                mask = hashed_mask(one_q, one_k, self.rule.sparsity, generator)
            heads.append(F.scaled_dot_product_attention(one_q, one_k, one_v, attn_mask=mask))
        return torch.cat(heads, dim=1)

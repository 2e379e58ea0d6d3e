"""Sparse attention, to the keys of a fixed pattern or to those that locality-sensitive hashing finds similar.

HT Demucs (Rouard, Massa, Défossez 2022), "Sparse attention"; demucs 4.1.0, transformer.py. There xformers
computes the kept scores only; here PyTorch's attention gets the pattern as a boolean mask.

Legend: `B` batch, `C` channels, `T` queries, `N` keys.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import UnknownNameError

HASH_ROUNDS = 32  # as in the released class
HASH_BUCKETS = 4


@dataclass(frozen=True)
class Sparsity:
    """Rule that selects the pairs of queries and keys that attention keeps.

    Attributes:
        pattern: names of `PATTERNS`, joined by underscores; a pair is kept if any of them keeps it.
        seed: of the random pattern, and of the hashes outside training.
        window: half width of the diagonal, in keys.
        global_window: number of first keys that all queries see, and, in proportion, of first queries that
            see all keys.
        sparsity: fraction of the pairs that the random pattern and hashing drop.
        hashed: select the pairs by hashing, and ignore the pattern.
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
    """Keep keys within `window` of the query's position in the keys' sequence."""
    return _around(queries, keys, torch.arange(-rule.window, rule.window + 1))


def _triangular(rule: Sparsity, queries: int, keys: int) -> Tensor:
    """Keep keys at distances 0, 1, 3, 6, 10 …, dense nearby and sparse far away.

    The mask gets one more row and column at each end, which collect the clamped offsets and are cut off.
    """
    steps = torch.arange(int((2 * keys) ** 0.5 + 1))
    distances = steps * (steps + 1) // 2  # triangular numbers
    offsets = torch.cat([-distances.flip(0)[:-1], distances])
    return _around(queries + 2, keys + 2, offsets, keys / queries)[1:-1, 1:-1]


def _around(queries: int, keys: int, offsets: Tensor, slope: float | None = None) -> Tensor:
    """Keep keys at `offsets` from slope·query; the default slope is keys/queries."""
    slope = keys / queries if slope is None else slope
    columns = (slope * torch.arange(queries)[:, None] + offsets).long().clamp(0, keys - 1)
    return torch.zeros(queries, keys, dtype=torch.bool).scatter_(1, columns, True)


def _global(rule: Sparsity, queries: int, keys: int) -> Tensor:
    """Keep the first keys for all queries, and all keys for the first queries."""
    mask = torch.zeros(queries, keys, dtype=torch.bool)
    mask[:, : rule.global_window] = True
    mask[: int(rule.global_window * queries / keys)] = True
    return mask


def _random(rule: Sparsity, queries: int, keys: int) -> Tensor:
    """Keep every pair with probability 1 − sparsity, the same pairs at every call."""
    generator = torch.Generator().manual_seed(rule.seed)
    return torch.rand(queries * keys, generator=generator).view(queries, keys) > rule.sparsity  # [T, N]


PATTERNS: dict[str, Callable[[Sparsity, int, int], Tensor]] = {
    "diag": _diagonal,
    "jmask": _triangular,
    "random": _random,
    "global": _global,
}


@lru_cache(maxsize=8)
def pattern_mask(rule: Sparsity, queries: int, keys: int, device: torch.device) -> Tensor:
    """Return the mask of a fixed pattern, boolean [queries, keys]; cached, so don't write into it."""
    with torch.inference_mode(False):
        masks = [PATTERNS[name](rule, queries, keys) for name in rule.pattern.split("_")]
        return torch.stack(masks).any(dim=0).to(device)


@lru_cache(maxsize=8)
def hash_directions(seed: int, heads: int, width: int, device: torch.device) -> tuple[Tensor, ...]:
    """Return the random directions of every head, [D, rounds·2] each for D = `width`; cached."""
    generator = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False):
        return tuple(_directions(width, generator).to(device) for _ in range(heads))


def _directions(width: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw directions on the CPU, so that they are the same for every device: [D, rounds·2]."""
    return torch.randn(width, HASH_ROUNDS * HASH_BUCKETS // 2, generator=generator)


def hashed_mask(query: Tensor, key: Tensor, sparsity: float, directions: Tensor) -> Tensor:
    """Return the pairs that random hashes most often put into the same bucket.

    Each of 32 rounds sorts queries and keys into four buckets by the largest of ±⟨x, r₁⟩, ±⟨x, r₂⟩ for random
    directions r. Pairs that meet in at least k rounds are kept, for the smallest k that drops a fraction
    `sparsity` of all pairs; a query always keeps the keys that it meets most often.

    Args:
        query: [..., T, D].
        key: [..., N, D].
        sparsity: in [0, 1).
        directions: r, [D, rounds·2].

    Returns:
        boolean [..., T, N].
    """
    directions = directions.to(query)
    # One-hot vectors: their products count the rounds in which a pair meets.
    meetings = _buckets(query, directions) @ _buckets(key, directions).transpose(-1, -2)  # [..., T, N]
    best = meetings.amax(dim=-1, keepdim=True)
    return (meetings >= _least_meetings(meetings, sparsity)) | (meetings == best)


def _buckets(x: Tensor, directions: Tensor) -> Tensor:
    """Return every vector's bucket in every round, one-hot: [..., T, D] -> [..., T, rounds·buckets]."""
    projected = (x @ directions).unflatten(-1, (HASH_ROUNDS, HASH_BUCKETS // 2))  # [..., T, rounds, 2]
    chosen = torch.cat([projected, -projected], dim=-1).argmax(dim=-1)  # [..., T, rounds]
    return F.one_hot(chosen, HASH_BUCKETS).flatten(-2).to(x.dtype)  # [..., T, rounds·buckets]


def _least_meetings(meetings: Tensor, sparsity: float) -> Tensor:
    """Return the least k for which at most 1 − sparsity of the pairs meet k times or more: [..., 1, 1]."""
    flat = meetings.float().flatten(-2)  # [..., T·N]
    rows = flat.reshape(-1, flat.shape[-1])  # [B·heads, T·N]
    counts = [torch.histc(row, HASH_ROUNDS + 1, -0.5, HASH_ROUNDS + 0.5) for row in rows]
    # Number of pairs that meet k times or more, k = 0 … rounds: a cumulative sum from the right.
    reaching = torch.stack(counts).flip(-1).cumsum(-1).flip(-1)  # [B·heads, rounds + 1]
    least = (reaching > (1 - sparsity) * flat.shape[-1]).sum(-1)
    return least.view(*flat.shape[:-1], 1, 1)  # [..., 1, 1]


class SparseAttention(nn.Module):
    """Multi-head attention to the pairs that `rule` keeps.

    Args:
        channels: a multiple of `heads`.
        heads: attention heads.
        dropout: on the attention weights and on the output.
        rule: selects the pairs.
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
        """Let queries [B, T, C] attend to the source [B, N, C]: [B, T, C]."""
        q, k, v = self._heads(self.q(query)), self._heads(self.k(source)), self._heads(self.v(source))
        attended = self._attend_hashed(q, k, v) if self.rule.hashed else self._attend_pattern(q, k, v)
        out: Tensor = self.proj_drop(self.proj(attended.transpose(1, 2).flatten(2)))  # [B, T, C]
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """Give every head its channels: [B, T, C] -> [B, heads, T, C/heads]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # [B, heads, T, C/heads]

    def _attend_pattern(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = pattern_mask(self.rule, q.shape[-2], k.shape[-2], q.device)
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    def _attend_hashed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend one head at a time, because a mask has as many elements as there are pairs."""
        width, heads = q.shape[-1], list[Tensor]()
        if self.training:
            directions = tuple(_directions(width) for _ in range(self.heads))
        else:
            directions = hash_directions(self.rule.seed, self.heads, width, q.device)
        each = zip(q.split(1, 1), k.split(1, 1), v.split(1, 1), directions, strict=True)
        for one_q, one_k, one_v, of_head in each:
            with torch.no_grad():
                mask = hashed_mask(one_q, one_k, self.rule.sparsity, of_head)
            heads.append(F.scaled_dot_product_attention(one_q, one_k, one_v, attn_mask=mask))
        return torch.cat(heads, dim=1)  # [B, heads, T, C/heads]

"""Content-based attention that a learnt penalty on distance makes local.

Legend: `B` batch, `C` channels, `T` steps in time.
"""

import math

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError

SELF_SCORE = -100.0  # a weight of zero after the softmax, and finite in half precision


class LocalState(nn.Module):
    """Residual local attention (Hybrid Demucs, "Local attention"; demucs 4.1.0, demucs.py, `LocalState`).

    There are no position embeddings. A query s scores a key t by ⟨q_s, k_t⟩/√d − a_s |t − s|, where the query
    determines its slope a_s = Σ_f f σ(w_f(s)) / (2 √decays) ≥ 0, f = 1 … decays. A step doesn't attend to
    itself.

    Args:
        channels: a multiple of `heads`.
        heads: attention heads.
        decays: rates of the distance penalty.

    Raises:
        StemsplitError: `channels` isn't a multiple of `heads`.
    """

    def __init__(self, channels: int, heads: int = 4, decays: int = 4) -> None:
        super().__init__()
        if channels % heads:
            raise StemsplitError(f"local attention: {channels} channels can't be shared by {heads} heads")
        self.heads = heads
        self.decays = decays
        self.content = nn.Conv1d(channels, channels, 1)
        self.query = nn.Conv1d(channels, channels, 1)
        self.key = nn.Conv1d(channels, channels, 1)
        self.query_decay = nn.Conv1d(channels, heads * decays, 1)
        self.proj = nn.Conv1d(channels, channels, 1)
        with torch.no_grad():  # start with a wide window that hardly depends on the query
            self.query_decay.weight.mul_(0.01)
            self.query_decay.bias.fill_(-2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        query, key, content = (self._heads(layer(x)) for layer in (self.query, self.key, self.content))
        scores = query.transpose(-1, -2) @ key / math.sqrt(key.shape[-2])  # [B, heads, T, T]
        scores = scores - self._slopes(x)[..., None] * _distances(x)  # [B, heads, T, 1] · [T, T]
        itself = torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
        weights = scores.masked_fill(itself, SELF_SCORE).softmax(dim=-1)
        attended = content @ weights.transpose(-1, -2)  # [B, heads, C/heads, T]
        out: Tensor = x + self.proj(attended.flatten(1, 2))  # [B, C, T]
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """Give every head its channels: [B, C, T] -> [B, heads, C/heads, T]."""
        return x.reshape(x.shape[0], self.heads, -1, x.shape[-1])  # [B, heads, C/heads, T]

    def _slopes(self, x: Tensor) -> Tensor:
        """Return each query's penalty per step of distance, a_s: [B, C, T] -> [B, heads, T]."""
        rates = torch.arange(1, self.decays + 1, device=x.device, dtype=x.dtype)
        gates = self._heads(self.query_decay(x)).sigmoid() / (2 * math.sqrt(self.decays))
        return torch.einsum("f,bhft->bht", rates, gates)  # gates: [B, heads, decays, T]


def _distances(x: Tensor) -> Tensor:
    """Return |t − s| for all pairs of steps of x: [..., T] -> [T, T]."""
    steps = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    return (steps[:, None] - steps).abs()

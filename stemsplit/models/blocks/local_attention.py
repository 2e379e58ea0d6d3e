"""Attention that is content-based and, by a learnt penalty on distance, local."""

import math

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError

SELF_SCORE = -100.0


class LocalState(nn.Module):
    """Local attention (Hybrid Demucs, "Local attention").

    No position is embedded. A query s scores a key t by ⟨q_s, k_t⟩/√d − a_s |t − s|, where the slope a_s ≥ 0
    is the query's own choice among `decays` rates: a_s = Σ_f f σ(w_f(s)) / (2 √decays). A step doesn't attend
    to itself. The result is added to the input.

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
        with torch.no_grad():  # start with a nearly constant and wide window
            self.query_decay.weight.mul_(0.01)
            self.query_decay.bias.fill_(-2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        query, key, content = (self._heads(layer(x)) for layer in (self.query, self.key, self.content))
        scores = query.transpose(-1, -2) @ key / math.sqrt(key.shape[-2])
        scores = scores - self._slopes(x)[..., None] * _distances(x)
        itself = torch.eye(x.shape[-1], dtype=torch.bool, device=x.device)
        weights = scores.masked_fill(itself, SELF_SCORE).softmax(dim=-1)
        attended = content @ weights.transpose(-1, -2)
        out: Tensor = x + self.proj(attended.flatten(1, 2))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, heads, C/heads, T]."""
        return x.reshape(x.shape[0], self.heads, -1, x.shape[-1])

    def _slopes(self, x: Tensor) -> Tensor:
        """The penalty per step of distance that each query chooses: [B, C, T] -> [B, heads, T]."""
        rates = torch.arange(1, self.decays + 1, device=x.device, dtype=x.dtype)
        chosen = self._heads(self.query_decay(x)).sigmoid() / (2 * math.sqrt(self.decays))
        return torch.einsum("f,bhft->bht", rates, chosen)


def _distances(x: Tensor) -> Tensor:
    """|t − s| for all pairs of steps of x [..., T]: [T, T]."""
    steps = torch.arange(x.shape[-1], device=x.device, dtype=x.dtype)
    return (steps[:, None] - steps).abs()

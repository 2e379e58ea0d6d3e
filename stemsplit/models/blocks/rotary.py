"""Pre-norm transformers with rotary positions and gated heads, along one axis of a grid of features.

BS-RoFormer (Lu et al. 2023), as in lucidrains/BS-RoFormer, bs_roformer/bs_roformer.py.

Legend: `N` sequences (batch · the other axis), `T` steps of a sequence.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shape:
    """Settings that all transformers of a network share.

    Attributes:
        width: of the features.
        heads: number of attention heads.
        head_width: width of a head; heads·head_width needn't be `width`.
        attention_dropout: of the attention's weights and output.
        hidden_dropout: of the feed-forward layers.
    """

    width: int
    heads: int
    head_width: int
    attention_dropout: float = 0.0
    hidden_dropout: float = 0.0

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return self.heads * self.head_width


class RMSNorm(nn.Module):
    """RMS normalisation over the last dimension: x / ‖x‖ · √width · γ."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        scale = self.gamma * math.sqrt(self.gamma.shape[0])
        unit: Tensor = F.normalize(x, dim=-1)
        return unit * scale


class Rotary(nn.Module):
    """Rotary positions (Su et al. 2021): pair i at position t turns by the angle t·10000^(−2i/width).

    The angles are computed in full precision at every call. Checkpoints have the frequencies once per
    attention, rounded to half precision or missing, so the stored values are ignored.
    """

    STORED: ClassVar[str] = "freqs"  # name of the frequencies in checkpoints

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.register_buffer(self.STORED, self._frequencies(None))

    def _frequencies(self, device: torch.device | None) -> Tensor:
        exponents = torch.arange(0, self.width, 2, device=device, dtype=torch.float32) / self.width
        return 10_000.0**-exponents

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict[prefix + self.STORED] = self._frequencies(None)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def angles(self, length: int, device: torch.device) -> Tensor:
        """Return the angles of every position, [length, width/2]."""
        positions = torch.arange(length, device=device, dtype=torch.float32)
        return torch.outer(positions, self._frequencies(device))

    def forward(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return cosine and sine of every position's angles, [length, width/2] each."""
        angles = self.angles(length, device)
        return angles.cos(), angles.sin()

    def attention(self, shape: Shape) -> "GatedAttention":
        """Make an attention with these positions."""
        return Attention(shape, self)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (a, b) of the last dimension to (a cos − b sin, b cos + a sin).

    Args:
        x: [..., T, width].
        cos: [T, width/2].
        sin: [T, width/2].

    Returns:
        [..., T, width].
    """
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)  # [..., T, width/2] each
    turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)  # [..., T, width/2, 2]
    return turned.flatten(-2).type_as(x)  # [..., T, width]


class GatedAttention(nn.Module):
    """Self-attention; a gate computed from the input weighs each head's output.

    A subclass says what positions do to queries and keys.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.dropout = shape.attention_dropout
        self.norm = RMSNorm(shape.width)
        self.to_qkv = nn.Linear(shape.width, 3 * shape.inner, bias=False)
        self.to_gates = nn.Linear(shape.width, shape.heads)
        self.to_out = nn.Sequential(
            nn.Linear(shape.inner, shape.width, bias=False), nn.Dropout(shape.attention_dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        x = self.norm(x)
        return self.attend(x, *self.project(x))

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values of a normalised input, [N, heads, T, head width] each."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.heads, -1))  # [N, T, 3, heads, head width]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # [N, heads, T, head width] each
        return q, k, v

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return the output for a normalised input x, [N, T, width], and what `project` made of it."""
        dropout = self.dropout if self.training else 0.0
        heads = self.placed(q, k, v.contiguous(), dropout)  # [N, heads, T, head width]
        gated = heads.transpose(1, 2) * self.to_gates(x).sigmoid()[..., None]  # [N, T, heads, head width]
        y: Tensor = self.to_out(gated.flatten(2))  # [N, T, width]
        return y

    def placed(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attend with positions; all are [N, heads, T, head width]."""
        raise TypeError(f"{type(self).__name__} has no positions")


class Attention(GatedAttention):
    """Gated attention with rotary positions.

    Args:
        shape: of the heads.
        rotary: positions, one module for all attentions along the same axis.
    """

    def __init__(self, shape: Shape, rotary: Rotary) -> None:
        super().__init__(shape)
        self.rotary_embed = rotary

    def placed(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attend with positions; all are [N, heads, T, head width]."""
        cos, sin = self.rotary_embed(q.shape[2], q.device)
        return F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, dropout_p=dropout)


class LinearAttention(nn.Module):
    """Attention between the features of a head rather than between positions, in time linear in T.

    Queries and keys are normalised along the positions, and a learnt temperature scales their products
    (XCiT, El-Nouby et al. 2021).
    """

    SCALE = 8.0

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.dropout = shape.attention_dropout
        self.norm = RMSNorm(shape.width)
        self.to_qkv = nn.Sequential(nn.Linear(shape.width, 3 * shape.inner, bias=False))
        self.temperature = nn.Parameter(torch.zeros(shape.heads, 1, 1))
        # Released checkpoints have a layer without parameters at index 0.
        self.to_out = nn.Sequential(OrderedDict([("1", nn.Linear(shape.inner, shape.width, bias=False))]))

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        qkv = self.to_qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))  # [N, T, 3, heads, head width]
        q, k, v = qkv.permute(2, 0, 3, 4, 1)  # [N, heads, head width, T] each
        q = F.normalize(q, dim=-1) * self.temperature.exp()
        dropout = self.dropout if self.training else 0.0
        heads = F.scaled_dot_product_attention(
            q, F.normalize(k, dim=-1), v, dropout_p=dropout, scale=self.SCALE
        )
        y: Tensor = self.to_out(heads.permute(0, 3, 1, 2).flatten(2))  # [N, T, width]
        return y


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, `expansion` times as wide inside."""

    def __init__(self, shape: Shape, expansion: float = 4) -> None:
        super().__init__()
        inside = int(shape.width * expansion)
        self.net = nn.Sequential(
            RMSNorm(shape.width),
            nn.Linear(shape.width, inside),
            nn.GELU(),
            nn.Dropout(shape.hidden_dropout),
            nn.Linear(inside, shape.width),
            nn.Dropout(shape.hidden_dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        y: Tensor = self.net(x)
        return y


class Transformer(nn.Module):
    """Residual attention and feed-forward layers by turns.

    Args:
        shape: of every layer.
        depth: number of pairs of layers.
        rotary: positions along the axis; None for linear attention, which has no positions.
        norm: normalise the output.
    """

    def __init__(self, shape: Shape, depth: int, rotary: Rotary | None, norm: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for _ in range(depth):
            attention = LinearAttention(shape) if rotary is None else rotary.attention(shape)
            self.layers.append(nn.ModuleList([attention, FeedForward(shape)]))
        self.norm = RMSNorm(shape.width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        for attention, feed_forward in self._pairs():
            x = x + attention(x)
            x = x + feed_forward(x)
        y: Tensor = self.norm(x)
        return y

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        return [tuple(pair) for pair in self.layers]  # type: ignore[misc, arg-type]

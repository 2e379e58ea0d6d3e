"""Attention with polar positions (PoPE): what a feature is and where it is are told apart.

Gopalakrishnan et al., "Decoupling the 'What' and 'Where' With Polar Coordinate Positional Embeddings", 2025;
as in lucidrains/PoPE-pytorch.

Legend: `N` sequences (batch · the other axis), `T` steps of a sequence.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.rotary import GatedAttention, Rotary, Shape


class Polar(Rotary):
    """Polar positions: feature d at position t has the angle t·10000^(−d/width), a key's also a learnt phase.

    Args:
        width: of a head.
        heads: number of attention heads.
    """

    STORED: ClassVar[str] = "inv_freqs"

    def __init__(self, width: int, heads: int) -> None:
        super().__init__(2 * width)  # as many angles as a head has features
        self.bias = nn.Parameter(torch.zeros(heads, width))

    def phases(self) -> Tensor:
        """Return the keys' phases from −2π to 0, [heads, 1, width]."""
        return self.bias.float().clamp(-2 * math.pi, 0)[:, None]

    def attention(self, shape: Shape) -> GatedAttention:
        """Make an attention with these positions."""
        return PolarAttention(shape, self)


class PolarAttention(GatedAttention):
    """Gated attention whose queries and keys are lengths, softplus(q) and softplus(k), at their angles.

    Args:
        shape: of the heads.
        polar: positions, one module for all attentions along the same axis.
    """

    def __init__(self, shape: Shape, polar: Polar) -> None:
        super().__init__(shape)
        self.scale = shape.head_width**-0.5
        self.pope_embed = polar

    def placed(self, q: Tensor, k: Tensor, v: Tensor, dropout: float) -> Tensor:
        """Attend with positions; all are [N, heads, T, head width]."""
        angles = self.pope_embed.angles(q.shape[2], q.device)  # [T, head width]
        q, k = cartesian(q, angles), cartesian(k, angles + self.pope_embed.phases())
        # Flash attention takes values as wide as queries and keys only; on a CPU it saves half of the time.
        wide = F.pad(v, (0, v.shape[-1]))  # [N, heads, T, 2·head width]
        heads = F.scaled_dot_product_attention(q, k, wide, dropout_p=dropout, scale=self.scale)
        return heads[..., : v.shape[-1]]


def cartesian(x: Tensor, angles: Tensor) -> Tensor:
    """Return the coordinates of vectors in the plane.

    Args:
        x: their lengths before the softplus, [..., T, width].
        angles: [..., T, width].

    Returns:
        [..., T, 2·width].
    """
    length = F.softplus(x)
    return torch.cat([length * angles.cos(), length * angles.sin()], dim=-1).type_as(x)

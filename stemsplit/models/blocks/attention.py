"""Transformer layers, and the encoder that lets a spectrogram and a waveform attend to each other.

HT Demucs (Rouard, Massa, Défossez 2022), "Cross-domain Transformer Encoder".
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.conv import LayerScale
from stemsplit.models.blocks.embeddings import grid_sinusoids
from stemsplit.models.blocks.sparse_attention import SparseAttention, Sparsity
from stemsplit.models.fast.packed import PackedLinear, PackedSequenceNorm

LAYER_SCALE = 1e-4


@dataclass(frozen=True)
class LayerShape:
    """What a Transformer layer is made of.

    Attributes:
        channels: C, a multiple of `heads`.
        heads: attention heads.
        hidden: width of the feed-forward part.
        dropout: of attention, feed-forward part and both residuals.
        gelu: rather than ReLU.
        groups: normalise over this many groups of channels and over time; 0 normalises every step by itself.
        norm_first: normalise what enters a residual branch rather than what leaves the addition.
        norm_out: with `norm_first`, normalise the layer's output over time as well, in this many groups.
        layer_scale: scale the residual branches by learnt factors.
        sparsity: which pairs attention keeps, None for all.
    """

    channels: int
    heads: int
    hidden: int
    dropout: float
    gelu: bool
    groups: int
    norm_first: bool
    norm_out: int
    layer_scale: bool
    sparsity: Sparsity | None

    def norm(self) -> nn.Module:
        """A normalisation of [B, T, C]."""
        return SequenceNorm(self.groups, self.channels) if self.groups else nn.LayerNorm(self.channels)

    def scale(self) -> nn.Module:
        """What a residual branch ends with."""
        return (
            LayerScale(self.channels, LAYER_SCALE, channel_last=True) if self.layer_scale else nn.Identity()
        )

    def attention(self) -> nn.Module:
        """Attention of [B, T, C] to [B, N, C]."""
        if self.sparsity is None:
            return Attention(self.channels, self.heads, self.dropout)
        return SparseAttention(self.channels, self.heads, self.dropout, self.sparsity)


class SequenceNorm(nn.GroupNorm):
    """Group normalisation over channels and time at once."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head attention; queries, keys and values are projected by one stacked weight.

    Args:
        channels: a multiple of `heads`.
        heads: attention heads.
        dropout: on the attention weights.
    """

    def __init__(self, channels: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        """Queries [B, T, C] attend to the source [B, N, C]: [B, T, C]."""
        channels = query.shape[-1]
        weight_q, weight_kv = self.in_proj_weight.split([channels, 2 * channels])
        bias_q, bias_kv = self.in_proj_bias.split([channels, 2 * channels])
        q = F.linear(query, weight_q, bias_q)
        k, v = F.linear(source, weight_kv, bias_kv).chunk(2, dim=-1)
        dropout = self.dropout if self.training else 0.0
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class PackedAttention(nn.Module):
    """`Attention` with packed projections.

    Args:
        attention: what it computes.
        scale: a factor per channel of the output, [C].
        dtype: of the arithmetic.
    """

    def __init__(self, attention: Attention, scale: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = attention.heads
        channels = attention.out_proj.out_features
        weights = attention.in_proj_weight.split([channels, 2 * channels])
        biases = attention.in_proj_bias.split([channels, 2 * channels])
        self.query, self.key_value = (
            PackedLinear(weight, bias, dtype=dtype, keep=True)
            for weight, bias in zip(weights, biases, strict=True)
        )
        out = attention.out_proj
        self.out = PackedLinear(out.weight, out.bias, scale=scale, dtype=dtype)

    def forward(self, query: Tensor, source: Tensor) -> Tensor:
        """Queries [B, T, C] attend to the source [B, N, C]: [B, T, C]."""
        projected = (self.query(query), *self.key_value(source).chunk(2, dim=-1))
        # A head's rows lie far apart, each on its own page of memory; side by side they are read faster.
        q, k, v = (split_heads(x, self.heads).contiguous() for x in projected)
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2)).to(query.dtype)
        return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, T, C] -> [B, heads, T, C/heads]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """The part that every Transformer layer ends with, and the scale of both its residual branches."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__()
        self.norm_first = shape.norm_first
        self.activation: Callable[[Tensor], Tensor] = F.gelu if shape.gelu else F.relu
        self.linear1: nn.Linear | PackedLinear = nn.Linear(shape.channels, shape.hidden)
        self.linear2: nn.Linear | PackedLinear = nn.Linear(shape.hidden, shape.channels)
        self.gamma_1 = shape.scale()
        self.gamma_2 = shape.scale()
        self.dropout = nn.Dropout(shape.dropout)
        self.norm_out: nn.Module = nn.Identity()
        if shape.norm_first and shape.norm_out:
            self.norm_out = SequenceNorm(int(shape.norm_out), shape.channels)

    def feed_forward(self, x: Tensor) -> Tensor:
        """The second residual branch: [B, T, C] -> [B, T, C]."""
        hidden = self.dropout(self.activation(self.linear1(x)))
        out: Tensor = self.gamma_2(self.dropout(self.linear2(hidden)))
        return out

    def prepare(self, dtype: torch.dtype) -> None:
        """Pack the weights for inference, the activation and the second LayerScale with them."""
        activation = "gelu" if self.activation is F.gelu else "relu"
        wide, narrow = self.linear1, self.linear2
        self.linear1 = PackedLinear(wide.weight, wide.bias, activation=activation, dtype=dtype, keep=True)
        self.linear2 = PackedLinear(narrow.weight, narrow.bias, scale=_factors(self.gamma_2), dtype=dtype)
        self.activation, self.gamma_2 = nn.Identity(), nn.Identity()
        if isinstance(self.norm_out, SequenceNorm) and self.norm_out.num_groups == 1:
            self.norm_out = PackedSequenceNorm(self.norm_out)

    def packed_attention(self, attention: nn.Module, dtype: torch.dtype) -> nn.Module:
        """The layer's attention for inference, the first LayerScale with it; a sparse one stays as it is."""
        if not isinstance(attention, Attention):
            return attention
        packed = PackedAttention(attention, _factors(self.gamma_1), dtype)
        self.gamma_1 = nn.Identity()
        return packed


def _factors(scale: nn.Module) -> Tensor | None:
    """What a LayerScale multiplies by, None for the identity: [C]."""
    return scale.scale if isinstance(scale, LayerScale) else None


class SelfLayer(FeedForward):
    """A Transformer layer in which a sequence attends to itself."""

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape)
        self.self_attn = shape.attention()
        self.norm1 = shape.norm()
        self.norm2 = shape.norm()

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        if self.norm_first:
            x = x + self._attend(self.norm1(x))
            out: Tensor = self.norm_out(x + self.feed_forward(self.norm2(x)))
        else:
            x = self.norm1(x + self._attend(x))
            out = self.norm2(x + self.feed_forward(x))
        return out

    def _attend(self, x: Tensor) -> Tensor:
        out: Tensor = self.gamma_1(self.dropout(self.self_attn(x, x)))
        return out

    def prepare(self, dtype: torch.dtype) -> None:
        """Pack the weights for inference."""
        super().prepare(dtype)
        self.self_attn = self.packed_attention(self.self_attn, dtype)


class CrossLayer(FeedForward):
    """A Transformer layer in which a sequence attends to another one.

    `norm3` has parameters even where the norms come last and use two, as in the released class.
    """

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape)
        self.cross_attn = shape.attention()
        self.norm1 = shape.norm()
        self.norm2 = shape.norm()
        self.norm3 = shape.norm()

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """[B, T, C] attends to [B, N, C]: [B, T, C]."""
        if self.norm_first:
            x = x + self._attend(self.norm1(x), self.norm2(other))
            out: Tensor = self.norm_out(x + self.feed_forward(self.norm3(x)))
        else:
            x = self.norm1(x + self._attend(x, other))
            out = self.norm2(x + self.feed_forward(x))
        return out

    def _attend(self, x: Tensor, other: Tensor) -> Tensor:
        out: Tensor = self.gamma_1(self.dropout(self.cross_attn(x, other)))
        return out

    def prepare(self, dtype: torch.dtype) -> None:
        """Pack the weights for inference."""
        super().prepare(dtype)
        self.cross_attn = self.packed_attention(self.cross_attn, dtype)


class CrossTransformer(nn.Module):
    """Layers over a spectrogram and a waveform, which attend to themselves and to each other in turn.

    The bins of a spectrogram's frames are laid out frame after frame as one sequence. Its positions are
    embedded by two-dimensional sinusoids.

    Args:
        shape: of the layers.
        layers: in each of the two branches.
        cross_first: start with a layer that attends to the other branch.
        sparse_self: keep the shape's sparsity where a branch attends to itself.
        sparse_cross: keep it where a branch attends to the other.
        norm_in: makes a normalisation of the input.
        positions: embeds the waveform's positions.
        period: of the spectrogram's sinusoids.
        position_weight: factor on the embeddings of both branches.
    """

    def __init__(
        self,
        shape: LayerShape,
        *,
        layers: int,
        cross_first: bool,
        sparse_self: bool,
        sparse_cross: bool,
        norm_in: Callable[[], nn.Module],
        positions: nn.Module,
        period: float,
        position_weight: float,
    ) -> None:
        super().__init__()
        self.period = period
        self.position_weight = position_weight
        self.position_embeddings = positions
        self.norm_in = norm_in()
        self.norm_in_t = norm_in()
        of_self = shape if sparse_self else replace(shape, sparsity=None)
        of_cross = shape if sparse_cross else replace(shape, sparsity=None)

        def branch() -> nn.ModuleList:
            crosses = [index % 2 != int(cross_first) for index in range(layers)]
            return nn.ModuleList(CrossLayer(of_cross) if cross else SelfLayer(of_self) for cross in crosses)

        self.layers = branch()
        self.layers_t = branch()

    def forward(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Spectrogram [B, C, F, frames] and waveform [B, C, T]; the same shapes come back."""
        bins = x.shape[-2]
        x, xt = self._embed(x, xt)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            if isinstance(layer, CrossLayer):
                x, xt = layer(x, xt), layer_t(xt, x)
            else:
                x, xt = layer(x), layer_t(xt)
        return x.transpose(1, 2).unflatten(-1, (-1, bins)).transpose(-1, -2), xt.transpose(1, 2)

    def prepare(self, dtype: torch.dtype) -> None:
        """Pack the weights for inference."""
        for layer in (*self.layers, *self.layers_t):
            cast(SelfLayer | CrossLayer, layer).prepare(dtype)

    def _embed(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Both branches as normalised sequences with their positions: [B, frames · F, C] and [B, T, C]."""
        batch, channels, bins, frames = x.shape
        grid = grid_sinusoids(bins, frames, channels, self.period, x.device)
        steps = self.position_embeddings(batch, xt.shape[-1], x.device)
        x = self.norm_in(x.transpose(-1, -2).flatten(2).transpose(1, 2))
        xt = self.norm_in_t(xt.transpose(1, 2))
        return x + self.position_weight * grid, xt + self.position_weight * steps

"""Transformer layers, and the encoder that lets a spectrogram and a waveform attend to each other.

HT Demucs (Rouard, Massa, Défossez 2022), "Cross-domain Transformer Encoder"; demucs 4.1.0, transformer.py.

Legend: `B` batch, `C` channels, `F` bins, `T` steps of a sequence, `N` steps of another.
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

LAYER_SCALE = 1e-4  # initial factor of the residual branches


@dataclass(frozen=True)
class LayerShape:
    """Settings of a Transformer layer.

    Attributes:
        channels: C, a multiple of `heads`.
        heads: attention heads.
        hidden: width of the feed-forward part.
        dropout: of attention, feed-forward part and both residual branches.
        gelu: GELU rather than ReLU.
        groups: of a group normalisation over channels and time; 0 for a layer normalisation of every step.
        norm_first: normalise the input of every residual branch (pre-norm) rather than the sums (post-norm).
        norm_out: with `norm_first`, groups of one more normalisation, of the layer's output.
        layer_scale: scale the residual branches by learnt factors.
        sparsity: pairs that attention keeps, None for all.
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
        """Make a normalisation of [B, T, C]."""
        return SequenceNorm(self.groups, self.channels) if self.groups else nn.LayerNorm(self.channels)

    def scale(self) -> nn.Module:
        """Make the LayerScale at the end of a residual branch, or an identity."""
        return (
            LayerScale(self.channels, LAYER_SCALE, channel_last=True) if self.layer_scale else nn.Identity()
        )

    def attention(self) -> nn.Module:
        """Make an attention of [B, T, C] to [B, N, C]."""
        if self.sparsity is None:
            return Attention(self.channels, self.heads, self.dropout)
        return SparseAttention(self.channels, self.heads, self.dropout, self.sparsity)


class SequenceNorm(nn.GroupNorm):
    """Group normalisation over channels and time at once."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)  # [B, C, T] -> [B, T, C]


class Attention(nn.Module):
    """Multi-head attention with one stacked weight for queries, keys and values, as in torch's class.

    Args:
        channels: a multiple of `heads`.
        heads: attention heads.
        dropout: on the attention weights.

    Attributes:
        only_products: True, for it only multiplies by its weights.
    """

    only_products = True

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
        """Let queries [B, T, C] attend to the source [B, N, C]: [B, T, C]."""
        channels = query.shape[-1]
        weight_q, weight_kv = self.in_proj_weight.split([channels, 2 * channels])
        bias_q, bias_kv = self.in_proj_bias.split([channels, 2 * channels])
        q = F.linear(query, weight_q, bias_q)
        k, v = F.linear(source, weight_kv, bias_kv).chunk(2, dim=-1)  # [B, N, C] each
        dropout = self.dropout if self.training else 0.0
        q, k, v = (split_heads(x, self.heads) for x in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)  # [B, heads, T, C/heads]
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))  # [B, T, C]
        return out


class PackedAttention(nn.Module):
    """`Attention` with packed projections, for inference on a CPU.

    Args:
        attention: to take the weights from.
        scale: factor per channel of the output, [C].
        dtype: to compute in.
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
        """Let queries [B, T, C] attend to the source [B, N, C]: [B, T, C]."""
        projected = (self.query(query), *self.key_value(source).chunk(2, dim=-1))
        # The rows of a head lie a page of memory apart; a contiguous copy is read faster.
        q, k, v = (split_heads(x, self.heads).contiguous() for x in projected)
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(attended.transpose(1, 2).flatten(2)).to(query.dtype)  # [B, T, C]
        return out


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Give every head its channels: [B, T, C] -> [B, heads, T, C/heads]."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)  # [B, heads, T, C/heads]


class FeedForward(nn.Module):
    """Base of both Transformer layers: the feed-forward branch, and the modules of both branches.

    Args:
        shape: of the layer.
        attention: name of the attention.
        norms: number of normalisations of inputs.
    """

    norm1: nn.Module
    norm2: nn.Module

    def __init__(self, shape: LayerShape, attention: str, norms: int) -> None:
        super().__init__()
        self.norm_first = shape.norm_first
        self.activation: Callable[[Tensor], Tensor] = F.gelu if shape.gelu else F.relu
        # In demucs' order, in which quantised checkpoints have the parameters
        self.add_module(attention, shape.attention())
        self.linear1: nn.Linear | PackedLinear = nn.Linear(shape.channels, shape.hidden)
        self.linear2: nn.Linear | PackedLinear = nn.Linear(shape.hidden, shape.channels)
        for number in range(1, norms + 1):
            self.add_module(f"norm{number}", shape.norm())
        self.norm_out: nn.Module = nn.Identity()
        if shape.norm_first and shape.norm_out:
            self.norm_out = SequenceNorm(int(shape.norm_out), shape.channels)
        self.gamma_1 = shape.scale()
        self.gamma_2 = shape.scale()
        self.dropout = nn.Dropout(shape.dropout)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Compute the second residual branch: [B, T, C] -> [B, T, C]."""
        hidden = self.dropout(self.activation(self.linear1(x)))
        out: Tensor = self.gamma_2(self.dropout(self.linear2(hidden)))
        return out

    def prepare(self, dtype: torch.dtype) -> None:
        """Pack the weights for inference, with the activation and the second LayerScale folded in."""
        activation = "gelu" if self.activation is F.gelu else "relu"
        wide, narrow = self.linear1, self.linear2
        self.linear1 = PackedLinear(wide.weight, wide.bias, activation=activation, dtype=dtype, keep=True)
        self.linear2 = PackedLinear(narrow.weight, narrow.bias, scale=_factors(self.gamma_2), dtype=dtype)
        self.activation, self.gamma_2 = nn.Identity(), nn.Identity()  # the packed layers compute both
        if isinstance(self.norm_out, SequenceNorm) and self.norm_out.num_groups == 1:
            self.norm_out = PackedSequenceNorm(self.norm_out)

    def packed_attention(self, attention: nn.Module, dtype: torch.dtype) -> nn.Module:
        """Return attention packed for inference with the first LayerScale; a sparse one stays as it is."""
        if not isinstance(attention, Attention):
            return attention
        packed = PackedAttention(attention, _factors(self.gamma_1), dtype)
        self.gamma_1 = nn.Identity()
        return packed


def _factors(scale: nn.Module) -> Tensor | None:
    """Return the factors of a LayerScale, [C]; None for an identity."""
    return scale.scale if isinstance(scale, LayerScale) else None


class SelfLayer(FeedForward):
    """A Transformer layer in which a sequence attends to itself."""

    self_attn: nn.Module

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape, "self_attn", norms=2)

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

    A post-norm layer uses two of its three norms; the third has parameters too, as in released checkpoints.
    """

    cross_attn: nn.Module
    norm3: nn.Module

    def __init__(self, shape: LayerShape) -> None:
        super().__init__(shape, "cross_attn", norms=3)

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        """Let [B, T, C] attend to [B, N, C]: [B, T, C]."""
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
    """Transformer in which a spectrogram and a waveform attend to themselves and to each other by turns.

    The spectrogram becomes a sequence of F·frames steps, bin after bin of frame after frame, with
    two-dimensional sinusoids for positions.

    Args:
        shape: of the layers.
        layers: in each of the two branches.
        cross_first: start with cross-attention between the branches.
        sparse_self: apply the shape's sparsity to self-attention.
        sparse_cross: apply it to cross-attention.
        norm_in: makes a normalisation of the input.
        positions: embeds the waveform's positions.
        period: of the spectrogram's sinusoids, in positions per radian.
        position_weight: factor on the position embeddings of both branches.
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
        """Return a spectrogram [B, C, F, frames] and a waveform [B, C, T] in the same shapes."""
        bins = x.shape[-2]
        x, xt = self._embed(x, xt)
        for layer, layer_t in zip(self.layers, self.layers_t, strict=True):
            if isinstance(layer, CrossLayer):
                x, xt = layer(x, xt), layer_t(xt, x)
            else:
                x, xt = layer(x), layer_t(xt)
        x = x.transpose(1, 2).unflatten(-1, (-1, bins)).transpose(-1, -2)  # [B, C, F, frames]
        return x, xt.transpose(1, 2)  # [B, C, T]

    def prepare(self, dtype: torch.dtype) -> None:
        """Pack the weights for inference."""
        for layer in (*self.layers, *self.layers_t):
            cast(SelfLayer | CrossLayer, layer).prepare(dtype)

    def _embed(self, x: Tensor, xt: Tensor) -> tuple[Tensor, Tensor]:
        """Return both branches as normalised sequences plus positions, [B, frames·F, C] and [B, T, C]."""
        batch, channels, bins, frames = x.shape
        grid = grid_sinusoids(bins, frames, channels, self.period, x.device)
        steps = self.position_embeddings(batch, xt.shape[-1], x.device)
        x = self.norm_in(x.transpose(-1, -2).flatten(2).transpose(1, 2))  # [B, frames·F, C]
        xt = self.norm_in_t(xt.transpose(1, 2))  # [B, T, C]
        return x + self.position_weight * grid, xt + self.position_weight * steps

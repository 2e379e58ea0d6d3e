"""Transformers and Conformers over a grid of features for inference on a CPU: slice by slice, in place.

The features of all bands and frames are far larger than a cache, and what a layer makes of them is several
times larger still. Every pass over them costs memory bandwidth, and every new tensor of more than 32 MB costs
page faults, because glibc asks the system for each of them. The sequences along one axis are independent of
each other, so a few of them pass through all layers of an axis together: they stay in the cache, and the
memory of one slice serves for the next.

Every layer here adds its output to its input and returns it. The factors of the norms are folded into the
linear layers behind them; queries, keys, values and gates come from one product.

Legend: `B` batch, `N` sequences, `T` steps of a sequence.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.axial import AxialBlock
from stemsplit.models.blocks.conformer import Conformer, HalfFeedForward
from stemsplit.models.blocks.rotary import Attention, FeedForward, RMSNorm, Rotary, Transformer
from stemsplit.models.fast.packed import PackedLinear, pack_linears

ROWS = 2048  # steps of a slice; from 1000 to 4000 make no difference
FLOOR = 1e-12  # of the lengths that vectors are divided by, as in F.normalize


def unit(x: Tensor) -> Tensor:
    """Divide vectors by their lengths: [N, T, width] -> [N, T, width], contiguous whatever x is."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min_(FLOOR)  # [N, T, 1]
    return torch.div(x, length, out=x.new_empty(x.shape))


def factors(norm: nn.Module) -> Tensor:
    """Return what an RMS norm multiplies unit vectors by, [width]."""
    gamma = cast(RMSNorm, norm).gamma.detach()
    return gamma * math.sqrt(gamma.shape[0])


@lru_cache(maxsize=8)
def turns(width: int, length: int) -> Tensor:
    """Return e^(i·angle) of the rotary positions of heads of `width`, complex [length, width/2]."""
    with torch.inference_mode(False):
        return torch.complex(*Rotary(width)(length, torch.device("cpu")))


class SlicedAttention(nn.Module):
    """Gated attention with rotary positions.

    The rotation of a pair (a, b) by an angle is the product of a + ib and e^(i·angle).

    Args:
        attention: to take the weights from.
        dtype: of the linear layers' arithmetic.
    """

    def __init__(self, attention: Attention, dtype: torch.dtype) -> None:
        super().__init__()
        qkv, gates, out = attention.to_qkv, attention.to_gates, cast(nn.Linear, attention.to_out[0])
        self.heads, self.inner = attention.heads, out.in_features
        weight = torch.cat([qkv.weight, gates.weight]).detach()  # [3·inner + heads, width]
        offset = gates.bias.new_zeros(qkv.out_features) if qkv.bias is None else qkv.bias
        bias = torch.cat([offset, gates.bias])
        self.project = PackedLinear(weight * factors(attention.norm), bias, dtype=dtype)
        self.out = PackedLinear(out.weight, out.bias, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Add the output to x, [N, T, width]."""
        projected = self.project(unit(x))  # [N, T, 3·inner + heads]
        qk, v, gates = projected.split([2 * self.inner, self.inner, self.heads], dim=-1)
        pairs = torch.view_as_complex(qk.unflatten(-1, (2 * self.heads, -1, 2)))  # [N, T, 2·heads, pairs]
        pairs = pairs.transpose(1, 2)  # [N, 2·heads, T, pairs]
        table = turns(2 * pairs.shape[-1], pairs.shape[-2])  # [T, pairs]
        # The steps of a head side by side in memory: attention reads them fastest.
        turned = torch.view_as_real(torch.mul(pairs, table, out=table.new_empty(pairs.shape)))
        q, k = turned.flatten(-2).chunk(2, dim=1)  # [N, heads, T, head width] each
        v = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [N, heads, T, head width]
        heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)  # [N, T, heads, head width]
        return x.add_(self.out(heads.mul_(gates.sigmoid()[..., None]).flatten(2)))


class SlicedFeedForward(nn.Module):
    """Feed-forward layer.

    Args:
        feed_forward: to take the weights from.
        dtype: of the arithmetic.
        share: factor on the output.
    """

    def __init__(self, feed_forward: FeedForward, dtype: torch.dtype, share: float = 1) -> None:
        super().__init__()
        norm, wide, _, _, narrow, _ = feed_forward.net
        wide, narrow = cast(nn.Linear, wide), cast(nn.Linear, narrow)
        weight = wide.weight.detach() * factors(norm)
        self.wide = PackedLinear(weight, wide.bias, activation="gelu", dtype=dtype, keep=True)
        scale = narrow.weight.new_full((narrow.out_features,), share)
        self.narrow = PackedLinear(narrow.weight, narrow.bias, scale=scale, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Add the output to x, [N, T, width]."""
        return x.add_(self.narrow(self.wide(unit(x))))


class Added(nn.Module):
    """Any other layer, with its linear layers packed.

    Args:
        layer: of [N, T, width].
        dtype: of the linear layers' arithmetic.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        pack_linears(layer, dtype)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Add the output to x, [N, T, width]."""
        return x.add_(self.layer(x))


class Normalised(nn.Module):
    """RMS norm, in place of its input.

    Args:
        norm: to take the factors from.
    """

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.factors = factors(norm)

    def forward(self, x: Tensor) -> Tensor:
        """Overwrite x, [..., width], with its norm."""
        for some in x.flatten(0, -3).split(max(1, ROWS // x.shape[-2])):  # [N, T, width]
            torch.mul(unit(some), self.factors, out=some)
        return x


class SlicedBlock(nn.Module):
    """Block of layers along time and along bands.

    Args:
        block: to take the weights from.
        dtype: of the linear layers' arithmetic.
        copies: leave the input as it is.
    """

    def __init__(self, block: AxialBlock, dtype: torch.dtype, copies: bool) -> None:
        super().__init__()
        self.copies = copies
        self.both, self.time, self.bands = (
            nn.Sequential(*(layer for axis in axes for layer in _in_place(axis, dtype)))
            for axes in (block[:-2], block[-2:-1], block[-1:])
        )

    def forward(self, x: Tensor, earlier: Tensor | None) -> Tensor:
        """Run the layers, as `AxialBlock.forward`; a contiguous x is overwritten unless it has to stay."""
        if self.copies or earlier is not None:  # x is part of what is added to the next block's input
            x = x.clone()
        self.both(x.flatten(1, 2))  # over [B, frames·bands, dim]
        if earlier is not None:
            x += earlier
        for one in x:  # [frames, bands, dim]
            _by_slices(self.time, one.transpose(0, 1))
            _by_slices(self.bands, one)
        return x


def _by_slices(layers: nn.Module, x: Tensor) -> None:
    """Run layers over a few sequences of x at a time, [N, T, width]."""
    for some in x.split(max(1, ROWS // x.shape[1])):
        layers(some)


def _in_place(axis: nn.Module, dtype: torch.dtype) -> Iterator[nn.Module]:
    """Yield the layers along one axis, as layers that overwrite their input."""
    if isinstance(axis, Conformer):
        for layer in cast(Any, axis.layers):
            for part in (layer.ff1, layer.attn, layer.conv, layer.ff2):
                yield _added(part, dtype)
            yield Normalised(layer.out_norm)
        return
    transformer = cast(Transformer, axis)
    for pair in transformer.layers:
        yield from (_added(layer, dtype) for layer in cast(nn.ModuleList, pair))
    if isinstance(transformer.norm, RMSNorm):
        yield Normalised(transformer.norm)


def _added(layer: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a residual layer as one that adds its output to its input."""
    if type(layer) is Attention:
        return SlicedAttention(layer, dtype)
    if isinstance(layer, FeedForward):
        return SlicedFeedForward(layer, dtype)
    if isinstance(layer, HalfFeedForward):
        return SlicedFeedForward(layer.ff, dtype, share=0.5)
    return Added(layer, dtype)


def slice_blocks(blocks: nn.ModuleList, dtype: torch.dtype, copies: bool) -> None:
    """Replace the blocks of layers along both axes by sliced ones; others stay.

    Args:
        blocks: one after the other.
        dtype: of the linear layers' arithmetic.
        copies: the input of the first block has to stay as it is.
    """
    for index, block in enumerate(blocks):
        if isinstance(block, AxialBlock):
            blocks[index] = SlicedBlock(block, dtype, copies and index == 0)

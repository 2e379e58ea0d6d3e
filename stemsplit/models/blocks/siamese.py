"""Transformers of two streams: one normalised after every layer (post-norm), one before (pre-norm).

As in the released BS-RoFormer "siameseroformer".

Legend: `B` batch, `N` sequences (batch · the other axis), `T` steps of a sequence.
"""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn

from stemsplit.models.blocks.axial import AxialBlocks, Layer
from stemsplit.models.blocks.rotary import FeedForward, RMSNorm, Rotary, Shape

Streams = tuple[Tensor, Tensor]  # normalised after and before every layer


class SiameseTransformer(nn.Module):
    """Attention and feed-forward layers by turns, whose outputs are added to both streams.

    Args:
        shape: of every layer.
        depth: number of pairs of layers.
        rotary: positions along the axis.
        before: number of pairs of layers in the network before these.
    """

    def __init__(self, shape: Shape, depth: int, rotary: Rotary, before: int) -> None:
        super().__init__()
        # The outputs weigh less, the deeper the layer.
        self.weights = [1 + 1 / math.sqrt(before + 1 + layer) for layer in range(depth)]
        self.layers = nn.ModuleList(
            nn.ModuleList([rotary.attention(shape), FeedForward(shape)]) for _ in range(depth)
        )
        self.ln_x_attn, self.ln_y_attn, self.ln_x_mlp, self.ln_y_mlp = (
            nn.ModuleList(RMSNorm(shape.width) for _ in range(depth)) for _ in range(4)
        )
        self.y_attn = nn.ParameterList(torch.ones(shape.width) for _ in range(depth))

    def forward(self, x: Tensor, y: Tensor) -> Streams:
        """Run the layers over both streams, [N, T, width] each."""
        norms = zip(self.ln_x_attn, self.ln_y_attn, self.ln_x_mlp, self.ln_y_mlp, strict=True)
        layers = zip(cast(Any, self.layers), self.weights, self.y_attn, norms, strict=True)
        for (attention, feed_forward), weight, scale, (after, before, after_mlp, before_mlp) in layers:
            out = attention(x * scale + before(y))
            x, y = after(x + weight * out), y + out
            out = feed_forward(x + before_mlp(y))
            x, y = after_mlp(x + weight * out), y + out
        return x, y


class SiameseBlocks(AxialBlocks):
    """Blocks of transformers over time and over bands, on two streams that start as one.

    Args:
        shape: of every layer.
        blocks: their number.
        depths: layers of the transformers over time and over bands.
    """

    def __init__(self, shape: Shape, blocks: int, depths: tuple[int, int]) -> None:
        time, bands = depths
        rotaries = Rotary(shape.head_width), Rotary(shape.head_width)
        super().__init__(
            nn.ModuleList(
                [
                    SiameseTransformer(shape, time, rotaries[0], block * (time + bands)),
                    SiameseTransformer(shape, bands, rotaries[1], block * (time + bands) + time),
                ]
            )
            for block in range(blocks)
        )

    def forward(self, x: Tensor, norm: Layer) -> Tensor:
        """Run all blocks, and add the streams, one normalised: [B, frames, bands, dim] in the same shape."""
        y = x
        for time, bands in cast(Any, self):
            x, y = _turned(_rows(time, *_turned((x, y))))
            x, y = _rows(bands, x, y)
        return x + norm(y)


def _turned(streams: Streams) -> Streams:
    """[B, frames, bands, dim] -> [B, bands, frames, dim], or back."""
    x, y = streams
    return x.transpose(1, 2), y.transpose(1, 2)


def _rows(transformer: nn.Module, x: Tensor, y: Tensor) -> Streams:
    """Run a transformer over the rows of two grids, [B, rows, T, dim] each."""
    after, before = transformer(x.flatten(0, 1), y.flatten(0, 1))  # over [B·rows, T, dim]
    return after.view_as(x), before.view_as(y)

"""Conformers: attention for what is far and convolutions for what is near.

Gulati et al., "Conformer: Convolution-augmented Transformer for Speech Recognition", 2020.

Legend: `N` sequences (batch · the other axis), `T` steps of a sequence.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.rotary import FeedForward, RMSNorm, Rotary, Shape
from stemsplit.models.fast.packed import PackedPointwise


@dataclass(frozen=True, kw_only=True)
class ConformerShape(Shape):
    """Settings that all conformers of a network share.

    Attributes:
        feed_forward: width of the feed-forward layers inside, divided by `width`.
        convolved: width of the convolutions, divided by `width`.
        kernel: steps that a convolution sees, odd.
        convolution_dropout: of the convolutions' output.
    """

    feed_forward: float
    convolved: int
    kernel: int
    convolution_dropout: float


class HalfFeedForward(nn.Module):
    """Half of a feed-forward layer's output."""

    def __init__(self, shape: ConformerShape) -> None:
        super().__init__()
        self.ff = FeedForward(shape, shape.feed_forward)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        y: Tensor = 0.5 * self.ff(x)
        return y


class Convolution(nn.Module):
    """A GLU, a convolution of every channel along the steps, and a linear layer."""

    def __init__(self, shape: ConformerShape) -> None:
        super().__init__()
        inner = shape.width * shape.convolved
        layers = {
            0: RMSNorm(shape.width),
            2: nn.Conv1d(shape.width, 2 * inner, 1),
            4: nn.Conv1d(inner, inner, shape.kernel, padding=shape.kernel // 2, groups=inner),
            5: nn.BatchNorm1d(inner),
            7: nn.Conv1d(inner, shape.width, 1),
            9: nn.Dropout(shape.convolution_dropout),
        }
        # Released checkpoints have layers without parameters at the other indices.
        self.net = nn.Sequential(OrderedDict((str(index), layer) for index, layer in layers.items()))

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        norm, widen, convolve, standardise, narrow, drop = self.net
        h = F.glu(widen(norm(x).transpose(1, 2)), dim=1)  # [N, inner, T]
        h = F.silu(standardise(convolve(h)))
        y: Tensor = drop(narrow(h).transpose(1, 2))  # [N, T, width]
        return y

    def prepare(self, dtype: torch.dtype) -> None:
        """Pack both linear layers for inference on a CPU, to compute in `dtype`."""
        for index in (1, 4):
            layer = cast(nn.Conv1d, self.net[index])
            self.net[index] = PackedPointwise(layer.weight[..., 0], layer.bias, dtype=dtype)


class ConformerLayer(nn.Module):
    """Half a feed-forward layer, attention, convolution, half a feed-forward layer, all residual; normalised.

    Args:
        shape: of the layer.
        rotary: positions along the axis.
    """

    def __init__(self, shape: ConformerShape, rotary: Rotary) -> None:
        super().__init__()
        self.ff1 = HalfFeedForward(shape)
        self.attn = rotary.attention(shape)
        self.conv = Convolution(shape)
        self.ff2 = HalfFeedForward(shape)
        self.out_norm = RMSNorm(shape.width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        for layer in (self.ff1, self.attn, self.conv, self.ff2):
            x = x + layer(x)
        y: Tensor = self.out_norm(x)
        return y


class Conformer(nn.Module):
    """Conformer layers one after the other.

    Args:
        shape: of every layer.
        depth: number of layers.
        rotary: positions along the axis.
    """

    def __init__(self, shape: ConformerShape, depth: int, rotary: Rotary) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(ConformerLayer(shape, rotary) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N, T, width]."""
        y: Tensor = self.layers(x)
        return y

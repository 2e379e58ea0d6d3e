"""Transformers whose values lean towards those of the first one.

Zhou et al., "Value Residual Learning", 2024, with a learnt share per step and head, as in BS-RoFormer 0.5.1.

Legend: `B` batch, `N` sequences (batch · the other axis), `T` steps of a sequence.
"""

from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from stemsplit.models.blocks.axial import AxialBlocks, Layer, over_bands, over_time
from stemsplit.models.blocks.rotary import Attention, FeedForward, Rotary, Shape


class ValueResidualAttention(Attention):
    """Attention that replaces its values v by v + m·(first − v), for a share m computed from the input.

    Args:
        shape: of the heads.
        rotary: positions, one module for all attentions along the same axis.
        mixes: False in the first block, which keeps its values.
    """

    def __init__(self, shape: Shape, rotary: Rotary, mixes: bool) -> None:
        super().__init__(shape, rotary)
        self.to_value_residual_mix = nn.Linear(shape.width, shape.heads) if mixes else None

    def lean(self, x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            x: [N, T, width].
            first: values of the first attention along the axis, [N, heads, T, head width]; None in itself.

        Returns:
            [N, T, width], and the first attention's values.
        """
        x = self.norm(x)
        q, k, v = self.project(x)
        v = v.contiguous()  # of its own, so that keeping the first values doesn't keep all of q, k and v
        first = v if first is None else first
        if self.to_value_residual_mix is not None:
            share = self.to_value_residual_mix(x).sigmoid().transpose(1, 2)  # [N, heads, T]
            v = v.lerp(first, share[..., None])
        return self.attend(x, q, k, v), first


class ValueResidualTransformer(nn.Module):
    """Residual attention and feed-forward layers by turns.

    Args:
        shape: of every layer.
        depth: number of pairs of layers.
        rotary: positions along the axis.
        mixes: False in the first block.
    """

    def __init__(self, shape: Shape, depth: int, rotary: Rotary, mixes: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([ValueResidualAttention(shape, rotary, mixes), FeedForward(shape)])
            for _ in range(depth)
        )

    def forward(self, x: Tensor, first: list[Tensor]) -> Tensor:
        """Run the layers.

        Args:
            x: [N, T, width].
            first: values of the first attention along the axis, [N, heads, T, head width]; empty before it,
                which adds them.

        Returns:
            [N, T, width].
        """
        for attention, feed_forward in cast(Any, self.layers):
            y, values = attention.lean(x, first[0] if first else None)
            first[:] = [values]
            x = x + y
            x = x + feed_forward(x)
        return x


class ValueResidualBlocks(AxialBlocks):
    """Blocks of transformers over time and over bands, each leaning on the first of its axis.

    Args:
        shape: of every layer.
        blocks: their number.
        depths: layers of the transformers over time and over bands.
    """

    def __init__(self, shape: Shape, blocks: int, depths: tuple[int, int]) -> None:
        axes = [(depth, Rotary(shape.head_width)) for depth in depths]
        super().__init__(
            nn.ModuleList(
                ValueResidualTransformer(shape, depth, rotary, number > 0) for depth, rotary in axes
            )
            for number in range(blocks)
        )

    def forward(self, x: Tensor, norm: Layer) -> Tensor:
        """Run all blocks, and normalise: [B, frames, bands, dim] -> [B, frames, bands, dim]."""
        of_time: list[Tensor] = []
        of_bands: list[Tensor] = []
        for time, bands in cast(Any, self):
            x = over_time(partial(time, first=of_time), x)
            x = over_bands(partial(bands, first=of_bands), x)
        return norm(x)

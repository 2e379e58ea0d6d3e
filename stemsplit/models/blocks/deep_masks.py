"""Mask estimator with transformers of its own, as in the released BS-RoFormer "Large Inst" (pcunwa).

Legend: `B` batch.
"""

from torch import Tensor, nn

from stemsplit.models.blocks.axial import AxialBlock
from stemsplit.models.blocks.bands import MaskEstimator, Table
from stemsplit.models.blocks.rotary import RMSNorm, Rotary, Shape, Transformer


class DeepMaskEstimator(MaskEstimator):
    """Four more blocks of the network before the MLPs of the bands."""

    def __init__(self, table: Table, parts: int, width: int, hidden: int, depth: int) -> None:
        super().__init__(table, parts, width, hidden, depth)
        shape = Shape(width, heads=8, head_width=64)  # whatever the network's blocks have
        axes = Rotary(shape.head_width), Rotary(shape.head_width)
        self.layers = nn.ModuleList(
            AxialBlock(Transformer(shape, 1, rotary, norm=False) for rotary in axes) for _ in range(4)
        )
        self.norm = RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, frames, bands, width] -> [B, frames, Σ band·parts], band after band."""
        for block in self.layers:
            x = block(x, None)
        return super().forward(self.norm(x))

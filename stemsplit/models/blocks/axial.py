"""Blocks of layers along one axis of a grid of features, time and bands by turns.

Legend: `B` batch; the features are [B, frames, bands, dim].
"""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

Layer = Callable[[Tensor], Tensor]


def over_time(layer: Layer, x: Tensor) -> Tensor:
    """Apply a layer of sequences along time: [B, frames, bands, dim] -> [B, frames, bands, dim]."""
    x = x.transpose(1, 2)  # [B, bands, frames, dim]
    return layer(x.flatten(0, 1)).view_as(x).transpose(1, 2)  # over [B·bands, frames, dim]


def over_bands(layer: Layer, x: Tensor) -> Tensor:
    """Apply a layer of sequences along bands: [B, frames, bands, dim] -> [B, frames, bands, dim]."""
    return layer(x.flatten(0, 1)).view_as(x)  # over [B·frames, bands, dim]


class AxialBlock(nn.ModuleList):
    """Layers over time and over bands, optionally after one over both, in checkpoints' order."""

    def forward(self, x: Tensor, earlier: Tensor | None) -> Tensor:
        """Run the layers one after the other.

        Args:
            x: [B, frames, bands, dim].
            earlier: to add to the input of the layer over time, [B, frames, bands, dim].

        Returns:
            [B, frames, bands, dim].
        """
        *both, time, bands = self
        for layer in both:
            x = layer(x.flatten(1, 2)).view_as(x)  # over [B, frames·bands, dim]
        if earlier is not None:
            x = x + earlier
        return over_bands(bands, over_time(time, x))


class AxialBlocks(nn.ModuleList):
    """Blocks one after the other.

    Args:
        blocks: in order.
        skip: add the sum of all earlier blocks' outputs to every block's input.
    """

    def __init__(self, blocks: Iterable[nn.Module], skip: bool = False) -> None:
        super().__init__(blocks)
        self.skip = skip

    def forward(self, x: Tensor, norm: Layer) -> Tensor:
        """Run all blocks, and normalise: [B, frames, bands, dim] -> [B, frames, bands, dim]."""
        earlier: Tensor | None = None
        for block in self:
            x = block(x, earlier)
            if self.skip:
                earlier = x if earlier is None else earlier + x
        return norm(x)

"""TFC-TDF blocks for inference on a CPU: channels last in memory, in tiles of a few frames.

Instance normalisation needs the mean and the variance of every channel, which one pass over a tensor finds.
They become a factor and an offset, which are applied with the activation to each tile just before its
convolution or linear layer, while it is in the cache: no normalised copy of the whole tensor is made.

All tensors are [B, C, frames, F] (`B` batch, `C` channels, `F` bins), channels last in memory.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.tfc_tdf import TfcTdf
from stemsplit.models.fast.packed import pack_pointwise
from stemsplit.models.fast.padded import PaddedConvolution

TILE_BYTES = 2**21


def tiles(x: Tensor) -> Iterator[slice]:
    """Yield the frames of each tile of a tensor."""
    size = max(1, TILE_BYTES * x.shape[2] // (x.numel() * x.element_size()))
    for start in range(0, x.shape[2], size):
        yield slice(start, start + size)


class Activated(nn.Module):
    """Instance normalisation and an activation, of tensors whose statistics are known.

    Args:
        norm: to take the factors from.
        activation: of any shape.
    """

    def __init__(self, norm: nn.InstanceNorm2d, activation: nn.Module) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight.detach(), norm.bias.detach(), norm.eps
        self.activation = activation

    def affine(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what normalises x: a factor and an offset, [B, C, 1, 1] each."""
        counts, means, squares = [], [], []
        for tile in tiles(x):
            rows = x[:, :, tile].permute(0, 2, 3, 1).flatten(1, 2)  # [B, frames·F, C]
            mean = rows.mean(1, keepdim=True)
            centred = rows - mean
            counts.append(rows.shape[1])
            means.append(mean.squeeze(1))
            squares.append(centred.mul_(centred).sum(1))
        # The variance is the mean of the tiles' variances plus the variance of the tiles' means.
        count = x.new_tensor(counts, dtype=torch.float64)[:, None, None] / sum(counts)  # [tiles, 1, 1]
        each = torch.stack(means).double()  # [tiles, B, C]
        mean = (count * each).sum(0)
        within = torch.stack(squares).double().sum(0) / sum(counts)
        variance = within + (count * (each - mean).square()).sum(0)  # [B, C]
        scale = self.weight * torch.rsqrt(variance + self.eps)
        shift = self.bias - mean * scale
        return scale.to(x.dtype)[..., None, None], shift.to(x.dtype)[..., None, None]

    def forward(self, x: Tensor, affine: tuple[Tensor, Tensor]) -> Tensor:
        """[B, C, frames, F] -> the same, a tile or all frames."""
        scale, shift = affine
        y = torch.addcmul(shift, x, scale)
        if isinstance(self.activation, nn.GELU):
            out: Tensor = torch.ops.aten.gelu_(y)
            return out
        activated: Tensor = self.activation(y)
        return activated


class ActivatedConvolution(nn.Module):
    """Instance normalisation, an activation, and a convolution of 3 × 3 taps.

    Args:
        layers: the three.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        norm, activation, conv = layers
        self.activated = Activated(cast(nn.InstanceNorm2d, norm), activation)
        self.conv = PaddedConvolution(cast(nn.Conv2d, conv))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C', frames, F]."""
        affine = self.activated.affine(x)
        y: Tensor = self.conv(x, before=lambda tile: self.activated(tile, affine))
        return y

    def overwrite(self, x: Tensor) -> Tensor:
        """Compute `forward` in the memory of x, if possible."""
        affine = self.activated.affine(x)
        return self.conv.overwrite(x, before=lambda tile: self.activated(tile, affine))


class ActivatedLayer(nn.Module):
    """Instance normalisation, an activation, and any layer.

    Args:
        layers: the three.
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        norm, activation, layer = layers
        self.activated = Activated(cast(nn.InstanceNorm2d, norm), activation)
        self.layer = cast(Any, layer).to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C', frames', F']."""
        y: Tensor = self.layer(self.activated(x, self.activated.affine(x)))
        return y


class TiledTfcTdf(nn.Module):
    """`TfcTdf` with instance normalisation.

    Args:
        block: to take the weights from.
    """

    def __init__(self, block: TfcTdf) -> None:
        super().__init__()
        self.tfc1, self.tfc2 = ActivatedConvolution(block.tfc1), ActivatedConvolution(block.tfc2)
        wide, activation, down, narrow, _, up = cast(Any, block.tdf)
        self.wide, self.narrow = Activated(wide, activation), Activated(narrow, activation)
        self.down, self.up = down.weight.detach(), up.weight.detach()  # [F', F] and [F, F']
        self.shortcut = pack_pointwise(block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C', frames, F]."""
        y = self.tfc1(x)
        self._add_linear(y)
        out = self.tfc2.overwrite(y)
        return out.add_(self.shortcut(x))

    def _add_linear(self, y: Tensor) -> None:
        """Add the linear layers along frequency to [B, C, frames, F]."""
        affine = self.wide.affine(y)
        h = torch.cat([_along_bins(self.wide(y[:, :, tile], affine), self.down) for tile in tiles(y)], dim=2)
        affine = self.narrow.affine(h)
        for tile in tiles(y):
            y[:, :, tile] += _along_bins(self.narrow(h[:, :, tile], affine), self.up)


class FoldedAlongBins(nn.Module):
    """A linear layer along the bins, with the batch normalisation of the channels that follows it.

    (W·x + b)·s + t for the scale s and the shift t of a channel: where W has fewer inputs than outputs, s is
    applied to the inputs, which is the same.

    Args:
        linear: W [F', F] and perhaps b [F'].
        norm: in evaluation mode.
    """

    def __init__(self, linear: nn.Linear, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
        self.weight = linear.weight.detach()
        self.scale = (norm.weight * torch.rsqrt(var + norm.eps)).detach()  # [C]
        self.shift = (norm.bias - mean * self.scale).detach()  # [C]
        if linear.bias is not None:
            self.shift = (linear.bias[:, None] * self.scale + self.shift).detach()  # [F', C]

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C, frames, F']."""
        columns = x.permute(0, 2, 3, 1).flatten(0, 1)  # [B·frames, F, C]
        weight = self.weight.expand(len(columns), -1, -1)  # [B·frames, F', F]
        if self.weight.shape[0] < self.weight.shape[1]:
            y = torch.addcmul(self.shift, torch.bmm(weight, columns), self.scale)
        else:
            y = torch.baddbmm(self.shift, weight, columns * self.scale)
        return y.view(len(x), -1, *y.shape[1:]).permute(0, 3, 1, 2)  # [B, C, frames, F'], channels last


class OverwritingBlock(nn.Module):
    """Convolutions followed by ReLUs, and what linear layers along frequency add to their output.

    It overwrites its input: what a block of MDX-Net gets, nothing else needs.

    Args:
        convolutions: of as many outputs as inputs, and 3 × 3 taps.
        linear: of [B, C, frames, F].
    """

    def __init__(self, convolutions: Sequence[nn.Conv2d], linear: nn.Module) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(PaddedConvolution(conv) for conv in convolutions)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C, frames, F]."""
        for conv in self.convolutions:
            x = cast(PaddedConvolution, conv).overwrite(x, after=F.relu_)
        for tile in tiles(x):
            x[:, :, tile] += self.linear(x[:, :, tile])
        return x


def _along_bins(x: Tensor, weight: Tensor) -> Tensor:
    """Apply [F', F] to the bins: [B, C, frames, F] -> [B, C, frames, F']."""
    columns = x.permute(0, 2, 3, 1).flatten(0, 1)  # [B·frames, F, C]
    y = torch.bmm(weight.expand(len(columns), -1, -1), columns)  # [B·frames, F', C]
    return y.view(len(x), -1, *y.shape[1:]).permute(0, 3, 1, 2)  # [B, C, frames, F']

"""Padded convolutions of 3 × 3 taps for inference on a CPU, in tiles of a few rows that stay in the cache.

All tensors are [B, C, H, W] (`B` batch, `C` channels, `H` rows, `W` columns), channels last in memory.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.fast.winograd import STEPS, WinogradConvolution

TILE_BYTES = 2**22  # of a tile's input or output
LEAST = 32  # i·o/(i + o) for i inputs and o outputs from which Winograd's products gain: 64 and 64, 96 and 48
MOST = 512  # outputs; wider layers see few positions, so that the time isn't worth twice the weights' memory
Change = Callable[[Tensor], Tensor]


def unchanged(x: Tensor) -> Tensor:
    """Return a tile as it is."""
    return x


class PaddedConvolution(nn.Module):
    """Convolution of 3 × 3 taps, padded by one row and one column on each side.

    A tile and the rows around it are copied into a buffer, so that the output may overwrite the input.

    Args:
        conv: to take the weights from.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.outputs, self.winograd = conv.out_channels, None
        if gains(conv):
            self.winograd = WinogradConvolution(conv.weight, conv.bias)
        else:
            self.weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
            self.bias = None if conv.bias is None else conv.bias.detach()

    def forward(self, x: Tensor, before: Change = unchanged, after: Change = unchanged) -> Tensor:
        """Convolve tile by tile.

        Args:
            x: [B, C, H, W].
            before: what is done to the input of a tile.
            after: what is done to its output, in place.

        Returns:
            [B, C', H, W].
        """
        columns = x.shape[-1] if self.winograd is None else -(-x.shape[-1] // STEPS) * STEPS
        out = x.new_empty(len(x), x.shape[2], columns, self.outputs).permute(0, 3, 1, 2)
        self._convolve(x, out, before, after)
        return out[..., : x.shape[-1]]

    def overwrite(self, x: Tensor, before: Change = unchanged, after: Change = unchanged) -> Tensor:
        """Convolve as `forward`, but in the memory of x where it's as large as the output's."""
        if x.shape[-1] % STEPS or x.shape[1] != self.outputs:
            return self.forward(x, before, after)
        self._convolve(x, x, before, after)
        return x

    def _convolve(self, x: Tensor, out: Tensor, before: Change, after: Change) -> None:
        """Write the output for x to `out`, which may be x: a row is read before its own output is written."""
        batch, channels, rows, width = x.shape
        row_bytes = batch * max(channels, self.outputs) * out.shape[-1] * x.element_size()
        size = max(1, min(rows, TILE_BYTES // row_bytes))
        buffer = x.new_zeros(batch, size + 2, out.shape[-1] + 2, channels).permute(0, 3, 1, 2)
        inside = buffer[..., 1 : width + 1]  # rows start − 1 … stop of the input
        for start in range(0, rows, size):
            stop = min(rows, start + size)
            first, end = start + (start > 0), min(rows, stop + 1)
            if start:  # the last two rows of the tile before are the first two of this one
                inside[:, :, :2] = inside[:, :, size:].clone()
            if first < end:
                inside[:, :, first - start + 1 : end - start + 1] = before(x[:, :, first:end])
            if stop == rows:
                inside[:, :, stop - start + 1] = 0
            seen, tile = buffer[:, :, : stop - start + 2], out[:, :, start:stop]
            if self.winograd is None:
                tile.copy_(after(F.conv2d(seen, self.weight, self.bias)))
            else:
                self.winograd.fill(seen, tile)
                after(tile)


def tile_convolutions(module: nn.Module) -> None:
    """Replace a module's padded 3 × 3 convolutions for which Winograd's products gain."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d) and padded(child) and gains(child):
            setattr(module, name, PaddedConvolution(child))
        else:
            tile_convolutions(child)


def padded(conv: nn.Conv2d) -> bool:
    """Tell if a convolution has 3 × 3 taps, and as many rows and columns as its input."""
    plain = (conv.kernel_size, conv.padding, conv.stride, conv.dilation, conv.groups, conv.padding_mode)
    return plain == ((3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")


def gains(conv: nn.Conv2d) -> bool:
    """Tell if the products that are saved, i·o for i inputs and o outputs, outweigh the i + o transforms."""
    inputs, outputs = conv.in_channels, conv.out_channels
    return outputs <= MOST and inputs * outputs >= LEAST * (inputs + outputs)

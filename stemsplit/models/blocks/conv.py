"""Convolutional blocks that the Demucs families share.

Legend: `B` batch, `C` channels, `T` steps in time.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.local_attention import LocalState
from stemsplit.models.blocks.recurrent import BLSTM

LSTM_SPAN = 200  # steps, as in the released class


class LayerScale(nn.Module):
    """Learnt factor per channel, small at first, for the end of a residual branch (Touvron et al. 2021).

    Args:
        channels: of the input.
        init: initial value of every factor.
        channel_last: the channels are the last dimension rather than the last but one.
    """

    def __init__(self, channels: int, init: float, channel_last: bool = False) -> None:
        super().__init__()
        self.channel_last = channel_last
        self.scale = nn.Parameter(torch.full((channels,), float(init)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale [..., C, T], or [..., T, C] if `channel_last`; the shape stays."""
        return x * (self.scale if self.channel_last else self.scale[:, None])  # by [C] or [C, 1]


class DConv(nn.Module):
    """Compressed residual branches over time (Hybrid Demucs, "Compressed residual branches").

    Branch d narrows its input with a convolution of dilation 2^d, optionally applies a BiLSTM of limited span
    and local attention, widens it again through a GLU, scales it and adds it to the input.

    Args:
        channels: of input and output.
        compress: the branches are this many times narrower.
        depth: number of branches; negative for as many without dilation.
        init: initial LayerScale.
        attention: insert local attention.
        lstm: insert a two-layer BiLSTM.

    Raises:
        StemsplitError: `compress` leaves no channel.
    """

    def __init__(
        self,
        channels: int,
        compress: float = 4,
        depth: int = 2,
        init: float = 1e-4,
        attention: bool = False,
        lstm: bool = False,
    ) -> None:
        super().__init__()
        hidden = int(channels / compress)
        if hidden < 1:
            raise StemsplitError(
                f"residual branches {compress:g} times narrower than {channels} channels have none"
            )
        self.layers = nn.ModuleList()
        # The order of the layers is that of the keys in checkpoints.
        for index in range(abs(depth)):
            dilation = 2**index if depth > 0 else 1
            inner: list[nn.Module] = []
            if lstm:
                inner.append(BLSTM(hidden, layers=2, span=LSTM_SPAN, skip=True))
            if attention:
                inner.append(LocalState(hidden))
            branch = nn.Sequential(
                nn.Conv1d(channels, hidden, 3, dilation=dilation, padding=dilation),
                nn.GroupNorm(1, hidden),
                nn.GELU(),
                *inner,
                nn.Conv1d(hidden, 2 * channels, 1),
                nn.GroupNorm(1, 2 * channels),
                nn.GLU(1),
                LayerScale(channels, init),
            )
            self.layers.append(branch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        for branch in self.layers:
            x = x + branch(x)
        return x


def rescale_weights(module: nn.Module, reference: float) -> None:
    """Pull the initial scale of every convolution halfway (geometrically) to `reference`, in place.

    A weight of standard deviation σ and its bias are divided by √(σ/reference) (Demucs, "Weight rescaling at
    initialization").
    """
    with torch.no_grad():
        for conv in _convolutions(module):
            scale = (conv.weight.std() / reference).sqrt()
            conv.weight.div_(scale)
            if conv.bias is not None:
                conv.bias.div_(scale)


def _convolutions(
    module: nn.Module,
) -> Iterator[nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d]:
    for child in module.modules():
        if isinstance(child, nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d):
            yield child

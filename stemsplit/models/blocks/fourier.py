"""Fourier neural operators over time as mask estimators, one per band.

Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", 2021, in the form and with
the names of neuraloperator 1.0.2 (class FNO1d), which the released checkpoint was trained with
(pcunwa/BS-Roformer-Inst-FNO).

The operator sees the lowest frequencies along the whole chunk: its masks depend on the chunk's length.

Legend: `B` batch, `C` channels of features, `T` frames.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.bands import Table

MODES = 33  # frequencies along time, from 0 up: one half of 64 and the constant
LAYERS = 3
EXPANSION = 2  # hidden channels of lifting and projection per channel


class ChannelMLP(nn.Module):
    """Two layers over channels with a GELU between them, the same at every frame."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fcs = nn.ModuleList([nn.Conv1d(channels, hidden, 1), nn.Conv1d(hidden, out, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T]."""
        first, second = self.fcs
        y: Tensor = second(F.gelu(first(x)))
        return y


class SpectralConvolution(nn.Module):
    """A complex factor per channel and frequency; higher frequencies are dropped."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        factors = torch.randn(channels, MODES, dtype=torch.complex64) / channels**0.5
        self.weight = nn.ParameterDict({"tensor": factors})
        self.bias = nn.Parameter(torch.randn(channels, 1) / channels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T], in single precision."""
        modes = torch.fft.rfft(x.float(), norm="forward")[..., :MODES]  # [B, C, modes], fewer if T is short
        kept = modes * self.weight["tensor"][:, : modes.shape[-1]]
        y: Tensor = torch.fft.irfft(kept, n=x.shape[-1], norm="forward") + self.bias
        return y


class Gate(nn.Module):
    """A factor per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        return x * self.weight


class FourierLayers(nn.Module):
    """Spectral convolution and MLP by turns, with skip connections, and a GELU after all but the last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(SpectralConvolution(channels) for _ in range(LAYERS))
        self.fno_skips = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv1d(channels, channels, 1, bias=False)))
            for _ in range(LAYERS)
        )
        self.channel_mlp = nn.ModuleList(ChannelMLP(channels, channels // 2, channels) for _ in range(LAYERS))
        self.channel_mlp_skips = nn.ModuleList(Gate(channels) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        parts = zip(self.convs, self.fno_skips, self.channel_mlp, self.channel_mlp_skips, strict=True)
        for i, (spectral, linear, mlp, gate) in enumerate(parts):
            activate = F.gelu if i < LAYERS - 1 else nn.Identity()
            skipped = gate(x)
            x = activate(spectral(x) + linear(x))
            x = activate(mlp(x) + skipped)
        return x


class FourierOperator(nn.Module):
    """Fourier neural operator over time.

    Args:
        channels: of the input and inside.
        out: channels of the output.
    """

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.fno_blocks = FourierLayers(channels)
        self.lifting = ChannelMLP(channels + 1, EXPANSION * channels, channels)  # one for the position
        self.projection = ChannelMLP(channels, EXPANSION * channels, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T]."""
        frames = x.shape[-1]
        position = torch.arange(frames, device=x.device, dtype=x.dtype) / frames  # from 0 to below 1
        lifted = self.lifting(torch.cat([x, position.expand(len(x), 1, frames)], dim=1))
        y: Tensor = self.projection(self.fno_blocks(lifted))
        return y


class FourierMaskEstimator(nn.Module):
    """Fourier operator per band that ends in a GLU; it takes the place of the MLPs.

    Args:
        table: the bands.
        parts: numbers per bin.
        width: of a band's features.
    """

    def __init__(self, table: Table, parts: int, width: int) -> None:
        super().__init__()
        self.to_freqs = nn.ModuleList(
            nn.Sequential(FourierOperator(width, 2 * parts * len(band)), nn.GLU(dim=1)) for band in table
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, frames, bands, width] -> [B, frames, Σ band·parts], band after band."""
        bands = x.permute(2, 0, 3, 1)  # [bands, B, width, frames]
        masks = [layer(band) for layer, band in zip(self.to_freqs, bands, strict=True)]
        return torch.cat(masks, dim=1).mT  # [B, frames, Σ band·parts]

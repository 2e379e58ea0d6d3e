"""Convolutions that down-sample and up-sample the bins of a spectrogram, each band by its own factor.

Tong et al., "SCNet: Sparse Compression Network for Music Source Separation", 2024. Blocks have the paper's
names (SD, SU), keys those of the authors' code (starrytong/SCNet, scnet/SCNet.py).

Legend: `B` batch, `C` channels, `F` bins; `C'` and `F'` after down-sampling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Band:
    """Settings of an SD block for one band.

    Attributes:
        share: fraction of the bins.
        stride: of the down-sampling convolution, in bins.
        kernel: of the down-sampling convolution, in bins.
        depth: residual convolutions over time.
    """

    share: float
    stride: int
    kernel: int
    depth: int


class BandBins(NamedTuple):
    """Number of bins of each band before and after an SD block."""

    before: list[int]
    after: list[int]


class ConvolutionModule(nn.Module):
    """Residual convolutions over time, with the same weights for every bin (the paper's Conv modules).

    Args:
        channels: of input and output.
        depth: number of convolutions.
        compress: they are this many times narrower inside.
        kernel: in frames, odd.
    """

    def __init__(self, channels: int, depth: int, compress: int, kernel: int) -> None:
        super().__init__()
        hidden, around = channels // compress, kernel // 2
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(1, channels),
                nn.Conv1d(channels, 2 * hidden, kernel, padding=around),
                nn.GLU(dim=1),
                nn.Conv1d(hidden, hidden, kernel, padding=around, groups=hidden),
                nn.GroupNorm(1, hidden),
                nn.SiLU(),
                nn.Conv1d(hidden, channels, 1),
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, C, F, frames]."""
        rows = x.transpose(1, 2)  # [B, F, C, frames]
        y = rows.flatten(0, 1)  # [B·F, C, frames]
        for layer in self.layers:
            y = y + layer(y)
        return y.view_as(rows).transpose(1, 2)  # [B, C, F, frames]


class SDLayer(nn.Module):
    """Sparse down-sampling: a strided convolution over the bins of each band.

    Low bands keep all their bins, high bands, where music has less detail, only a few.
    """

    def __init__(self, channels: int, out: int, bands: Sequence[Band]) -> None:
        super().__init__()
        self.bands = bands
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, out, (band.kernel, 1), (band.stride, 1)) for band in bands
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, F, frames] -> [B, C', F', frames] per band."""
        pieces = x.split(self.band_bins(x.shape[2]), dim=2)  # [B, C, bins of the band, frames] each
        return [
            conv(_padded(piece, band))
            for conv, piece, band in zip(self.convs, pieces, self.bands, strict=True)
        ]

    def band_bins(self, bins: int) -> list[int]:
        """Return the number of bins in each band, `bins` in all."""
        shares = accumulate(band.share for band in self.bands[:-1])
        return [b - a for a, b in pairwise([0, *(math.ceil(bins * share) for share in shares), bins])]


def _padded(x: Tensor, band: Band) -> Tensor:
    """Pad the bins of [B, C, F, frames] with zeros so that the convolution gives ⌈F/stride⌉ bins."""
    # k − 1 zeros keep F at a stride of one; else as many as complete the last stride, k being the stride.
    total = band.kernel - 1 if band.stride == 1 else -x.shape[2] % band.stride
    return F.pad(x, (0, 0, total // 2, total - total // 2))


class SDBlock(nn.Module):
    """Sparse down-sample block: the SD layer, convolutions over time per band, a 3×3 convolution over all."""

    def __init__(self, channels: int, out: int, bands: Sequence[Band], compress: int, kernel: int) -> None:
        super().__init__()
        self.SDlayer = SDLayer(channels, out, bands)
        self.conv_modules = nn.ModuleList(
            ConvolutionModule(out, band.depth, compress, kernel) for band in bands
        )
        self.globalconv = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, BandBins]:
        """Encode one level.

        Args:
            x: [B, C, F, frames].

        Returns:
            the features for the next level and those for the decoder, [B, C', F', frames] both, and the
            bands' numbers of bins.
        """
        before = self.SDlayer.band_bins(x.shape[2])
        bands = [
            F.gelu(convolve(band)) for convolve, band in zip(self.conv_modules, self.SDlayer(x), strict=True)
        ]
        skip = torch.cat(bands, dim=2)  # [B, C', F', frames]
        return self.globalconv(skip), skip, BandBins(before, [band.shape[2] for band in bands])


class FusionLayer(nn.Module):
    """Fuse the decoder's features with the skip connection, through a 3×3 convolution and a GLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)
        self.folded = False

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, C, F, frames] twice -> [B, C, F, frames]."""
        fused = x + skip
        if not self.folded:
            # Repeated, as in the authors' code: the trained weights take twice the channels.
            fused = torch.cat([fused, fused], dim=1)
        return F.glu(self.conv(fused), dim=1)  # 2C -> GLU: [B, C, F, frames]

    def fold(self) -> None:
        """Add up the weights of equal inputs, which halves the products."""
        wide, self.folded = self.conv, True
        self.conv = nn.Conv2d(wide.in_channels // 2, wide.out_channels, 3, padding=1)
        self.conv.weight = nn.Parameter(wide.weight.detach().unflatten(1, (2, -1)).sum(1))  # [2C, C, 3, 3]
        self.conv.bias = wide.bias


class SULayer(nn.Module):
    """Sparse up-sampling: a transposed convolution over the bins of each band, the inverse of `SDLayer`."""

    def __init__(self, channels: int, out: int, bands: Sequence[Band]) -> None:
        super().__init__()
        self.convtrs = nn.ModuleList(
            nn.ConvTranspose2d(channels, out, (band.kernel, 1), (band.stride, 1)) for band in bands
        )

    def forward(self, x: Tensor, bins: BandBins) -> Tensor:
        """[B, C, Σ after, frames] -> [B, C', Σ before, frames]."""
        pieces = []
        for conv, piece, wanted in zip(self.convtrs, x.split(bins.after, dim=2), bins.before, strict=True):
            wide = conv(piece)
            pieces.append(wide.narrow(2, (wide.shape[2] - wanted) // 2, wanted))  # cut the padding off
        return torch.cat(pieces, dim=2)  # [B, C', Σ before, frames]


class SUBlock(nn.ModuleList):
    """Sparse up-sample block: the fusion layer, then the SU layer. A list, as in the keys of checkpoints."""

    def __init__(self, channels: int, out: int, bands: Sequence[Band]) -> None:
        super().__init__([FusionLayer(channels), SULayer(channels, out, bands)])

    def forward(self, x: Tensor, skip: Tensor, bins: BandBins) -> Tensor:
        """[B, C, Σ after, frames] -> [B, C', Σ before, frames]."""
        fuse, upsample = self
        y: Tensor = upsample(fuse(x, skip), bins)
        return y

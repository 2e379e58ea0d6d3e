"""SCNet: sparse down-sampling of a spectrogram band by band, dual-path RNNs, and up-sampling.

Tong et al., "SCNet: Sparse Compression Network for Music Source Separation", 2024. Blocks have the paper's
names (SD, SU); keys, arguments and their defaults are those of the authors' code (starrytong/SCNet,
scnet/SCNet.py and scnet/separation.py).

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples; `C'` and `F'` after down-sampling.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.released import (
    released_arguments,
    released_stems,
    released_use,
    require_channels,
)
from stemsplit.models.spectral import SpectralNetwork, Transform

EPSILON = 1e-5  # added to the spectrogram's standard deviation before dividing by it


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

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, C, F, frames] twice -> [B, C, F, frames]."""
        fused = x + skip
        # Repeated, as in the authors' code: the trained weights take twice the channels.
        return F.glu(self.conv(torch.cat([fused, fused], dim=1)), dim=1)  # 2C -> 2C -> GLU: [B, C, F, frames]


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


class DualPathRNN(nn.Module):
    """A residual BiLSTM along the bins of each frame, then one along the frames of each bin."""

    def __init__(self, channels: int, expand: int) -> None:
        super().__init__()
        hidden = channels * expand
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, channels) for _ in range(2))
        self.lstm_layers = nn.ModuleList(
            nn.LSTM(channels, hidden, batch_first=True, bidirectional=True) for _ in range(2)
        )
        self.linear_layers = nn.ModuleList(nn.Linear(2 * hidden, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, C, F, frames]."""
        x = x + self._branch(0, x)
        return x + self._branch(1, x, over_frames=True)

    def _branch(self, index: int, x: Tensor, over_frames: bool = False) -> Tensor:
        """Normalisation, LSTM and linear layer number `index`: [B, C, F, frames] -> [B, C, F, frames]."""
        y: Tensor = self.norm_layers[index](x)
        y = y.permute(0, 2, 3, 1) if over_frames else y.permute(0, 3, 2, 1)  # [B, rows, steps, C]
        hidden, _ = self.lstm_layers[index](y.flatten(0, 1))  # [B·rows, steps, 2·hidden]
        y = self.linear_layers[index](hidden).view_as(y)  # [B, rows, steps, C]
        return y.permute(0, 3, 1, 2) if over_frames else y.permute(0, 3, 2, 1)  # [B, C, F, frames]


class SeparationNet(nn.Module):
    """Dual-path layers, by turns on the frames and on their Fourier transform with twice the channels.

    The transform over time (the paper's feature conversion) lets a local layer see the whole chunk.
    """

    def __init__(self, channels: int, expand: int, count: int) -> None:
        super().__init__()
        self.dp_modules = nn.ModuleList(DualPathRNN(channels * (1 + i % 2), expand) for i in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, C, F, frames]; the number of frames is even."""
        layers = iter(self.dp_modules)
        for on_frames, on_frequencies in zip(layers, layers, strict=True):
            x = _to_frames(on_frequencies(_to_frequencies(on_frames(x))))
        return x


def _to_frequencies(x: Tensor) -> Tensor:
    """Fourier transform over time: [B, C, F, frames] -> [B, 2C, F, frames/2 + 1], real parts first."""
    z = torch.fft.rfft(x.float(), norm="ortho")  # complex [B, C, F, frames/2 + 1]
    return torch.cat([z.real, z.imag], dim=1)  # [B, 2C, F, frames/2 + 1]


def _to_frames(x: Tensor) -> Tensor:
    """Inverse of `_to_frequencies`: [B, 2C, F, frames/2 + 1] -> [B, C, F, frames]."""
    real, imaginary = x.float().chunk(2, dim=1)  # [B, C, F, frames/2 + 1] each
    # An even number of frames: irfft can't tell 2n + 1 values from 2n by their n + 1 bins.
    frames: Tensor = torch.fft.irfft(torch.complex(real, imaginary), norm="ortho")  # [B, C, F, frames]
    return frames


class SCNet(SpectralNetwork):
    """A U-Net of SD and SU blocks that estimates the stems' spectrograms themselves, not masks."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Arguments of the authors' class, and four of our own at the end.

        Attributes:
            sources: names of the stems.
            audio_channels: of mix and stems.
            dims: channels of the spectrogram (two per audio channel) and after every encoder.
            nfft: samples per frame.
            hop_size: samples from frame to frame.
            win_size: length of the rectangular window, in samples.
            normalized: divide the transform by √nfft.
            band_SR: fraction of the bins in each band, low to high.
            band_stride: of the down-sampling convolution, in bins, per band.
            band_kernel: of the down-sampling convolution, in bins, per band.
            conv_depths: residual convolutions over time in each band.
            compress: the residual branches are this many times narrower.
            conv_kernel: of the residual branches, in frames.
            num_dplayer: dual-path layers, an even number.
            expand: the LSTMs are this many times wider than their input.
            normalise_spectrogram: standardise the spectrogram, as the authors' code does since 2024-09-24.
            normalise: standardise the waveform of the whole track.
            overlap: fraction of a chunk shared with the next; None for the default.
            segment_samples: length of a chunk.
            sample_rate: in Hz.
        """

        sources: Sequence[str] = ("drums", "bass", "other", "vocals")
        audio_channels: int = 2
        dims: Sequence[int] = (4, 32, 64, 128)
        nfft: int = 4096
        hop_size: int = 1024
        win_size: int = 4096
        normalized: bool = True
        band_SR: Sequence[float] = (0.175, 0.392, 0.433)
        band_stride: Sequence[int] = (1, 4, 16)
        band_kernel: Sequence[int] = (3, 4, 16)
        conv_depths: Sequence[int] = (3, 2, 1)
        compress: int = 4
        conv_kernel: int = 3
        num_dplayer: int = 6
        expand: int = 1
        normalise_spectrogram: bool = False
        normalise: bool = False
        overlap: float | None = None
        segment_samples: int = 485_100
        sample_rate: int = 44_100

        def __post_init__(self) -> None:
            if self.dims[0] != 2 * self.audio_channels:
                raise StemsplitError(f"dims begins with {self.dims[0]}: it takes two per audio channel")
            if self.num_dplayer % 2:
                raise StemsplitError(f"num_dplayer {self.num_dplayer}: the layers come in pairs")
            if not self.conv_kernel % 2:
                raise StemsplitError(f"conv_kernel {self.conv_kernel}: it takes an odd number")
            counts = {len(v) for v in (self.band_SR, self.band_stride, self.band_kernel, self.conv_depths)}
            if len(counts) > 1:
                raise StemsplitError("band_SR, band_stride, band_kernel and conv_depths differ in length")

        @property
        def bands(self) -> list[Band]:
            """Settings of each band, from the four lists."""
            return [
                Band(*each)
                for each in zip(
                    self.band_SR, self.band_stride, self.band_kernel, self.conv_depths, strict=True
                )
            ]

        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> Self:
            """Return the arguments of a released checkpoint, from the configuration published beside it.

            Args:
                config: as for `released_arguments` and `released_use`, with `training` (instruments and
                    target_instrument, which name the outputs).

            Raises:
                StemsplitError: the configuration asks for something that the network doesn't have.
            """
            arguments = released_arguments(config, {field.name for field in fields(cls)})
            stems = released_stems(config, len(arguments.get("sources", cls.sources)))
            found = cls(**arguments | released_use(config) | {"sources": stems})
            require_channels(config, found.audio_channels)
            return found

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.segment_samples,
            transform=Transform(a.nfft, a.hop_size, a.win_size, rectangular=True, normalised=a.normalized),
        )
        self.normalise, self.overlap = a.normalise, a.overlap
        levels = list(pairwise(a.dims))
        self.encoder = nn.ModuleList(SDBlock(i, o, a.bands, a.compress, a.conv_kernel) for i, o in levels)
        outs = [a.dims[0] * len(a.sources), *a.dims[1:-1]]
        self.decoder = nn.ModuleList(
            SUBlock(width, out, a.bands)
            for width, out in zip(reversed(a.dims[1:]), reversed(outs), strict=True)
        )
        self.separation_net = SeparationNet(a.dims[-1], a.expand, a.num_dplayer)

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames]; the number of frames is even."""
        samples = mix.shape[-1]
        z = self.transform.analyse(F.pad(mix, (0, self._odd_hops(samples) - samples)))  # [B, C, F, frames]
        x = torch.view_as_real(z).permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, 2C, F, frames]
        if self.arguments.normalise_spectrogram:
            mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
            y = self._network((x - mean) / (std + EPSILON)) * std + mean
        else:
            y = self._network(x)
        parts = y.float().unflatten(1, (-1, self.channels, 2))[:, list(self.kept)]  # [B, S, C, 2, F, frames]
        return torch.view_as_complex(parts.permute(0, 1, 2, 4, 5, 3).contiguous())  # [B, S, C, F, frames]

    def _network(self, x: Tensor) -> Tensor:
        """[B, 2C, F, frames] -> [B, S·2C, F, frames]."""
        saved = []
        for encode in self.encoder:
            x, *for_decoder = encode(x)
            saved.append(for_decoder)
        x = self.separation_net(x)
        for decode, (skip, bins) in zip(self.decoder, reversed(saved), strict=True):
            x = decode(x, skip, bins)
        return x

    def _odd_hops(self, samples: int) -> int:
        """Return the samples of the next longer odd number of hops, which gives an even number of frames."""
        a = self.arguments
        shortest = a.nfft // (2 * a.hop_size) + 1  # a reflection of half a frame needs more samples than that
        hops: int = max(samples // a.hop_size + 1, shortest) | 1
        return hops * int(a.hop_size)

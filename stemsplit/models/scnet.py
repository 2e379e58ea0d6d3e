"""SCNet (Tong et al. 2024): a spectrogram thinned out band by band, dual-path RNNs at the bottom, and back.

Keys, arguments and their defaults are those of the authors' code.
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
from stemsplit.models.blocks.released import released_arguments
from stemsplit.models.spectral import SpectralNetwork, Transform

EPSILON = 1e-5  # of the spectrogram's standardisation


@dataclass(frozen=True)
class Band:
    """What an encoder does with one band.

    Attributes:
        share: of the bins.
        stride: one bin in so many is left.
        kernel: bins that the thinning convolution sees.
        depth: residual convolutions over time.
    """

    share: float
    stride: int
    kernel: int
    depth: int


class Heights(NamedTuple):
    """How many bins each band has before an encoder and after it."""

    thick: list[int]
    thin: list[int]


class RowConvolutions(nn.Module):
    """Residual convolutions over time, the same for every row of bins.

    Args:
        channels: of input and output.
        depth: how many.
        compress: they are this many times narrower inside.
        kernel: frames that they see, odd.
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
        rows = x.transpose(1, 2)
        y = rows.flatten(0, 1)
        for layer in self.layers:
            y = y + layer(y)
        return y.view_as(rows).transpose(1, 2)


class Thinning(nn.Module):
    """A strided convolution over the bins of each band."""

    def __init__(self, channels: int, out: int, bands: Sequence[Band]) -> None:
        super().__init__()
        self.bands = bands
        self.convs = nn.ModuleList(
            nn.Conv2d(channels, out, (band.kernel, 1), (band.stride, 1)) for band in bands
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, F, frames] -> [B, C', F', frames] per band."""
        pieces = x.split(self.heights(x.shape[2]), dim=2)
        return [
            conv(_padded(piece, band))
            for conv, piece, band in zip(self.convs, pieces, self.bands, strict=True)
        ]

    def heights(self, bins: int) -> list[int]:
        """How many of the bins lie in each band."""
        shares = accumulate(band.share for band in self.bands[:-1])
        return [b - a for a, b in pairwise([0, *(math.ceil(bins * share) for share in shares), bins])]


def _padded(x: Tensor, band: Band) -> Tensor:
    """Zeros on both sides so that no bin is lost, nor one gained at a stride of one: [B, C, F, frames]."""
    total = band.kernel - 1 if band.stride == 1 else -x.shape[2] % band.stride
    return F.pad(x, (0, 0, total // 2, total - total // 2))


class Encoder(nn.Module):
    """Thin out the bands, convolve along time in each, and mix everything locally."""

    def __init__(self, channels: int, out: int, bands: Sequence[Band], compress: int, kernel: int) -> None:
        super().__init__()
        self.SDlayer = Thinning(channels, out, bands)
        self.conv_modules = nn.ModuleList(
            RowConvolutions(out, band.depth, compress, kernel) for band in bands
        )
        self.globalconv = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Heights]:
        """One level down.

        Args:
            x: [B, C, F, frames].

        Returns:
            the features for the next level and those for the decoder, [B, C', F', frames] both, and where the
            bands lie.
        """
        thick = self.SDlayer.heights(x.shape[2])
        bands = [
            F.gelu(convolve(band)) for convolve, band in zip(self.conv_modules, self.SDlayer(x), strict=True)
        ]
        skip = torch.cat(bands, dim=2)
        return self.globalconv(skip), skip, Heights(thick, [band.shape[2] for band in bands])


class Fusion(nn.Module):
    """Join the features of two levels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, C, F, frames] twice -> [B, C, F, frames]."""
        both = x + skip
        return F.glu(self.conv(torch.cat([both, both], dim=1)), dim=1)


class Thickening(nn.Module):
    """Undo `Thinning`."""

    def __init__(self, channels: int, out: int, bands: Sequence[Band]) -> None:
        super().__init__()
        self.convtrs = nn.ModuleList(
            nn.ConvTranspose2d(channels, out, (band.kernel, 1), (band.stride, 1)) for band in bands
        )

    def forward(self, x: Tensor, heights: Heights) -> Tensor:
        """[B, C, Σ thin, frames] -> [B, C', Σ thick, frames]."""
        pieces = []
        for conv, piece, bins in zip(self.convtrs, x.split(heights.thin, dim=2), heights.thick, strict=True):
            wide = conv(piece)
            pieces.append(wide.narrow(2, (wide.shape[2] - bins) // 2, bins))
        return torch.cat(pieces, dim=2)


class Decoder(nn.ModuleList):
    """Undo `Encoder`: fuse with what it saved, then thicken the bands."""

    def __init__(self, channels: int, out: int, bands: Sequence[Band]) -> None:
        super().__init__([Fusion(channels), Thickening(channels, out, bands)])

    def forward(self, x: Tensor, skip: Tensor, heights: Heights) -> Tensor:
        """[B, C, Σ thin, frames] -> [B, C', Σ thick, frames]."""
        fuse, thicken = self
        y: Tensor = thicken(fuse(x, skip), heights)
        return y


class DualPath(nn.Module):
    """A residual BiLSTM along the bins, then one along the frames."""

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
        x = x + self._along_bins(0, x)
        return x + self._along_bins(1, x, swapped=True)

    def _along_bins(self, index: int, x: Tensor, swapped: bool = False) -> Tensor:
        """The branch of number `index`, with frames for bins if swapped."""
        y: Tensor = self.norm_layers[index](x)
        y = y.permute(0, 2, 3, 1) if swapped else y.permute(0, 3, 2, 1)
        hidden, _ = self.lstm_layers[index](y.flatten(0, 1))
        y = self.linear_layers[index](hidden).view_as(y)
        return y.permute(0, 3, 1, 2) if swapped else y.permute(0, 3, 2, 1)


class SeparationNet(nn.Module):
    """Dual-path layers, by turns on the frames and on their Fourier transform with twice the channels."""

    def __init__(self, channels: int, expand: int, count: int) -> None:
        super().__init__()
        self.dp_modules = nn.ModuleList(DualPath(channels * (1 + i % 2), expand) for i in range(count))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, C, F, frames], frames being even."""
        layers = iter(self.dp_modules)
        for on_frames, on_frequencies in zip(layers, layers, strict=True):
            x = _to_frames(on_frequencies(_to_frequencies(on_frames(x))))
        return x


def _to_frequencies(x: Tensor) -> Tensor:
    """Real and imaginary part of the transform over time: [B, C, F, frames] -> [B, 2C, F, frames/2 + 1]."""
    z = torch.fft.rfft(x.float(), norm="ortho")
    return torch.cat([z.real, z.imag], dim=1)


def _to_frames(x: Tensor) -> Tensor:
    """[B, 2C, F, frames/2 + 1] -> [B, C, F, frames]."""
    real, imaginary = x.float().chunk(2, dim=1)
    frames: Tensor = torch.fft.irfft(torch.complex(real, imaginary), norm="ortho")
    return frames


class SCNet(SpectralNetwork):
    """Estimates the stems' spectrograms themselves rather than masks."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """As in the authors' code, and four of our own at the end.

        Attributes:
            sources: names of the stems.
            audio_channels: of mix and stems.
            dims: channels of the spectrogram (two per audio channel) and after every encoder.
            nfft: samples per frame.
            hop_size: samples from frame to frame.
            win_size: length of the rectangular window.
            normalized: divide the transform by √nfft.
            band_SR: the share of the bins in each band, low to high.
            band_stride: one bin in so many is left of each band by every encoder.
            band_kernel: bins that the thinning convolution sees.
            conv_depths: residual convolutions over time in each band.
            compress: the residual branches are this many times narrower.
            conv_kernel: frames that they see.
            num_dplayer: dual-path layers, an even number.
            expand: width of the LSTMs over that of their input.
            normalise_spectrogram: standardise the spectrogram, as the authors' code does since 2024-09-24.
            normalise: standardise the whole track's waveform.
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
            """The four lists, band by band."""
            return [
                Band(*each)
                for each in zip(
                    self.band_SR, self.band_stride, self.band_kernel, self.conv_depths, strict=True
                )
            ]

        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> Self:
            """The arguments of a released checkpoint, from the configuration published beside it.

            Args:
                config: as for `released_arguments`; `inference.normalize` is ours `normalise`.

            Raises:
                StemsplitError: the configuration asks for something that the network doesn't have.
            """
            arguments = released_arguments(config, {field.name for field in fields(cls)})
            normalise = config.get("inference", {}).get("normalize", False)
            return cls(**arguments | {"normalise": normalise})

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
        self.normalise = a.normalise
        levels = list(pairwise(a.dims))
        self.encoder = nn.ModuleList(Encoder(i, o, a.bands, a.compress, a.conv_kernel) for i, o in levels)
        outs = [a.dims[0] * len(a.sources), *a.dims[1:-1]]
        self.decoder = nn.ModuleList(
            Decoder(width, out, a.bands)
            for width, out in zip(reversed(a.dims[1:]), reversed(outs), strict=True)
        )
        self.separation_net = SeparationNet(a.dims[-1], a.expand, a.num_dplayer)

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames], the frames being even in number."""
        samples = mix.shape[-1]
        z = self.transform.analyse(F.pad(mix, (0, self._whole_hops(samples) - samples)))
        x = torch.view_as_real(z).permute(0, 1, 4, 2, 3).flatten(1, 2)
        if self.arguments.normalise_spectrogram:
            mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)
            y = self._network((x - mean) / (std + EPSILON)) * std + mean
        else:
            y = self._network(x)
        parts = y.float().unflatten(1, (-1, self.channels, 2))[:, list(self.kept)]
        return torch.view_as_complex(parts.permute(0, 1, 2, 4, 5, 3).contiguous())

    def _network(self, x: Tensor) -> Tensor:
        """[B, 2C, F, frames] -> [B, S·2C, F, frames]."""
        saved = []
        for encode in self.encoder:
            x, *for_decoder = encode(x)
            saved.append(for_decoder)
        x = self.separation_net(x)
        for decode, (skip, heights) in zip(self.decoder, reversed(saved), strict=True):
            x = decode(x, skip, heights)
        return x

    def _whole_hops(self, samples: int) -> int:
        """The next longer odd number of hops, so that the frames, one more, are even in number."""
        a = self.arguments
        shortest = a.nfft // (2 * a.hop_size) + 1  # half a frame can be reflected
        hops: int = max(samples // a.hop_size + 1, shortest) | 1
        return hops * int(a.hop_size)

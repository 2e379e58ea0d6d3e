"""SCNet: sparse down-sampling of a spectrogram band by band, dual-path layers, and up-sampling.

Tong et al., "SCNet: Sparse Compression Network for Music Source Separation", 2024; keys, arguments and their
defaults are those of the authors' code (starrytong/SCNet, scnet/SCNet.py and scnet/separation.py). Two
variants are those of ZFTurbo/Music-Source-Separation-Training, models/scnet: `SCNetMasked` estimates masks
instead of spectrograms, and `SCNetTran` has transformers instead of LSTMs.

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `T` samples, `N` sequences (batch · the other axis).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.band_sampling import Band, FusionLayer, SDBlock, SUBlock
from stemsplit.models.blocks.released import (
    released_arguments,
    released_stems,
    released_use,
    require_channels,
)
from stemsplit.models.blocks.rotary import Rotary, Shape, Transformer
from stemsplit.models.fast.packed import pack_linears
from stemsplit.models.fast.padded import tile_convolutions
from stemsplit.models.spectral import SpectralNetwork, Transform

EPSILON = 1e-5  # added to the spectrogram's standard deviation before dividing by it
MASK_CHANNELS = 64  # between the two convolutions that make the masks


class DualPath(nn.Module):
    """Residual layers along the bins of each frame, then along the frames of each bin."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_layers = nn.ModuleList(nn.GroupNorm(1, channels) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, C, F, frames]."""
        y = self.norm_layers[0](x).permute(0, 3, 2, 1)  # [B, frames, F, C]
        x = x + self.along_bins(y.flatten(0, 1)).view_as(y).permute(0, 3, 2, 1)
        y = self.norm_layers[1](x).permute(0, 2, 3, 1)  # [B, F, frames, C]
        return x + self.along_frames(y.flatten(0, 1)).view_as(y).permute(0, 3, 1, 2)

    def along_bins(self, x: Tensor) -> Tensor:
        """[N, F, C] -> [N, F, C]."""
        raise TypeError(f"{type(self).__name__} has no layers")

    def along_frames(self, x: Tensor) -> Tensor:
        """[N, frames, C] -> [N, frames, C]."""
        raise TypeError(f"{type(self).__name__} has no layers")


class DualPathRNN(DualPath):
    """A BiLSTM and a linear layer along either axis."""

    def __init__(self, channels: int, expand: int) -> None:
        super().__init__(channels)
        hidden = channels * expand
        self.lstm_layers = nn.ModuleList(
            nn.LSTM(channels, hidden, batch_first=True, bidirectional=True) for _ in range(2)
        )
        self.linear_layers = nn.ModuleList(nn.Linear(2 * hidden, channels) for _ in range(2))

    def along_bins(self, x: Tensor) -> Tensor:
        """[N, F, C] -> [N, F, C]."""
        return self._run(0, x)

    def along_frames(self, x: Tensor) -> Tensor:
        """[N, frames, C] -> [N, frames, C]."""
        return self._run(1, x)

    def _run(self, index: int, x: Tensor) -> Tensor:
        hidden, _ = self.lstm_layers[index](x)  # [N, steps, 2·hidden]
        y: Tensor = self.linear_layers[index](hidden)
        return y


class DualPathTransformer(DualPath):
    """A transformer with rotary positions along either axis."""

    def __init__(self, shape: Shape, depth: int, over_bins: Rotary, over_frames: Rotary) -> None:
        super().__init__(shape.width)
        self.time_layer = Transformer(shape, depth, over_frames, norm=True)
        self.freq_layer = Transformer(shape, depth, over_bins, norm=True)

    def along_bins(self, x: Tensor) -> Tensor:
        """[N, F, C] -> [N, F, C]."""
        y: Tensor = self.freq_layer(x)
        return y

    def along_frames(self, x: Tensor) -> Tensor:
        """[N, frames, C] -> [N, frames, C]."""
        y: Tensor = self.time_layer(x)
        return y


class SeparationNet(nn.Module):
    """Dual-path layers, by turns on the frames and on their Fourier transform with twice the channels.

    The transform over time (the paper's feature conversion) lets a local layer see the whole chunk.

    Args:
        channels: of the features.
        count: number of layers.
        layer: makes a layer for a number of channels.
    """

    def __init__(self, channels: int, count: int, layer: Callable[[int], DualPath]) -> None:
        super().__init__()
        self.dp_modules = nn.ModuleList(layer(channels * (1 + i % 2)) for i in range(count))

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


@dataclass(frozen=True, kw_only=True)
class ScnetArguments:
    """Arguments of the authors' class that all variants have, and four of our own at the end.

    Attributes:
        sources: names of the stems.
        audio_channels: of mix and stems.
        dims: channels of the spectrogram (two per audio channel) and after every encoder.
        nfft: samples per frame.
        hop_size: samples from frame to frame.
        win_size: length of the window, in samples.
        normalized: divide the transform by √nfft.
        band_SR: fraction of the bins in each band, low to high.
        band_stride: of the down-sampling convolution, in bins, per band.
        band_kernel: of the down-sampling convolution, in bins, per band.
        conv_depths: residual convolutions over time in each band.
        compress: the residual branches are this many times narrower.
        conv_kernel: of the residual branches, in frames.
        num_dplayer: dual-path layers, an even number.
        expand: the LSTMs are this many times wider than their input.
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
            for each in zip(self.band_SR, self.band_stride, self.band_kernel, self.conv_depths, strict=True)
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


class SparseNetwork(SpectralNetwork):
    """A U-Net of SD and SU blocks around dual-path layers.

    Args:
        arguments: of the family.
        layer: makes a dual-path layer for a number of channels.
        rectangular: a window of ones rather than Hann's.
    """

    def __init__(
        self, arguments: ScnetArguments, layer: Callable[[int], DualPath], *, rectangular: bool = True
    ) -> None:
        a = arguments
        transform = Transform(
            a.nfft, a.hop_size, a.win_size, rectangular=rectangular, normalised=a.normalized
        )
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.segment_samples,
            transform=transform,
        )
        self.normalise, self.overlap = a.normalise, a.overlap
        levels = list(pairwise(a.dims))
        self.encoder = nn.ModuleList(SDBlock(i, o, a.bands, a.compress, a.conv_kernel) for i, o in levels)
        outs = [a.dims[0] * len(a.sources), *a.dims[1:-1]]
        self.decoder = nn.ModuleList(
            SUBlock(width, out, a.bands)
            for width, out in zip(reversed(a.dims[1:]), reversed(outs), strict=True)
        )
        self.separation_net = SeparationNet(a.dims[-1], a.num_dplayer, layer)

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames]; the number of frames is even."""
        samples = mix.shape[-1]
        z = self.transform.analyse(F.pad(mix, (0, self._odd_hops(samples) - samples)))  # [B, C, F, frames]
        return self.stems_of(z)

    def stems_of(self, z: Tensor) -> Tensor:
        """Complex [B, C, F, frames] -> complex [B, S, C, F, frames], of the selected stems."""
        return self.pairs(self.network(parts(z)))

    def network(self, x: Tensor) -> Tensor:
        """Run the U-Net: [B, 2C, F, frames] -> [B, S·2C, F, frames], of all stems."""
        saved = []
        for encode in self.encoder:
            x, *for_decoder = encode(x)
            saved.append(for_decoder)
        x = self.separation_net(x)
        for decode, (skip, bins) in zip(self.decoder, reversed(saved), strict=True):
            x = decode(x, skip, bins)
        return x

    def pairs(self, x: Tensor) -> Tensor:
        """Pick the selected stems: [B, S·2C, F, frames] -> complex [B, S, C, F, frames]."""
        kept = x.float().unflatten(1, (-1, self.channels, 2))[:, list(self.kept)]  # [B, S, C, 2, F, frames]
        return torch.view_as_complex(kept.permute(0, 1, 2, 4, 5, 3).contiguous())  # [B, S, C, F, frames]

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Pack linear layers, fold the fusion layers' weights, and compute wide convolutions faster."""
        for module in self.modules():
            if isinstance(module, FusionLayer):
                module.fold()
        tile_convolutions(self)
        pack_linears(self.separation_net, dtype)
        return self

    def _odd_hops(self, samples: int) -> int:
        """Return the samples of the next longer odd number of hops, which gives an even number of frames."""
        a = self.arguments
        shortest = a.nfft // (2 * a.hop_size) + 1  # a reflection of half a frame needs more samples than that
        hops: int = max(samples // a.hop_size + 1, shortest) | 1
        return hops * int(a.hop_size)


def parts(z: Tensor) -> Tensor:
    """Real and imaginary parts as channels: complex [B, C, F, frames] -> [B, 2C, F, frames]."""
    return torch.view_as_real(z).permute(0, 1, 4, 2, 3).flatten(1, 2)


class SCNet(SparseNetwork):
    """The authors' network: LSTMs, and the stems' spectrograms themselves, not masks."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(ScnetArguments):
        """Arguments of the authors' class, and one of our own.

        Attributes:
            normalise_spectrogram: standardise the spectrogram, as the authors' code does since 2024-09-24.
        """

        normalise_spectrogram: bool = False

    def __init__(self, arguments: Arguments) -> None:
        super().__init__(arguments, lambda channels: DualPathRNN(channels, arguments.expand))

    def stems_of(self, z: Tensor) -> Tensor:
        """Complex [B, C, F, frames] -> complex [B, S, C, F, frames], of the selected stems."""
        if not self.arguments.normalise_spectrogram:
            return super().stems_of(z)
        x = parts(z)  # [B, 2C, F, frames]
        mean, std = x.mean((1, 2, 3), keepdim=True), x.std((1, 2, 3), keepdim=True)  # [B, 1, 1, 1]
        return self.pairs(self.network((x - mean) / (std + EPSILON)) * std + mean)


class SCNetMasked(SparseNetwork):
    """LSTMs, and a complex mask per stem, whose real and imaginary parts are between −1 and 1.

    A learnt embedding tells the U-Net the bin.
    """

    Arguments: ClassVar[Any] = ScnetArguments

    def __init__(self, arguments: ScnetArguments) -> None:
        a = arguments
        super().__init__(a, lambda channels: DualPathRNN(channels, a.expand), rectangular=False)
        self.pos_embed_f = nn.Parameter(torch.empty(1, a.dims[0], a.nfft // 2 + 1, 1))
        nn.init.trunc_normal_(self.pos_embed_f, std=0.02)
        outputs = a.dims[0] * len(a.sources)
        self.mask_layer = nn.Sequential(
            nn.Conv2d(outputs, MASK_CHANNELS, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(MASK_CHANNELS, outputs, 1),
            nn.Tanh(),
        )

    def stems_of(self, z: Tensor) -> Tensor:
        """Complex [B, C, F, frames] -> complex [B, S, C, F, frames], of the selected stems."""
        masks = self.mask_layer(self.network(parts(z) + self.pos_embed_f))  # [B, S·2C, F, frames]
        return self.pairs(masks) * z[:, None]  # [B, S, C, F, frames] · [B, 1, C, F, frames]


class SCNetTran(SparseNetwork):
    """Transformers in place of the LSTMs, and the stems' spectrograms themselves."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments(ScnetArguments):
        """Arguments of the released class; `expand` has no effect.

        Attributes:
            tran_rotary_embedding_dim: channels of a head that positions rotate: all, `tran_dim_head`.
            tran_depth: layers of a transformer.
            tran_heads: attention heads.
            tran_dim_head: width of a head.
            tran_attn_dropout: of attention.
            tran_ff_dropout: of feed-forward layers.
        """

        tran_rotary_embedding_dim: int = 64
        tran_depth: int = 1
        tran_heads: int = 8
        tran_dim_head: int = 64
        tran_attn_dropout: float = 0.0
        tran_ff_dropout: float = 0.0

        def __post_init__(self) -> None:
            super().__post_init__()
            if self.tran_rotary_embedding_dim != self.tran_dim_head or self.tran_dim_head % 2:
                raise StemsplitError(
                    f"tran_rotary_embedding_dim {self.tran_rotary_embedding_dim}: "
                    f"must be tran_dim_head, {self.tran_dim_head}, and even"
                )

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        over_bins, over_frames = Rotary(a.tran_dim_head), Rotary(a.tran_dim_head)

        def layer(channels: int) -> DualPath:
            shape = Shape(channels, a.tran_heads, a.tran_dim_head, a.tran_attn_dropout, a.tran_ff_dropout)
            return DualPathTransformer(shape, a.tran_depth, over_bins, over_frames)

        super().__init__(a, layer)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; released checkpoints have a `first_conv` that no forward pass uses."""
        used = {key: value for key, value in state_dict.items() if key != "first_conv.weight"}
        return super().load_state_dict(used, strict, assign)

"""D3Net: dense blocks with several dilations per layer estimate each stem's magnitudes, then a Wiener filter.

Takahashi, Mitsufuji, "D3Net: Densely connected multidilated DenseNet for music source separation"
(arXiv 2010.01733); Sony's ai-research-code, d3net/music-source-separation. A stem has a network of its own.
The names of the weights are those of its files.

Legend: `B` batch, `S` stems, `C` channels, `F` bins, `W` width of features, `T` samples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.magnitudes import through_spectra
from stemsplit.models.blocks.pooled_wiener import pooled_wiener
from stemsplit.models.network import Network
from stemsplit.stems import canonical


@dataclass(frozen=True)
class Sizes:
    """Sizes of the network of one stem, by the names of its YAML files; the defaults are those of vocals.

    Attributes:
        valid_signal_idx: number of bins that the network sees, from the lowest.
        band_split_idxs: bins between its bands.
        num_init_features: width of each band's input.
        dens_k: of each band, growth of every block: on the way down, in the middle, and on the way up.
        num_layer_blocks: likewise, layers of a block.
        b_n_blocks: likewise, blocks within a block.
        f_num_init_features, f_dens_k, f_num_layer_block, f_n_blocks: the same for all bins together.
        ttl_dens_k, ttl_num_layer_block: of the last block.
        test_patch_len: frames that it sees at once.
        out_shift: frames from one patch to the next; what overlaps is averaged.
    """

    valid_signal_idx: int = 1600
    band_split_idxs: Sequence[int] = (256,)
    num_init_features: Sequence[int] = (32, 8)
    dens_k: Sequence[Sequence[int]] = ((16, 18, 20, 22, 20, 18, 16), (2,) * 5)
    num_layer_blocks: Sequence[Sequence[int]] = ((5, 5, 5, 5, 4, 4, 4), (1,) * 5)
    b_n_blocks: Sequence[Sequence[int]] = ((2,) * 7, (1,) * 5)
    f_num_init_features: int = 32
    f_dens_k: Sequence[int] = (13, 14, 15, 16, 17, 16, 14, 12, 11)
    f_num_layer_block: Sequence[int] = (4, 5, 6, 7, 8, 6, 5, 4, 4)
    f_n_blocks: Sequence[int] = (2,) * 9
    ttl_dens_k: int = 12
    ttl_num_layer_block: int = 3
    test_patch_len: int = 256
    out_shift: int = 128

    @property
    def edges(self) -> tuple[int, ...]:
        """First bins of the bands, and the bin after the last."""
        return (0, *self.band_split_idxs, self.valid_signal_idx)

    def bands(self) -> list["Levels"]:
        """Return the levels of each band.

        Raises:
            StemsplitError: the bands differ in number.
        """
        rows = (self.num_init_features, self.dens_k, self.num_layer_blocks, self.b_n_blocks)
        if {len(row) for row in rows} != {len(self.edges) - 1}:
            raise StemsplitError("d3net: each band needs its num_init_features, dens_k and so on")
        return [Levels(*band) for band in zip(*rows, strict=True)]

    def full(self) -> "Levels":
        """Return the levels of all bins together."""
        return Levels(self.f_num_init_features, self.f_dens_k, self.f_num_layer_block, self.f_n_blocks)

    def __post_init__(self) -> None:
        widths = [stop - start for start, stop in pairwise(self.edges)]
        for width, levels in zip((*widths, self.valid_signal_idx), (*self.bands(), self.full()), strict=True):
            if (
                not len(levels.growth) == len(levels.layers) == len(levels.blocks)
                or len(levels.growth) % 2 == 0
            ):
                raise StemsplitError("d3net: a band needs as many levels up as down")
            size = 1 << len(levels.growth) // 2
            if width < 1 or width % size or self.test_patch_len % size:
                raise StemsplitError(f"d3net: bands and patches must be multiples of {size}")
        if self.out_shift < 1 or self.test_patch_len % self.out_shift:
            raise StemsplitError("d3net: out_shift must divide test_patch_len")


@dataclass(frozen=True)
class Levels:
    """Sizes of the levels of a band: on the way down, in the middle, and on the way up.

    Attributes:
        width: of the input.
        growth, layers, blocks: of each level's block.
    """

    width: int
    growth: Sequence[int]
    layers: Sequence[int]
    blocks: Sequence[int]


# What the released networks have otherwise than that of vocals
RELEASED: Mapping[str, Mapping[str, Any]] = {
    "bass": {
        "band_split_idxs": (192,),
        "dens_k": ((16, 18, 18, 20, 18, 16, 16), (2,) * 7),
        "num_layer_blocks": ((5, 5, 5, 5, 4, 4, 4), (1,) * 7),
        "b_n_blocks": ((2,) * 7, (1,) * 7),
        "f_dens_k": (10, 10, 12, 14, 16, 14, 12, 8, 8),
        "f_num_layer_block": (4, 5, 6, 7, 8, 6, 6, 4, 4),
        "test_patch_len": 384,
        "out_shift": 192,
    },
    "drums": {
        "band_split_idxs": (128,),
        "num_layer_blocks": ((5, 5, 5, 4, 4, 4, 4), (1,) * 5),
        "f_dens_k": (13, 14, 15, 16, 16, 16, 14, 12, 11),
        "f_num_layer_block": (4, 5, 6, 7, 8, 6, 6, 4, 4),
    },
    "other": {},
    "vocals": {},
}


@dataclass(frozen=True)
class D3NetArguments:
    """Networks and settings of the filter.

    Attributes:
        targets: stems, each with what its network has otherwise than `Sizes`.
        nb_channels: of mix and stems; the filter needs two.
        filter: combine the estimates by a Wiener filter, rather than give each the mix's phase.
        flip: average with the estimate from swapped channels.
        sample_rate: in Hz.
        fft_size: samples per STFT frame.
        hop_size: samples from frame to frame.
        segment_s: length of a chunk, in s. With an overlap of a quarter, a track of up to 60 s is one chunk.
    """

    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: dict(RELEASED))
    nb_channels: int = 2
    filter: bool = True
    flip: bool = True
    sample_rate: int = 44100
    fft_size: int = 4096
    hop_size: int = 1024
    segment_s: float = 80.0

    def __post_init__(self) -> None:
        if self.filter and (self.nb_channels != 2 or len(self.targets) < 2):
            raise StemsplitError("d3net: the filter needs two channels and two targets")


class NormConv(nn.Module):
    """Normalisation, ReLU, and a convolution of three by three."""

    def __init__(self, width: int, out: int, dilation: int = 1) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(width)
        self.conv1 = nn.Conv2d(width, out, 3, padding=dilation, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W', frames, F]."""
        y: Tensor = self.conv1(torch.relu(self.norm1(x)))
        return y


def _forward_sums(parts: Sequence[Tensor], layers: Sequence[nn.Module]) -> Tensor:
    """Let each part's layer add to all later parts, and return the last: [B, W, frames, F] each.

    Layer i gives as many times W features as there are parts after part i.
    """
    parts = list(parts)
    for i, layer in enumerate(layers):
        added = layer(parts[i]).chunk(len(parts) - 1 - i, dim=1)
        parts[i + 1 :] = [part + more for part, more in zip(parts[i + 1 :], added, strict=True)]
    return parts[-1]


class Multidilated(nn.Module):
    """Dense layers, each of twice the dilation of the last; what an earlier one adds has the earlier's.

    Args:
        width: of the input.
        growth: width of the output.
        layers: number of layers.
    """

    def __init__(self, width: int, growth: int, layers: int) -> None:
        super().__init__()
        self.count = layers
        self.initial_layer = nn.ModuleDict({"bottleneck": NormConv(width, growth * layers)})
        self.layers = nn.ModuleDict(
            {
                f"layer{i}": nn.ModuleDict({"bottleneck": NormConv(growth, growth * (layers - i), 2**i)})
                for i in range(1, layers)
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, growth, frames, F]."""
        parts = self.initial_layer["bottleneck"](x).chunk(self.count, dim=1)
        inner = [cast(nn.ModuleDict, layer)["bottleneck"] for layer in self.layers.values()]
        return _forward_sums(parts, inner)


class D3Block(nn.Module):
    """Multidilated blocks, connected densely in the same way as their layers.

    Args:
        width: of the input.
        growth: width of the output.
        layers: of each inner block.
        blocks: number of inner blocks.
    """

    def __init__(self, width: int, growth: int, layers: int, blocks: int) -> None:
        super().__init__()
        self.count = blocks
        self.initial_block = Multidilated(width, growth * blocks, layers)
        self.layers = nn.ModuleDict(
            {f"layer{i}": Multidilated(growth, growth * (blocks - i), layers) for i in range(1, blocks)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, growth, frames, F]."""
        return _forward_sums(self.initial_block(x).chunk(self.count, dim=1), list(self.layers.values()))


class Finer(nn.Module):
    """Normalisation, and a transposed convolution to twice the frames and bins."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.upsample = nn.ModuleDict(
            {"norm": nn.BatchNorm2d(width), "transconv": nn.ConvTranspose2d(width, width, 2, stride=2)}
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W, 2·frames, 2·F]."""
        y: Tensor = self.upsample["transconv"](self.upsample["norm"](x))
        return y


class Pyramid(nn.Module):
    """Blocks down to a coarse scale and up again, with skip connections.

    Args:
        levels: their sizes.
    """

    def __init__(self, levels: Levels) -> None:
        super().__init__()
        rows = list(zip(levels.growth, levels.layers, levels.blocks, strict=True))
        depth, width = len(rows) // 2, levels.width
        self.ds_layers, self.us_layers = nn.ModuleDict(), nn.ModuleDict()
        for i, row in enumerate(rows[:depth]):
            self.ds_layers[f"dense_block{i}"] = D3Block(width, *row)
            width = row[0]
        self.bottleneck_block = D3Block(width, *rows[depth])
        for i, row in enumerate(rows[depth + 1 :]):
            below, beside = rows[depth + i][0], rows[depth - 1 - i][0]
            self.us_layers[f"upsample{i}"] = Finer(below)
            # the original takes the number of blocks one level too early; its own networks don't show it
            self.us_layers[f"dense_block{depth + 1 + i}"] = D3Block(
                below + beside, *row[:2], rows[depth + i][2]
            )

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, growth of the last level, frames, F]."""
        skips = []
        for block in self.ds_layers.values():
            x = block(x)
            skips.append(x)
            x = nn.functional.avg_pool2d(x, 2)
        x = self.bottleneck_block(x)
        up = list(self.us_layers.values())
        for finer, block in zip(up[::2], up[1::2], strict=True):
            x = block(torch.cat([finer(x), skips.pop()], dim=1))
        return x


class Match(nn.Module):
    """Normalisation, and a convolution of one by one, to the width of the widest band."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W', frames, F]."""
        y: Tensor = self.conv(self.norm(x))
        return y


class Gate(nn.Module):
    """Normalisation, then a convolution of one by one, and a second one that gates it."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(width)
        self.conv_gate = nn.ModuleDict({"conv": nn.Conv2d(width, out, 1)})
        self.conv_filt = nn.ModuleDict({"conv": nn.Conv2d(width, out, 1)})

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, C, frames, F]."""
        x = self.bn(x)
        y: Tensor = torch.sigmoid(self.conv_gate["conv"](x)) * self.conv_filt["conv"](x)
        return y


class Target(nn.Module):
    """Network of one stem.

    Args:
        sizes: of the network.
        channels: of mix and stems.
        bins: of the spectrum.
    """

    def __init__(self, sizes: Sizes, channels: int, bins: int) -> None:
        super().__init__()
        if sizes.valid_signal_idx > bins:
            raise StemsplitError(f"d3net: valid_signal_idx {sizes.valid_signal_idx}: there are {bins} bins")
        self.sizes = sizes
        bands, full = sizes.bands(), sizes.full()
        self.in_offset = nn.Parameter(torch.zeros(1, 1, 1, bins))
        self.in_scale = nn.Parameter(torch.ones(1, 1, 1, bins))
        self.decode_scale = nn.Parameter(torch.ones(1, 1, 1, sizes.valid_signal_idx))
        self.decode_bias = nn.Parameter(torch.ones(1, 1, 1, sizes.valid_signal_idx))
        self.features_init = nn.ModuleList(nn.Conv2d(channels, band.width, 3, padding=1) for band in bands)
        self.dense_band = nn.ModuleList(map(Pyramid, bands))
        widest = max(band.growth[-1] for band in bands)
        narrow = {str(i): band.growth[-1] for i, band in enumerate(bands) if band.growth[-1] < widest}
        self.match_fm_conv = nn.ModuleDict({name: Match(width, widest) for name, width in narrow.items()})
        self.features_init_full = nn.Conv2d(channels, full.width, 3, padding=1)
        self.dense_full = Pyramid(full)
        self.final_dense = Multidilated(widest + full.growth[-1], sizes.ttl_dens_k, sizes.ttl_num_layer_block)
        self.out_gate = Gate(sizes.ttl_dens_k, channels)

    def forward(self, mix: Tensor) -> Tensor:
        """Return the stem's magnitudes from the mix's, of one patch: [B, C, frames, F] -> the same."""
        seen = self.sizes.valid_signal_idx
        x = ((mix - self.in_offset) / self.in_scale)[..., :seen]
        outs = []
        for i, (start, stop) in enumerate(pairwise(self.sizes.edges)):
            band = self.dense_band[i](self.features_init[i](x[..., start:stop]))
            outs.append(self.match_fm_conv[str(i)](band) if str(i) in self.match_fm_conv else band)
        full = self.dense_full(self.features_init_full(x))
        final = self.final_dense(torch.cat([torch.cat(outs, dim=3), full], dim=1))  # [B, W, frames, F]
        estimate = torch.relu(self.out_gate(final) * self.decode_scale + self.decode_bias)
        return torch.cat([estimate, mix[..., seen:]], dim=3)


class D3Net(Network):
    """Networks of all targets, and the filter that combines their estimates.

    The released program averages over patches too, but leaves out the last patch of some tracks, which halves
    the estimates of up to three seconds.

    In checkpoints the keys of a target begin with `targets.<stem>.`.
    """

    Arguments = D3NetArguments
    arguments: D3NetArguments
    options = ("filter", "flip")

    def __init__(self, arguments: D3NetArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=tuple(a.targets),
            sample_rate=a.sample_rate,
            channels=a.nb_channels,
            segment_samples=int(a.segment_s * a.sample_rate),
        )
        bins = a.fft_size // 2 + 1
        self.targets = nn.ModuleDict(
            {name: Target(Sizes(**sizes), a.nb_channels, bins) for name, sizes in a.targets.items()}
        )

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`; without the filter, drop the networks of the others."""
        super().select(stems)
        if not self.arguments.filter:
            for name in [name for name in self.targets if canonical(name) not in self.stems]:
                del self.targets[name]
        return self

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return through_spectra(mix, self.arguments.fft_size, self.arguments.hop_size, self._spectra)

    def _spectra(self, mix: Tensor) -> Tensor:
        """Return the stems' spectra from the mix's: [B, C, F, frames] -> [B, S, C, F, frames]."""
        magnitude = mix.abs().mT  # [B, C, frames, F]
        estimates = [self.magnitudes(cast(Target, target), magnitude) for target in self.targets.values()]
        stems = torch.polar(
            torch.stack(estimates, dim=1).mT, mix.angle()[:, None].expand(-1, len(estimates), -1, -1, -1)
        )
        if self.arguments.filter:
            return pooled_wiener(stems, mix)[:, list(self.kept)]
        return stems

    def magnitudes(self, target: Target, mix: Tensor) -> Tensor:
        """Return a stem's magnitudes from the mix's, patch by patch: [B, C, frames, F] -> the same."""
        length, shift = target.sizes.test_patch_len, target.sizes.out_shift
        before, frames = length - shift, mix.shape[2]
        patches = -(-(frames + before) // shift)
        padded = nn.functional.pad(mix, (0, 0, before, (patches - 1) * shift + length - before - frames))
        total = torch.zeros_like(padded)
        for start in range(0, patches * shift, shift):
            total[:, :, start : start + length] += self._patch(target, padded[:, :, start : start + length])
        return total[:, :, before : before + frames] / (length // shift)

    def _patch(self, target: Target, mix: Tensor) -> Tensor:
        """[B, C, frames, F] -> the same."""
        if not self.arguments.flip:
            found: Tensor = target(mix).float()
            return found
        both = target(torch.cat([mix, mix.flip(1)])).float()
        straight, flipped = both.chunk(2)
        averaged: Tensor = (straight + flipped.flip(1)) / 2
        return averaged

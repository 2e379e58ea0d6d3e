"""MDX-Net: TFC-TDF U-Nets of one stem each (Kim et al. 2021), and the mixer that joins four of them.

"KUIELab-MDX-Net: A Two-Stream Neural Network for Music Demixing" (arXiv 2111.12203, section 2):
time-frequency convolutions (TFC), then linear layers along frequency (TDF, Choi et al. 2020). Ultimate Vocal
Remover (UVR) trained more of them. Keys and arguments are those of its class `ConvTDFNet`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, ClassVar, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import fuse_conv_bn_eval

from stemsplit.chunking import Chunking
from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.spectra import ComplexAsChannels
from stemsplit.models.fast.packed import pack_pointwise
from stemsplit.models.fast.padded import padded
from stemsplit.models.fast.tfc_tdf import FoldedAlongBins, OverwritingBlock
from stemsplit.models.network import Network, ignore_when_loading
from stemsplit.models.spectral import SpectralNetwork, Transform

GROUPS = 2  # of the group normalisation


class Layer(nn.Sequential):
    """A convolution or linear layers, each followed by its normalisation and a ReLU.

    Args:
        channels: of the output.
        layers: what is followed.
        norm: bn, gn, or an empty text for none.
    """

    def __init__(self, channels: int, *layers: nn.Module, norm: str) -> None:
        def normalisation() -> nn.Module:
            if not norm:
                return nn.Identity()
            return nn.BatchNorm2d(channels) if norm == "bn" else nn.GroupNorm(GROUPS, channels)

        super().__init__(
            *(one for layer in layers for one in (layer, normalisation(), nn.ReLU(inplace=True)))
        )


class AlongBins(nn.Linear):
    """Linear layer along the last dimension, which takes a tensor with channels last without copying it."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C, frames, F']."""
        if x.is_contiguous():
            plain: Tensor = F.linear(x, self.weight, self.bias)
            return plain
        columns = x.permute(0, 2, 3, 1).flatten(0, 1)  # [B·frames, F, C]
        # bmm, because matmul copies the larger factor if the other one has no batch
        y = torch.bmm(self.weight.expand(len(columns), -1, -1), columns)  # [B·frames, F', C]
        y = y if self.bias is None else y + self.bias[:, None]
        return y.view(len(x), -1, *y.shape[1:]).permute(0, 3, 1, 2)  # [B, C, frames, F'], channels last


class Convolutions(nn.Module):
    """Convolutions at one scale (TFC).

    Args:
        channels: of input and output.
        arguments: of the network.
    """

    def __init__(self, channels: int, arguments: "MDXNet.Arguments") -> None:
        super().__init__()
        a = arguments

        def convolution() -> nn.Module:
            return nn.Conv2d(channels, channels, a.k, padding=a.k // 2)

        self.H = nn.Sequential(
            *(Layer(channels, convolution(), norm=a.norm_of_convolutions) for _ in range(a.l))
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C, frames, F]."""
        y: Tensor = self.H(x)
        return y


class Block(nn.Module):
    """Convolutions, and what linear layers along frequency add to their output.

    Args:
        channels: of input and output.
        bins: of input and output.
        arguments: of the network.
    """

    def __init__(self, channels: int, bins: int, arguments: "MDXNet.Arguments") -> None:
        super().__init__()
        a, narrow = arguments, bins // arguments.bn
        down, up = AlongBins(bins, narrow, bias=a.bias), AlongBins(narrow, bins, bias=a.bias)
        self.tfc = Convolutions(channels, a)
        self.tdf = Layer(channels, down, up, norm=a.norm)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C, frames, F]."""
        x = self.tfc(x)
        y: Tensor = self.tdf(x)
        return y + x if torch.is_grad_enabled() else y.add_(x)

    def overwriting(self) -> nn.Module:
        """Return the block for inference in its input's memory, if its convolutions have 3 × 3 taps."""
        convolutions = [cast(nn.Conv2d, cast(Layer, layer)[0]) for layer in self.tfc.H]
        return OverwritingBlock(convolutions, self.tdf) if all(map(padded, convolutions)) else self


class MDXNet(SpectralNetwork):
    """Estimates the spectrogram of one stem, up to a highest bin; the other stem is the rest of the mix.

    Above the highest bin the first stem is silent, and the second one is the mix.
    """

    options: ClassVar[tuple[str, ...]] = ("compensate", "denoise", "match_freq_cut")
    arguments: "MDXNet.Arguments"

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Values of the most frequent released checkpoints of UVR.

        Attributes:
            stems: the stem that the network estimates, and the name of the rest if that is an output too.
            audio_channels: of mix and stems.
            n_fft: samples per frame, under a Hann window.
            hop_length: samples from frame to frame.
            dim_f: bins that the network sees, from 0 Hz up.
            dim_t: frames of a chunk.
            num_blocks: at all scales: in the encoder as many as in the decoder, and one between them.
            l: convolutions of a block.
            g: channels at the first scale, and additional ones per scale.
            k: width of the convolutions' kernels.
            bn: the linear layers along frequency are this many times narrower between them.
            bias: of the linear layers.
            norm: bn (batch normalisation) or gn (group normalisation in two groups).
            folded: the convolutions' normalisation is part of their weights, as in exported files.
            compensate: factor of the first stem where it is subtracted from the mix.
            denoise: the mean of the output and of the inverted output of the inverted mix, which cancels
                what the network adds whatever it hears; takes twice the time.
            match_freq_cut: leave bins that the network doesn't see out of the second stem too.
            silent_bins: bins from 0 Hz up that are 0 in the network's input.
            normalise: scale louder tracks down to a peak of 0.9.
            overlap: fraction of a chunk shared with the next; None for the default.
            sample_rate: in Hz.
        """

        stems: Sequence[str] = ("vocals", "instrumental")
        audio_channels: int = 2
        n_fft: int = 6144
        hop_length: int = 1024
        dim_f: int = 2048
        dim_t: int = 256
        num_blocks: int = 11
        l: int = 3  # noqa: E741 (the released name)
        g: int = 32
        k: int = 3
        bn: int = 8
        bias: bool = False
        norm: str = "bn"
        folded: bool = False
        compensate: float = 1.035
        denoise: bool = False
        match_freq_cut: bool = False
        silent_bins: int = 3
        normalise: bool = True
        overlap: float | None = 0.25
        sample_rate: int = 44_100

        def __post_init__(self) -> None:
            if not 0 < len(self.stems) <= 2:
                raise StemsplitError(
                    f"estimates a stem and perhaps the rest of the mix, not {len(self.stems)} stems"
                )
            if self.norm not in ("bn", "gn") or (self.folded and self.norm == "gn"):
                raise StemsplitError(f"norm is bn or gn, and only bn can be folded; not {self.norm}")
            if not 0 < self.dim_f <= self.n_fft // 2 + 1:
                raise StemsplitError(f"{self.dim_f} bins of a spectrogram that has {self.n_fft // 2 + 1}")
            if self.dim_t < 2:
                raise StemsplitError(f"dim_t {self.dim_t}: a chunk has 2 frames at least")
            if self.k % 2 == 0 or self.num_blocks % 2 == 0:
                raise StemsplitError(f"k {self.k} and num_blocks {self.num_blocks}: must be odd")
            if not 0 <= self.scales < 30 or self.dim_f % self.frame_multiple:
                raise StemsplitError(
                    f"dim_f {self.dim_f}: must be a multiple of 2^(num_blocks // 2) = 2^{self.scales}"
                )
            if not 0 < self.bn <= self.dim_f // self.frame_multiple:
                raise StemsplitError(f"bn {self.bn}: leaves none of the bins of the last scale")

        @property
        def scales(self) -> int:
            """Number of scales below the first."""
            return self.num_blocks // 2

        @property
        def frame_multiple(self) -> int:
            """The number of frames is a multiple of this."""
            return 1 << self.scales

        @property
        def norm_of_convolutions(self) -> str:
            """Normalisation after convolutions, empty for none."""
            return "" if self.folded else self.norm

        @property
        def segment_samples(self) -> int:
            """Length of a chunk in samples."""
            return self.hop_length * (self.dim_t - 1)

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.stems,
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.segment_samples,
            transform=Transform(a.n_fft, a.hop_length),
        )
        self.normalise, self.normalised_by, self.overlap = a.normalise, "peak", a.overlap
        self._surround()
        self.representation = ComplexAsChannels()
        parts, norm = self.representation.width * a.audio_channels, a.norm_of_convolutions
        widths = [a.g * (i + 1) for i in range(a.scales + 1)]
        bins = [a.dim_f >> i for i in range(a.scales + 1)]
        steps = list(zip(widths[:-1], widths[1:], bins[:-1], strict=True))
        self.first_conv = Layer(a.g, nn.Conv2d(parts, a.g, 1), norm=norm)
        self.encoding_blocks = nn.ModuleList(Block(near, size, a) for near, _, size in steps)
        self.ds = nn.ModuleList(Layer(far, nn.Conv2d(near, far, 2, 2), norm=norm) for near, far, _ in steps)
        self.bottleneck_block: nn.Module = Block(widths[-1], bins[-1], a)
        self.us = nn.ModuleList(
            Layer(near, nn.ConvTranspose2d(far, near, 2, 2), norm=norm) for near, far, _ in reversed(steps)
        )
        self.decoding_blocks = nn.ModuleList(Block(near, size, a) for near, _, size in reversed(steps))
        self.final_conv = nn.Sequential(nn.Conv2d(a.g, parts, 1))
        ignore_when_loading(self, "window", "freq_pad")
        for layer in self.modules():
            # PyTorch's own initial weights halve the signal at every convolution without normalisation
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")

    def _surround(self) -> None:
        """Put half a frame of silence around the track, and as much as fills the middle of the last chunk."""
        half = self.arguments.n_fft // 2
        self.chunking = Chunking("hann", half, half, max(0, self.segment_samples - 2 * half))

    def use_segment(self, seconds: float) -> Self:
        """Work on chunks of `seconds`."""
        super().use_segment(seconds)
        self._surround()
        return self

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames], the frames being a multiple of `frame_multiple`."""
        a, samples = self.arguments, mix.shape[-1]
        z = self.transform.analyse(F.pad(mix, (0, self._whole_frames(samples) - samples)))
        x = self.representation.encode(z)[:, :, : a.dim_f]  # [B, 2C, dim_f, frames]
        x = F.pad(x[:, :, a.silent_bins :], (0, 0, a.silent_bins, 0))
        y = self._network(x)
        if a.denoise and not self.training:
            y = (y - self._network(-x)) / 2
        first = self._complex(y, z)
        if self.kept == (0,):
            return first[:, None]
        rest = (self._complex(x, z) if a.match_freq_cut else z) - a.compensate * first
        return torch.stack([(first, rest)[i] for i in self.kept], dim=1)

    def _complex(self, y: Tensor, z: Tensor) -> Tensor:
        """[B, 2C, dim_f, frames] -> complex [B, C, F, frames], silent above dim_f."""
        whole = F.pad(y.float(), (0, 0, 0, self.transform.bins - y.shape[2]))  # [B, 2C, F, frames]
        return self.representation.decode(whole[:, None], z, self.training)[:, 0]

    def _network(self, x: Tensor) -> Tensor:
        """[B, 2C, dim_f, frames] -> [B, 2C, dim_f, frames]."""
        y = x.transpose(2, 3)  # [B, 2C, frames, dim_f]
        if y.device.type == "cpu":
            y = y.contiguous(memory_format=torch.channels_last)
        y = self.first_conv(y)  # [B, channels, frames, bins]
        saved = []
        for block, down in zip(self.encoding_blocks, self.ds, strict=True):
            saved.append(block(y))
            y = down(saved[-1])
        y = self.bottleneck_block(y)
        for up, block in zip(self.us, self.decoding_blocks, strict=True):
            y = up(y)
            y = block(y * saved.pop() if torch.is_grad_enabled() else y.mul_(saved.pop()))
        out: Tensor = self.final_conv(y)
        return out.transpose(2, 3)

    def _whole_frames(self, samples: int) -> int:
        """Return the length, a multiple of `frame_multiple` frames, to which silence continues `samples`.

        The released networks hear whole chunks only, so short ones are continued to a chunk.
        """
        a = self.arguments
        least = samples if self.training else max(samples, self.segment_samples)
        frames = -(-least // a.hop_length) + 1
        whole = -(-frames // a.frame_multiple) * a.frame_multiple
        return int(a.hop_length * (whole - 1))

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Fold the batch normalisations into the weights before them; compute wide convolutions faster."""
        for layer in [m for m in self.modules() if isinstance(m, Layer)]:
            for i, (part, norm) in enumerate(pairwise(layer)):
                if not isinstance(norm, nn.BatchNorm2d):
                    continue
                if isinstance(part, AlongBins):
                    layer[i] = FoldedAlongBins(part, norm)
                else:
                    transposed = isinstance(part, nn.ConvTranspose2d)
                    layer[i] = fuse_conv_bn_eval(cast(nn.Conv2d, part), norm, transposed)
                layer[i + 1] = nn.Identity()
        self.first_conv[0] = pack_pointwise(self.first_conv[0])
        self.final_conv[0] = pack_pointwise(self.final_conv[0])
        if self.arguments.norm == "bn":
            for blocks in (self.encoding_blocks, self.decoding_blocks):
                for i, block in enumerate(blocks):
                    blocks[i] = cast(Block, block).overwriting()
            self.bottleneck_block = cast(Block, self.bottleneck_block).overwriting()
        return self


def from_uvr(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that UVR's table of models knows of a checkpoint; the others show in its file.

    Args:
        entry: primary_stem, compensate, mdx_dim_f_set, mdx_dim_t_set (the binary logarithm of the frames) and
            mdx_n_fft_scale_set.

    Raises:
        StemsplitError: the entry isn't that of an MDX-Net.
    """
    try:
        primary = str(entry["primary_stem"])
        return {
            "stems": (primary, _rest(primary)),
            "compensate": float(entry["compensate"]),
            "n_fft": int(entry["mdx_n_fft_scale_set"]),
            "dim_f": int(entry["mdx_dim_f_set"]),
            "dim_t": 1 << int(entry["mdx_dim_t_set"]),
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise StemsplitError(f"not the entry of an MDX-Net in UVR's table ({error})") from error


def _rest(primary: str) -> str:
    """Return UVR's name of the mix without a stem."""
    pairs = {"Vocals": "Instrumental", "Instrumental": "Vocals"}
    without = primary.removeprefix("No ")
    return pairs.get(primary, f"No {primary}" if without == primary else without)


class Mixer(nn.Module):
    """Stems as weighted sums of all estimates and the mix, each channel by itself a signal.

    Args:
        stems: number of stems.
        channels: of mix and stems.
    """

    def __init__(self, stems: int, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear((stems + 1) * channels, stems * channels, bias=False)
        nn.init.eye_(self.linear.weight)  # every stem its own estimate

    def forward(self, x: Tensor) -> Tensor:
        """[B, S + 1, C, T], the mix last -> [B, S, C, T]."""
        with torch.autocast(x.device.type, enabled=False):  # these are samples: half precision is noise
            y: Tensor = self.linear.weight @ x.flatten(1, 2).float()  # [B, S·C, T]
            return y.view(len(x), -1, self.channels, x.shape[-1])


class MDXKuielab(Network):
    """Networks of one stem each, on the same chunks, and perhaps a mixer of their estimates.

    KUIELab's submission to the Music Demixing Challenge 2021. It takes the middle of every chunk, half the
    longest frame away from both ends, without overlap. In checkpoints the keys of a network begin with
    `networks.<stem>.`, and those of the mixer with `mixer.`.
    """

    arguments: "MDXKuielab.Arguments"

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Values of the submission to leaderboard A.

        Attributes:
            networks: arguments of each stem's network (`MDXNet.Arguments`) that differ from the default.
            dim_t: frames of a chunk.
            mixer: whether there is one.
            folded: as in `MDXNet.Arguments`, for all networks.
            sample_rate: in Hz.
        """

        networks: Mapping[str, Mapping[str, Any]] = field(
            default_factory=lambda: {
                "bass": {"n_fft": 16_384},
                "drums": {"n_fft": 4096},
                "other": {"n_fft": 8192},
                "vocals": {"n_fft": 6144},
            }
        )
        dim_t: int = 512
        mixer: bool = True
        folded: bool = True
        sample_rate: int = 44_100

        def network(self, stem: str) -> MDXNet.Arguments:
            """Return the arguments of a stem's network."""
            usual = {"silent_bins": 0, "folded": self.folded}
            fixed = {"stems": (stem,), "dim_t": self.dim_t, "sample_rate": self.sample_rate}
            return MDXNet.Arguments(**usual | dict(self.networks[stem]) | fixed)

        @property
        def context_samples(self) -> int:
            """Half the longest frame, which an estimate at either end of a chunk would lack."""
            return max(self.network(stem).n_fft for stem in self.networks) // 2

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        networks = {stem: MDXNet(a.network(stem)) for stem in a.networks}
        if len({network.channels for network in networks.values()}) != 1:
            raise StemsplitError("networks: must have a stem, and all the same number of channels")
        first = next(iter(networks.values()))
        super().__init__(
            a,
            stems=tuple(networks),
            sample_rate=a.sample_rate,
            channels=first.channels,
            segment_samples=first.segment_samples - 2 * a.context_samples,
        )
        self.context_samples, self.overlap = a.context_samples, 0.0
        self.networks = nn.ModuleDict(networks)
        self.mixer = Mixer(len(networks), self.channels) if a.mixer else None

    def padded_samples(self, samples: int) -> int:
        """Return the samples that the networks get for a chunk: all its context."""
        return samples + 2 * self.context_samples

    def use_segment(self, seconds: float) -> Self:
        """Work on chunks of `seconds`."""
        super().use_segment(seconds)
        for network in self._members():
            network.segment_samples = self.padded_samples(self.segment_samples)
        return self

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`; without a mixer, drop the other stems' networks."""
        super().select(stems)
        if self.mixer is None:
            kept = set(self.kept)
            for name in [name for i, name in enumerate(self.arguments.networks) if i not in kept]:
                del self.networks[name]
        return self

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        stems = torch.cat([network.estimate(mix) for network in self._members()], dim=1)
        if self.mixer is None:
            return stems
        mixed: Tensor = self.mixer(
            torch.cat([stems, mix[:, None]], dim=1)
        )  # [B, S + 1, C, T] -> [B, S, C, T]
        return mixed[:, list(self.kept)]

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Fold the convolutions' batch normalisations into their weights."""
        for network in self._members():
            network.prepare(dtype)
        return self

    def _members(self) -> list[MDXNet]:
        return [cast(MDXNet, network) for network in self.networks.values()]

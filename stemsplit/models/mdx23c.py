"""MDX23C, the third TFC-TDF U-Net (Kim, Lee and Jung 2023), on a spectrogram cut into subbands.

"Sound Demixing Challenge 2023 Music Demixing Track Technical Report: TFC-TDF-UNet v3" (arXiv 2306.09382,
section 2): time-frequency convolutions (TFC) around linear layers along frequency (TDF, Choi et al. 2020).
Keys, arguments and their defaults are those of the released checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.released import released_arguments, released_stems, released_use
from stemsplit.models.blocks.spectra import ComplexAsChannels
from stemsplit.models.blocks.tfc_tdf import TfcTdf
from stemsplit.models.fast.packed import pack_pointwise
from stemsplit.models.fast.tfc_tdf import ActivatedLayer, TiledTfcTdf
from stemsplit.models.spectral import SpectralNetwork, Transform

# the transform's part of a configuration's section `audio` -> our argument
AUDIO = {"n_fft": "n_fft", "hop_length": "hop_length", "dim_f": "dim_f", "num_channels": "audio_channels"}


class Style(NamedTuple):
    """Normalisation and activation of a network, by the names that configurations give them.

    Attributes:
        norm: InstanceNorm, BatchNorm, GroupNorm followed by the number of groups, or None for none.
        act: gelu, relu, or elu followed by its α.
    """

    norm: str | None
    act: str

    def normalisation(self, channels: int) -> nn.Module:
        """Return a layer for [B, C, frames, F].

        Raises:
            StemsplitError: there is no such normalisation.
        """
        if self.norm is None:
            return nn.Identity()
        if self.norm == "InstanceNorm":
            return nn.InstanceNorm2d(channels, affine=True)
        if self.norm == "BatchNorm":
            return nn.BatchNorm2d(channels)
        groups = self.norm.removeprefix("GroupNorm")
        if groups == self.norm or not groups.isdecimal():
            raise StemsplitError(f"norm is InstanceNorm, BatchNorm, GroupNormN or nothing, not {self.norm}")
        return nn.GroupNorm(int(groups), channels)

    def activation(self) -> nn.Module:
        """Return a layer for any shape.

        Raises:
            StemsplitError: there is no such activation.
        """
        if self.act in ("gelu", "relu"):
            return nn.GELU() if self.act == "gelu" else nn.ReLU()
        try:
            if self.act.startswith("elu"):
                return nn.ELU(float(self.act.removeprefix("elu")))
        except ValueError:
            pass
        raise StemsplitError(f"act is gelu, relu or elu followed by a number, not {self.act}")

    def before(self, channels: int, layer: nn.Module) -> list[nn.Module]:
        """Return the three layers of a pre-activation layer: normalise, activate, `layer`."""
        return [self.normalisation(channels), self.activation(), layer]


class Blocks(nn.Module):
    """Blocks in sequence; the first one changes the number of channels.

    Args:
        channels: of the input.
        out: channels of the output.
        bins: of input and output.
        arguments: of the network.
    """

    def __init__(self, channels: int, out: int, bins: int, arguments: "MDX23C.Arguments") -> None:
        super().__init__()
        a = arguments
        self.blocks = nn.Sequential(
            *(
                TfcTdf(out if i else channels, out, bins, a.bottleneck_factor, a.style.before)
                for i in range(a.num_blocks_per_scale)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C', frames, F]."""
        y: Tensor = self.blocks(x)
        return y


class Rescale(nn.Module):
    """Strided convolution, or transposed convolution, after normalisation and activation.

    Args:
        channels: of the input.
        layer: the convolution.
        style: of the layers before it.
    """

    def __init__(self, channels: int, layer: nn.Module, style: Style) -> None:
        super().__init__()
        self.conv = nn.Sequential(*style.before(channels, layer))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C', frames', F']."""
        y: Tensor = self.conv(x)
        return y


class Encoder(nn.Module):
    """Blocks at one scale, then the step down to the next.

    Args:
        channels: at this scale.
        below: channels at the next scale.
        bins: at this scale.
        arguments: of the network.
    """

    def __init__(self, channels: int, below: int, bins: int, arguments: "MDX23C.Arguments") -> None:
        super().__init__()
        scale = arguments.scale[0], arguments.scale[1]
        down = nn.Conv2d(channels, below, scale, scale, bias=False)
        self.tfc_tdf = Blocks(channels, channels, bins, arguments)
        self.downscale = Rescale(channels, down, arguments.style)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Step down one scale.

        Args:
            x: [B, C, frames, F].

        Returns:
            the features for the next scale [B, C', frames', F'] and those for the decoder [B, C, frames, F].
        """
        skip = self.tfc_tdf(x)
        return self.downscale(skip), skip


class Decoder(nn.Module):
    """Step up from the scale below, then blocks that also see what the encoder saved.

    Args:
        channels: at this scale.
        below: channels at the scale below.
        bins: at this scale.
        arguments: of the network.
    """

    def __init__(self, channels: int, below: int, bins: int, arguments: "MDX23C.Arguments") -> None:
        super().__init__()
        scale = arguments.scale[0], arguments.scale[1]
        up = nn.ConvTranspose2d(below, channels, scale, scale, bias=False)
        self.upscale = Rescale(below, up, arguments.style)
        self.tfc_tdf = Blocks(2 * channels, channels, bins, arguments)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, C', frames', F'], [B, C, frames, F] -> [B, C, frames, F]."""
        y: Tensor = self.tfc_tdf(torch.cat([self.upscale(x), skip], dim=1))
        return y


class MDX23C(SpectralNetwork):
    """Estimates the stems' spectrograms themselves, up to a highest bin; above it the stems are silent.

    Attributes:
        layout: in memory, of what the network computes.
    """

    layout = torch.preserve_format

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Values of the released checkpoint InstVoc HQ (8K FFT).

        Attributes:
            stems: names of the outputs.
            audio_channels: of mix and stems.
            n_fft: samples per frame, under a Hann window.
            hop_length: samples from frame to frame.
            dim_f: bins that the network sees, from 0 Hz up.
            num_subbands: the bins are cut into so many bands of equal width, which become channels.
            num_channels: at the first scale.
            growth: additional channels per scale.
            num_scales: below the first.
            scale: frames and bins of one scale per frame and bin of the next.
            num_blocks_per_scale: residual blocks.
            bottleneck_factor: the linear layers along frequency are this many times narrower between them.
            norm: InstanceNorm, BatchNorm, GroupNorm followed by the number of groups, or None.
            act: gelu, relu, or elu followed by its α.
            normalise: standardise the whole track's waveform.
            overlap: fraction of a chunk shared with the next; None for the default.
            segment_samples: length of a chunk in samples.
            sample_rate: in Hz.
        """

        stems: Sequence[str] = ("vocals", "instrumental")
        audio_channels: int = 2
        n_fft: int = 8192
        hop_length: int = 1024
        dim_f: int = 4096
        num_subbands: int = 4
        num_channels: int = 128
        growth: int = 128
        num_scales: int = 5
        scale: Sequence[int] = (2, 2)
        num_blocks_per_scale: int = 2
        bottleneck_factor: int = 4
        norm: str | None = "InstanceNorm"
        act: str = "gelu"
        normalise: bool = False
        overlap: float | None = None
        segment_samples: int = 261_120
        sample_rate: int = 44_100

        def __post_init__(self) -> None:
            if not 0 < self.dim_f <= self.n_fft // 2 + 1:
                raise StemsplitError(f"{self.dim_f} bins of a spectrogram that has {self.n_fft // 2 + 1}")
            if len(self.scale) != 2 or min(self.scale) < 1:
                raise StemsplitError(f"scale {list(self.scale)} is no factor for frames and one for bins")
            if self.num_scales > 30 or self.dim_f % (self.num_subbands * self.scale[1] ** self.num_scales):
                raise StemsplitError(
                    f"dim_f {self.dim_f}: must be a multiple of"
                    f" num_subbands·scale^num_scales = {self.num_subbands}·{self.scale[1]}^{self.num_scales}"
                )
            if self.bins_at(self.num_scales) // self.bottleneck_factor < 2:
                raise StemsplitError(
                    f"bottleneck_factor {self.bottleneck_factor}: leaves less than 2 of the"
                    f" {self.bins_at(self.num_scales)} bins of the last scale"
                )

        def bins_at(self, scale: int) -> int:
            """Return the bins of a subband at a scale, 0 for the first."""
            bins: int = self.dim_f // self.num_subbands // self.scale[1] ** scale
            return bins

        @property
        def style(self) -> Style:
            """Normalisation and activation."""
            return Style(self.norm, self.act)

        @property
        def frame_multiple(self) -> int:
            """The number of frames is a multiple of this."""
            multiple: int = self.scale[0] ** self.num_scales
            return multiple

        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> Self:
            """Return the arguments of a released checkpoint, from the configuration published beside it.

            Args:
                config: with the sections `model`, `training` (instruments and target_instrument), `audio`
                    (chunk_size, num_channels and the transform's n_fft, hop_length and dim_f), and perhaps
                    `inference` (`released_use`).

            Raises:
                StemsplitError: the configuration asks for something that the network doesn't have.
            """
            arguments = released_arguments(config, {field.name for field in fields(cls)})
            audio = config["audio"]
            arguments |= {ours: audio[theirs] for theirs, ours in AUDIO.items() if theirs in audio}
            return cls(**arguments | released_use(config) | {"stems": released_stems(config)})

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
        self.normalise, self.overlap = a.normalise, a.overlap
        self.representation = ComplexAsChannels()
        parts = self.representation.width * a.audio_channels * a.num_subbands
        bins = [a.bins_at(i) for i in range(a.num_scales + 1)]
        widths = [a.num_channels + i * a.growth for i in range(a.num_scales + 1)]
        levels = list(zip(pairwise(widths), bins[:-1], strict=True))
        self.first_conv: nn.Module = nn.Conv2d(parts, a.num_channels, 1, bias=False)
        self.encoder_blocks = nn.ModuleList(Encoder(near, far, size, a) for (near, far), size in levels)
        self.bottleneck_block = Blocks(widths[-1], widths[-1], bins[-1], a)
        self.decoder_blocks = nn.ModuleList(
            Decoder(near, far, size, a) for (near, far), size in reversed(levels)
        )
        self.final_conv = nn.Sequential(
            nn.Conv2d(parts + a.num_channels, a.num_channels, 1, bias=False),
            a.style.activation(),
            nn.Conv2d(a.num_channels, parts * len(a.stems), 1, bias=False),
        )

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames], the frames being a multiple of `frame_multiple`."""
        a = self.arguments
        samples = mix.shape[-1]
        z = self.transform.analyse(F.pad(mix, (0, self._whole_frames(samples) - samples)))
        x = self.representation.encode(z)[:, :, : a.dim_f]  # [B, 2C, dim_f, frames]
        x = x.unflatten(2, (a.num_subbands, -1)).flatten(1, 2)  # [B, 2C·subbands, bins, frames]
        y = self._network(x)
        y = y.unflatten(1, (len(a.stems), -1, a.num_subbands))  # [B, S, 2C, subbands, bins, frames]
        y = y.flatten(3, 4)[:, list(self.kept)].float()  # [B, S, 2C, dim_f, frames]
        y = F.pad(y, (0, 0, 0, self.transform.bins - a.dim_f))  # [B, S, 2C, F, frames]
        return self.representation.decode(y, z, self.training)

    def _network(self, x: Tensor) -> Tensor:
        """[B, 2C·subbands, bins, frames] -> [B, S·2C·subbands, bins, frames]."""
        x = x.transpose(2, 3).to(memory_format=self.layout)
        y = first = self.first_conv(x)  # [B, channels, frames, bins]
        saved = []
        for encode in self.encoder_blocks:
            y, skip = encode(y)
            saved.append(skip)
        y = self.bottleneck_block(y)
        for decode, skip in zip(self.decoder_blocks, reversed(saved), strict=True):
            y = decode(y, skip)
        out: Tensor = self.final_conv(torch.cat([x, y * first], dim=1))
        return out.transpose(2, 3)

    def _whole_frames(self, samples: int) -> int:
        """Return the least length, not below `samples`, whose frames are a multiple of `frame_multiple`."""
        a = self.arguments
        frames = -(-samples // a.hop_length) + 1
        whole = -(-frames // a.frame_multiple) * a.frame_multiple
        return int(a.hop_length * (whole - 1))

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Compute tile by tile, channels last, with the normalisation of the released networks."""
        if self.arguments.norm != "InstanceNorm":
            return self
        self.layout = torch.channels_last
        for module in list(self.modules()):
            if isinstance(module, Blocks):
                module.blocks = nn.Sequential(*(TiledTfcTdf(cast(TfcTdf, block)) for block in module.blocks))
            elif isinstance(module, Rescale):
                module.conv = nn.Sequential(ActivatedLayer(module.conv))
        self.first_conv = pack_pointwise(self.first_conv)
        first, activation, last = self.final_conv
        self.final_conv = nn.Sequential(pack_pointwise(first), activation, pack_pointwise(last))
        return self

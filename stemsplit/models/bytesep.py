"""Networks of bytesep 0.1.1: ResUNet143 of the full band and in four subbands, and MobileNet in subbands.

Kong, Cao, Liu, Choi, Wang, "Decoupling Magnitude and Phase Estimation with Deep ResUNet for Music Source
Separation" (ISMIR 2021, arXiv 2109.05418): a U-Net estimates a mask for the magnitude, a rotation of the
phase and a magnitude to add. Its input is the spectrogram of the mix (the paper's ResUNetDecouple+), or those
of four subbands at a quarter of the rate, from a pseudo quadrature mirror filter bank (PQMF). Keys are those
of the released checkpoints.

Legend: `B` batch, `S` stems, `C` channels, `Q` subbands, `F` bins, `T` samples, `W` width of features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.chunking import Chunking
from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.resunet import (
    LEVELS,
    MAPS,
    MOMENTUM,
    SUBBANDS,
    FilterBank,
    Residual,
    Residuals,
    decoupled,
    spectrum,
    u_net,
)
from stemsplit.models.blocks.stft import istft
from stemsplit.models.network import Network, ignore_when_loading

FRAMES = 32  # the frames are padded to a multiple of this
LEAST_POWER = 1e-10  # of a bin


@dataclass(frozen=True)
class BytesepArguments:
    """Sizes of the networks; the defaults are those of the released ResUNet143.

    Attributes:
        target_source_types: stems, in the order of the output.
        model_type: ResUNet143_DecouplePlusInplaceABN_ISMIR2021, ResUNet143_Subbandtime or
            MobileNet_Subbandtime.
        input_channels: of mix and stems.
        sample_rate: in Hz.
        widths: of the six levels; None for those of the released network.
        n_fft: samples of a subband per STFT frame, a multiple of 128; None for those of the released network.
        hop_length: samples of a subband from frame to frame; None likewise.
        segment_seconds: audio that the network sees at once, in s. A chunk is the middle half of it.
    """

    target_source_types: Sequence[str] = ("vocals",)
    model_type: str = "ResUNet143_Subbandtime"
    input_channels: int = 2
    sample_rate: int = 44100
    widths: Sequence[int] | None = None
    n_fft: int | None = None
    hop_length: int | None = None
    segment_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.model_type not in LAYERS:
            raise UnknownNameError("network of bytesep", self.model_type, sorted(LAYERS))
        if self.widths is not None and len(self.widths) != LEVELS:
            raise StemsplitError(f"bytesep: widths {list(self.widths)}: must be {LEVELS}")
        if self.n_fft is not None and (self.n_fft < 2 << LEVELS or self.n_fft % (2 << LEVELS)):
            raise StemsplitError(f"bytesep: n_fft {self.n_fft}: must be a multiple of {2 << LEVELS}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the section `train` of bytesep's configuration; the rest of it matters to training only.

        Raises:
            StemsplitError: the network isn't one of this family.
        """
        train = config["train"]
        channels = train.get("input_channels", train.get("channels", cls.input_channels))
        if train.get("output_channels", channels) != channels:
            raise StemsplitError(
                f"bytesep: output_channels {train['output_channels']}: must be the input_channels, {channels}"
            )
        return cls(
            target_source_types=tuple(train["target_source_types"]),
            model_type=train["model_type"],
            input_channels=channels,
            sample_rate=train.get("sample_rate", cls.sample_rate),
        )


class InPlaceNorm(nn.BatchNorm2d):
    """Batch normalisation of inplace_abn 1.1.0, whose scale is |γ| + ε."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W, frames, F]."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight.abs() + self.eps,
            self.bias,
            self.training,
            MOMENTUM,
            self.eps,
        )


class InPlaceResidual(Residual):
    """As `Residual`, with the second normalisation of inplace_abn."""

    second = "abn2"
    norm = InPlaceNorm


class ResidualDecoder(Residuals):
    """Transposed convolution to a finer level, then four residual blocks on it and the encoder's features.

    Args:
        width: of the input.
        out: width of the output and of the encoder's features.
        scale: of frames and bins.
    """

    def __init__(self, width: int, out: int, scale: tuple[int, int]) -> None:
        super().__init__(2 * out, out, first=2)
        self.conv1 = nn.ConvTranspose2d(width, out, scale, stride=scale, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=MOMENTUM)

    def up(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, W, frames, F], [B, W, finer frames, finer F] -> [B, W, finer frames, finer F]."""
        return self.forward(torch.cat([self.conv1(F.relu(self.bn1(x))), skip], dim=1))


class InPlaceResiduals(Residuals):
    """As `Residuals`, of blocks with inplace_abn."""

    block = InPlaceResidual


class InPlaceDecoder(ResidualDecoder):
    """As `ResidualDecoder`, of blocks with inplace_abn."""

    block = InPlaceResidual


class Separable(nn.Module):
    """Two residual blocks of separable convolutions: by pixel, by channel, by pixel.

    Args:
        width: of the input.
        out: width of the output.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        for half, first in (("1", width), ("2", out)):
            for step, given in (("a", first), ("b", out), ("c", out)):
                size, groups = (3, out) if step == "b" else (1, 1)
                conv = nn.Conv2d(given, out, size, padding=size // 2, groups=groups, bias=False)
                self.add_module(f"bn{half}{step}", nn.BatchNorm2d(given))
                self.add_module(f"conv{half}{step}", conv)
        self.shortcut = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W, frames, F]."""
        x = torch.add(self._branch("1", x), self.shortcut(x))
        return x + self._branch("2", x)

    def _branch(self, half: str, x: Tensor) -> Tensor:
        for step in "abc":
            x = F.leaky_relu(self.get_submodule(f"bn{half}{step}")(x))
            x = self.get_submodule(f"conv{half}{step}")(x)
        return x


class SeparableEncoder(nn.Module):
    """One block of separable convolutions.

    Args:
        width: of the input.
        out: width of the output.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv_block = Separable(width, out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, frames, F] -> [B, W, frames, F]."""
        y: Tensor = self.conv_block(x)
        return y


class SeparableDecoder(nn.Module):
    """Repetition to a finer level, then separable convolutions on it and the encoder's features.

    Args:
        width: of the input.
        out: width of the output and of the encoder's features.
        scale: of frames and bins.
    """

    def __init__(self, width: int, out: int, scale: tuple[int, int]) -> None:
        super().__init__()
        self.scale = tuple(map(float, scale))
        self.conv1 = nn.Conv2d(width, out, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, momentum=MOMENTUM)
        self.conv_block2 = Separable(2 * out, out)

    def up(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, W, frames, F], [B, W, finer frames, finer F] -> [B, W, finer frames, finer F]."""
        coarse = self.conv1(F.leaky_relu(self.bn1(x)))  # before the repetition: the same, on fewer pixels
        fine = F.interpolate(coarse, scale_factor=self.scale)
        y: Tensor = self.conv_block2(torch.cat([fine, skip], dim=1))
        return y


class Layers(NamedTuple):
    """Kind of the layers of a network.

    Attributes:
        encoder: a level on the way down, of the widths of input and output.
        block: layers in the middle and at the end, likewise.
        decoder: a level on the way up, of the widths and the scale.
        middle: names of the layers in the middle.
        widths: of the levels in the released network.
        subbands: number of subbands of the input.
        n_fft: samples of a subband per STFT frame in the released network.
        hop_length: samples of a subband from frame to frame in the released network.
        bounded: whether the added magnitude is at most 1.
    """

    encoder: type[nn.Module]
    block: type[nn.Module]
    decoder: Any
    middle: tuple[str, ...]
    widths: tuple[int, ...]
    subbands: int = SUBBANDS
    n_fft: int = 512
    hop_length: int = 110
    bounded: bool = True


CENTRE = tuple(f"conv_block7{letter}" for letter in "abcd")
LAYERS = {
    "ResUNet143_DecouplePlusInplaceABN_ISMIR2021": Layers(
        *(InPlaceResiduals, InPlaceResiduals, InPlaceDecoder, CENTRE),
        (32, 64, 128, 256, 384, 384),
        *(1, 2048, 441, False),
    ),
    "ResUNet143_Subbandtime": Layers(
        *(Residuals, Residuals, ResidualDecoder, CENTRE), (32, 64, 128, 256, 384, 384)
    ),
    "MobileNet_Subbandtime": Layers(
        *(SeparableEncoder, Separable, SeparableDecoder), ("conv_block7",), (32, 64, 64, 64, 64, 64)
    ),
}


class Bytesep(Network):
    """Filter bank, if there are subbands, STFT, U-Net, and back.

    The released program cuts the track into segments, half a segment apart, and keeps the middle half of
    each. Here, that half is the chunk and the rest its context, on the same grid. At the ends of the track,
    where the program keeps outer quarters, the context is silence.
    """

    Arguments = BytesepArguments
    arguments: BytesepArguments
    overlap = 0.0

    def __init__(self, arguments: BytesepArguments) -> None:
        a = arguments
        quarter = int(a.segment_seconds * a.sample_rate) // 4
        super().__init__(
            a,
            stems=a.target_source_types,
            sample_rate=a.sample_rate,
            channels=a.input_channels,
            segment_samples=2 * quarter,
        )
        self.context_samples = quarter
        self.chunking = Chunking(lead=quarter)
        kind = LAYERS[a.model_type]
        self.kind = kind
        self.n_fft, self.hop_length = a.n_fft or kind.n_fft, a.hop_length or kind.hop_length
        levels = tuple(a.widths or kind.widths)
        self.pqmf = FilterBank() if kind.subbands > 1 else None
        self.bn0 = nn.BatchNorm2d(self.n_fft // 2 + 1, momentum=MOMENTUM)
        width = kind.subbands * a.input_channels
        for i, out in enumerate(levels, 1):
            self.add_module(f"encoder_block{i}", kind.encoder(width, out))
            width = out
        for name in kind.middle:
            self.add_module(name, kind.block(width, width))
        for i, out in enumerate(reversed(levels), 1):
            self.add_module(f"decoder_block{i}", kind.decoder(width, out, (1 if i == 1 else 2, 2)))
            width = out
        self.after_conv_block1 = kind.block(width, width)
        self.after_conv2 = nn.Conv2d(width, len(self.stems) * a.input_channels * MAPS * kind.subbands, 1)
        ignore_when_loading(self, "stft.", "istft.")  # convolutions in published files

    def padded_samples(self, samples: int) -> int:
        """Return P(n): the chunk and all of its context."""
        return samples + 2 * self.context_samples

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        if self.pqmf is None:
            return self._of_bands(mix)[:, :, :, 0]
        batch, channels, samples = mix.shape
        bands = self.pqmf.analyse(mix.flatten(0, 1)).view(batch, channels * SUBBANDS, -1)  # [B, C·Q, T/4]
        waves = self._of_bands(bands).flatten(0, 2)  # [B·S·C, Q, T/4]
        return self.pqmf.synthesise(waves, samples).view(batch, -1, channels, samples)

    def _of_bands(self, bands: Tensor) -> Tensor:
        """Return the stems of subbands: [B, C·Q, T] -> [B, S, C, Q, T]."""
        z, magnitude = spectrum(bands, self.n_fft, self.hop_length, LEAST_POWER)
        maps = self.maps(magnitude)[:, list(self.kept)]  # [B, S, C, maps, Q, frames, F]
        z, magnitude = (part.unflatten(1, (1, self.channels, -1))[..., :-1] for part in (z, magnitude))
        stems = F.pad(_apply(maps, z, magnitude, self.kind.bounded), (0, 1))  # the highest bin is silent
        waves = istft(stems.flatten(0, 2).mT, self.hop_length, bands.shape[-1])  # [B·S·C, Q, T]
        found: Tensor = waves.unflatten(0, stems.shape[:3])
        return found

    def maps(self, magnitude: Tensor) -> Tensor:
        """Return what the U-Net estimates: [B, C·Q, frames, F + 1] -> [B, S, C, maps, Q, frames, F]."""
        frames = magnitude.shape[2]
        x = self.bn0(magnitude.transpose(1, 3)).transpose(1, 3)  # normalised by bin
        x = F.pad(x[..., :-1], (0, 0, 0, -frames % FRAMES))  # [B, C·Q, padded frames, F]
        x = u_net(self, x, self.kind.middle, (1, 2))
        x = self.after_conv2(self.after_conv_block1(x))[:, :, :frames]
        maps: Tensor = x.unflatten(1, (-1, self.channels, MAPS, self.kind.subbands))
        return maps


def _apply(maps: Tensor, z: Tensor, magnitude: Tensor, bounded: bool) -> Tensor:
    """Return the stems' spectra, complex [B, S, C, Q, frames, F].

    Args:
        maps: [B, S, C, maps, Q, frames, F].
        z: spectrum of the mix, complex [B, 1, C, Q, frames, F].
        magnitude: of z, [B, 1, C, Q, frames, F].
        bounded: whether to add tanh(d) rather than d.

    The magnitude is |X|·sigmoid(a) + tanh(d), at least 0; the phase that of X·(tanh(b) + i·tanh(c)).
    """
    mask, real, imaginary, added = maps.float().unbind(3)  # [B, S, C, Q, frames, F] each
    rotation = torch.complex(torch.tanh(real), torch.tanh(imaginary))
    return decoupled(z, magnitude, mask, rotation, torch.tanh(added) if bounded else added)

"""Spleeter: a U-Net per stem estimates its magnitudes, whose squares are shares of the mix.

Hennequin, Khlif, Voituret, Moussallam, "Spleeter: a fast and efficient music source separation tool with
pre-trained models", 2020; spleeter 2.4.2, model/__init__.py and model/functions/unet.py. The U-Net is that of
Jansson et al., "Singing voice separation with deep U-Net convolutional networks", 2017.

The original cuts the frames of a track into groups of T, from 4096 samples before the track on, and the
network sees one group at a time. The chunks here are whole groups on the same grid; the group after them is
computed too, because its first frames reach into the chunk.

Legend: `B` batch, `S` stems, `C` channels, `T` frames of a group, `F` bins that the networks see.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.stft import istft, stft
from stemsplit.models.network import Network

ACTIVATIONS: dict[str, type[nn.Module]] = {"ELU": nn.ELU, "LeakyReLU": nn.LeakyReLU, "ReLU": nn.ReLU}
EXTENSIONS = ("zeros", "average")
EPSILON = 1e-10  # of the sum of the powers
NORM_EPSILON = 1e-3
MOMENTUM = 0.01  # of the running statistics
DROPOUT = 0.5  # of the three innermost levels
LEAK = 0.2
BEFORE, AFTER = 1, 2  # zeros around the input of a convolution of 5 with stride 2, for half the size


@dataclass(frozen=True)
class SpleeterArguments:
    """Sizes and settings; the defaults are those of the released networks for two stems.

    Attributes:
        instrument_list: stems, in the order of the output.
        conv_activation: ELU, LeakyReLU or ReLU, on the way down.
        deconv_activation: likewise, on the way up.
        softmax: let the stems share the mix already in the networks' outputs.
        conv_n_filters: widths of the levels.
        F: number of bins that the networks see, from the lowest; 1024 end at 11 kHz, 1536 at 16.5 kHz.
        T: frames that they see at once.
        mask_extension: share of the bins above: zeros, or the average over the bins below.
        separation_exponent: power of the magnitudes that the shares are proportional to.
        n_channels: of mix and stems.
        sample_rate: in Hz.
        frame_length: samples per STFT frame.
        frame_step: samples from frame to frame.
        groups: groups of T frames in a chunk.
    """

    instrument_list: Sequence[str] = ("vocals", "accompaniment")
    conv_activation: str = "LeakyReLU"
    deconv_activation: str = "ReLU"
    softmax: bool = False
    conv_n_filters: Sequence[int] = (16, 32, 64, 128, 256, 512)
    F: int = 1024
    T: int = 512
    mask_extension: str = "zeros"
    separation_exponent: float = 2
    n_channels: int = 2
    sample_rate: int = 44100
    frame_length: int = 4096
    frame_step: int = 1024
    groups: int = 4

    def __post_init__(self) -> None:
        for name in (self.conv_activation, self.deconv_activation):
            if name not in ACTIVATIONS:
                raise UnknownNameError("activation", name, sorted(ACTIVATIONS))
        if self.mask_extension not in EXTENSIONS:
            raise UnknownNameError("mask_extension", self.mask_extension, EXTENSIONS)
        size = 1 << len(self.conv_n_filters)
        if self.T < 1 or self.T % size or self.F < 1 or self.F % size:
            raise StemsplitError(f"spleeter: T {self.T} and F {self.F} must be multiples of {size}")
        if self.F > self.frame_length // 2 + 1:
            raise StemsplitError(f"spleeter: F {self.F}: a frame has {self.frame_length // 2 + 1} bins")


class Down(nn.Module):
    """Normalisation and activation, except of the mix, then a convolution to half the size.

    Args:
        width: of the input.
        out: width of the output.
        activation: of the input; None for the first level.
    """

    def __init__(self, width: int, out: int, activation: nn.Module | None) -> None:
        super().__init__()
        self.before = nn.Identity() if activation is None else nn.Sequential(_norm(width), activation)
        self.conv = nn.Conv2d(width, out, 5, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, W, T, F] -> [N, W', T/2, F/2]."""
        y: Tensor = self.conv(F.pad(self.before(x), (BEFORE, AFTER, BEFORE, AFTER)))
        return y


class Up(nn.Module):
    """Transposed convolution to twice the size.

    Args:
        width: of the input.
        out: width of the output.
        activation: of the output.
        dropout: share of features to leave out in training.
    """

    def __init__(self, width: int, out: int, activation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(width, out, 5, stride=2)
        self.norm = _norm(out)
        self.activation = activation
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[N, W, T, F] -> [N, W', 2·T, 2·F]."""
        wide = self.conv(x)[..., BEFORE:-AFTER, BEFORE:-AFTER]
        y: Tensor = self.dropout(self.norm(self.activation(wide)))
        return y


class UNet(nn.Module):
    """Network of one stem; its output is a mask before the sigmoid or softmax.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: SpleeterArguments) -> None:
        super().__init__()
        widths = (a.n_channels, *a.conv_n_filters)
        self.down = nn.ModuleList(
            Down(given, out, _activation(a.conv_activation) if i else None)
            for i, (given, out) in enumerate(pairwise(widths))
        )
        outs = (*reversed(widths[1:-1]), 1)
        inputs = (widths[-1], *(2 * width for width in outs[:-1]))
        self.up = nn.ModuleList(
            Up(given, out, _activation(a.deconv_activation), DROPOUT if i < 3 else 0.0)
            for i, (given, out) in enumerate(zip(inputs, outs, strict=True))
        )
        self.mask = nn.Conv2d(1, a.n_channels, 4, dilation=2, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, T, F] -> [N, C, T, F]."""
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
        x = skips.pop()
        for up in self.up:
            x = up(x)
            if skips:
                x = torch.cat([skips.pop(), x], dim=1)
        y: Tensor = self.mask(x)
        return y


class Spleeter(Network):
    """The networks, and the shares of the mix that their estimates make."""

    Arguments = SpleeterArguments
    arguments: SpleeterArguments
    options = ("mask_extension",)
    overlap = 0.0

    def __init__(self, arguments: SpleeterArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.instrument_list,
            sample_rate=a.sample_rate,
            channels=a.n_channels,
            segment_samples=a.groups * a.T * a.frame_step,
        )
        self.context_samples = max(a.T * a.frame_step, a.frame_length)
        self.unets = nn.ModuleList(UNet(a) for _ in a.instrument_list)

    def forward(self, mix: Tensor) -> Tensor:
        """Separate one batch of chunks: [B, C, context + n + context] -> [B, S, C, n].

        The context before the chunk counts by the frames that reach into it, that after it as the rest of the
        last group.
        """
        context = self.context_samples
        return self._separate(mix[..., context - self.arguments.frame_length :], mix.shape[-1] - 2 * context)

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, samples] -> [B, S, C, samples]."""
        return self._separate(F.pad(mix, (self.arguments.frame_length, 0)), mix.shape[-1])

    def _separate(self, audio: Tensor, samples: int) -> Tensor:
        """Return the stems of some samples, given those around them.

        Args:
            audio: [B, C, frame_length + `samples` + any number].
            samples: number of samples after the first `frame_length`.

        Returns:
            [B, S, C, `samples`].
        """
        a = self.arguments
        frames = -(-(samples + a.frame_length) // a.frame_step)
        frames += -frames % a.T
        length = (frames - 1) * a.frame_step + a.frame_length
        audio = F.pad(audio, (0, max(0, length - audio.shape[-1])))[..., :length]
        spectrum = stft(audio, a.frame_length, a.frame_step, centred=False)  # [B, C, bins, frames]
        powers = self.magnitudes(spectrum[..., : a.F, :].abs()) ** a.separation_exponent
        total = powers.sum(1) + EPSILON  # [B, C, F, frames]
        half = a.frame_length // 2
        stems = []
        for i in self.kept:
            share = self._extended((powers[:, i] + EPSILON / powers.shape[1]) / total)
            stem = istft(share * spectrum, a.frame_step, a.frame_length - half + samples)
            stems.append(
                stem[..., a.frame_length - half :]
            )  # `istft` begins in the middle of the first frame
        return torch.stack(stems, dim=1)

    def magnitudes(self, mix: Tensor) -> Tensor:
        """Return the stems' magnitudes from the mix's: [B, C, F, frames] -> [B, S, C, F, frames]."""
        a = self.arguments
        groups = mix.unflatten(3, (-1, a.T)).permute(0, 3, 1, 4, 2)  # [B, groups, C, T, F]
        x = groups.flatten(0, 1)  # [B·groups, C, T, F]
        logits = torch.stack([unet(x) for unet in self.unets], dim=1).float()  # [B·groups, S, C, T, F]
        masks = logits.softmax(1) if a.softmax else logits.sigmoid()
        stems = (masks * x[:, None]).unflatten(0, groups.shape[:2])  # [B, groups, S, C, T, F]
        found: Tensor = stems.permute(0, 2, 3, 5, 1, 4).flatten(4)  # [B, S, C, F, frames]
        return found

    def _extended(self, share: Tensor) -> Tensor:
        """Return a stem's share of every bin: [B, C, F, frames] -> [B, C, bins, frames]."""
        a = self.arguments
        above = a.frame_length // 2 + 1 - a.F
        if a.mask_extension == "zeros":
            return F.pad(share, (0, 0, 0, above))
        average = share.mean(2, keepdim=True).expand(-1, -1, above, -1)
        return torch.cat([share, average], dim=2)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=NORM_EPSILON, momentum=MOMENTUM)


def _activation(name: str) -> nn.Module:
    return nn.LeakyReLU(LEAK) if name == "LeakyReLU" else ACTIVATIONS[name]()

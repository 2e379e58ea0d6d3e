"""Wave-U-Net: a U-Net on samples, without padding, so that it hears more of the mix than it separates.

Stoller, Ewert, Dixon, "Wave-U-Net: a multi-scale neural network for end-to-end audio source separation"
(ISMIR 2018, arXiv 1806.03185), as its first author's second program has it (f90/Wave-U-Net-Pytorch): a
network per stem, group normalisation, and fixed lowpass filters where the rate changes. The names of the
weights are those of its checkpoints.

Legend: `B` batch, `S` stems, `C` channels, `W` width of features, `T` samples.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.models.blocks.context import InContext
from stemsplit.stems import canonical

NORMS = ("gn", "bn", "normal")
RESAMPLINGS = ("fixed", "learned")
GROWTHS = ("double", "add")
GROUP = 8  # features that are normalised together
MOMENTUM = 0.01  # of the running statistics
TAPS = 15  # of the lowpass filter
ALL = "ALL"  # name of the network that gives all stems


@dataclass(frozen=True)
class WaveUNetArguments:
    """Options of the program; the defaults are those of the released network.

    Attributes:
        instruments: stems, in the order of the output.
        features: width of the first level.
        levels: number of levels.
        kernel_size: of all convolutions but the last; odd.
        strides: of a level, in samples of the level before.
        conv_type: normalisation after convolutions: gn (groups of 8 features), bn (batch), or normal (none).
        res: fixed (a lowpass filter) or learned (a convolution), where the rate changes.
        separate: a network per stem.
        feature_growth: double the width from level to level, or add that of the first one.
        channels: of mix and stems.
        sr: sample rate in Hz.
        output_size: least length of a chunk, in s.
    """

    instruments: Sequence[str] = ("bass", "drums", "other", "vocals")
    features: int = 32
    levels: int = 6
    kernel_size: int = 5
    strides: int = 4
    conv_type: str = "gn"
    res: str = "fixed"
    separate: bool = True
    feature_growth: str = "double"
    channels: int = 2
    sr: int = 44100
    output_size: float = 2.0

    def __post_init__(self) -> None:
        choices = {"conv_type": NORMS, "res": RESAMPLINGS, "feature_growth": GROWTHS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise UnknownNameError(name, getattr(self, name), known)
        if self.kernel_size < 1 or self.kernel_size % 2 == 0:
            raise StemsplitError(f"wave_u_net: kernel_size {self.kernel_size}: must be odd")
        if self.levels < 2 or self.strides < 2 or self.features < 1:
            raise StemsplitError("wave_u_net: needs two levels, strides of 2 and one feature at least")
        if self.conv_type == "gn" and any(width % GROUP for width in self.widths):
            raise StemsplitError(f"wave_u_net: features must be a multiple of {GROUP} for groups of {GROUP}")

    @property
    def widths(self) -> list[int]:
        """Width of each level."""
        steps = range(self.levels)
        return [self.features * (2**i if self.feature_growth == "double" else i + 1) for i in steps]

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Return what the tensors of a checkpoint tell; not the stems of a single network, nor `strides`.

        Raises:
            KeyError: a tensor is missing.
        """
        names = list(dict.fromkeys(name.split(".")[1] for name in shapes if name.startswith("waveunets.")))
        home = f"waveunets.{names[0]}"
        first = f"{home}.downsampling_blocks.0.pre_shortcut_convs.0"
        features, channels, kernel = shapes[f"{first}.filter.weight"]
        second = shapes[f"{home}.downsampling_blocks.0.post_shortcut_convs.0.filter.weight"][0]
        pattern = re.compile(rf"{re.escape(home)}\.downsampling_blocks\.(\d+)\.")
        blocks = {match[1] for name in shapes if (match := pattern.match(name))}
        norm = "gn" if f"{first}.norm.weight" in shapes else "normal"
        return {
            "features": features,
            "levels": len(blocks) + 1,
            "kernel_size": kernel,
            "conv_type": "bn" if f"{first}.norm.running_mean" in shapes else norm,
            "res": "fixed" if f"{home}.downsampling_blocks.0.downconv.filter" in shapes else "learned",
            "separate": names != [ALL],
            # two levels, whose growth doesn't show, double theirs in either way
            "feature_growth": "double" if _third(shapes, home, 2 * second) == 2 * second else "add",
            "channels": channels,
            **({} if names == [ALL] else {"instruments": tuple(names)}),
        }


def _third(shapes: Mapping[str, tuple[int, ...]], home: str, otherwise: int) -> int:
    """Return the width of the third level, `otherwise` if there is none."""
    name = f"{home}.downsampling_blocks.1.post_shortcut_convs.0.filter.weight"
    return shapes[name][0] if name in shapes else otherwise


class Conv(nn.Module):
    """Convolution without padding, normalisation, and ReLU; without normalisation a leaky one.

    Args:
        width: of the input.
        out: width of the output.
        a: arguments of the family.
        stride: in samples; of the output if transposed.
        transposed: whether the convolution is transposed.
    """

    def __init__(
        self, width: int, out: int, a: WaveUNetArguments, stride: int = 1, transposed: bool = False
    ) -> None:
        super().__init__()
        kernel = a.kernel_size
        self.filter: nn.Module = (
            nn.ConvTranspose1d(width, out, kernel, stride, padding=kernel - 1)
            if transposed
            else nn.Conv1d(width, out, kernel, stride)
        )
        self.norm: nn.Module | None = None
        if a.conv_type == "gn":
            self.norm = nn.GroupNorm(out // GROUP, out)
        elif a.conv_type == "bn":
            self.norm = nn.BatchNorm1d(out, momentum=MOMENTUM)

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, T] -> [B, W', T']."""
        y = self.filter(x)
        return F.leaky_relu(y) if self.norm is None else torch.relu(self.norm(y))


class Resample(nn.Module):
    """Lowpass filter before every `stride`-th sample is kept, or after zeros are put between the samples.

    Args:
        width: of input and output.
        stride: factor between the rates.
        up: whether to the higher rate.
    """

    filter: Tensor

    def __init__(self, width: int, stride: int, up: bool) -> None:
        super().__init__()
        self.stride, self.up = stride, up
        self.register_buffer("filter", lowpass(0.5 / stride).expand(width, 1, TAPS).clone())

    def forward(self, x: Tensor) -> Tensor:
        """[B, W, T] -> [B, W, (T − 1)/stride + 1], or [B, W, (T − 1)·stride + 1]."""
        half = TAPS // 2
        padded = F.pad(x, (half, half), mode="reflect")
        if not self.up:
            return F.conv1d(padded, self.filter, stride=self.stride, groups=len(self.filter))
        wide = F.conv_transpose1d(padded, self.filter, stride=self.stride, groups=len(self.filter))
        edge = half * (self.stride + 1)  # the padding's samples, and half of the filter
        return wide[..., edge:-edge]


def lowpass(cutoff: float) -> Tensor:
    """Return a windowed sinc of `TAPS` taps, with a gain of 1 at 0 Hz.

    The window is that of the program: Blackman's, but with 1 in place of its last cosine.

    Args:
        cutoff: share of the sample rate.
    """
    middle = TAPS // 2
    taps = []
    for i in range(TAPS):
        place = i - middle
        window = 0.42 - 0.5 * math.cos(2 * math.pi * i / (TAPS - 1)) + 0.08
        angle = 2 * math.pi * cutoff
        taps.append(math.sin(angle * place) / place * window if place else angle)
    found = torch.tensor(taps)
    return found / found.sum()


class Down(nn.Module):
    """Convolutions at a level, and the way to the next one.

    Args:
        width: of the input.
        skip: width of the features that go across to the way up.
        out: width of the output.
        a: arguments of the family.
    """

    def __init__(self, width: int, skip: int, out: int, a: WaveUNetArguments) -> None:
        super().__init__()
        self.pre_shortcut_convs = nn.Sequential(Conv(width, skip, a))
        self.post_shortcut_convs = nn.Sequential(Conv(skip, out, a))
        fixed = a.res == "fixed"
        self.downconv = Resample(out, a.strides, up=False) if fixed else Conv(out, out, a, a.strides)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, W, T] -> [B, W', T'] and the features that go across."""
        skip: Tensor = self.pre_shortcut_convs(x)
        return self.downconv(self.post_shortcut_convs(skip)), skip


class Up(nn.Module):
    """The way from a level to the one above, and convolutions there, with features of the way down.

    Args:
        width: of the input.
        out: width of the output and of the features.
        a: arguments of the family.
    """

    def __init__(self, width: int, out: int, a: WaveUNetArguments) -> None:
        super().__init__()
        fixed = a.res == "fixed"
        self.upconv = (
            Resample(width, a.strides, up=True)
            if fixed
            else Conv(width, width, a, a.strides, transposed=True)
        )
        self.pre_shortcut_convs = nn.Sequential(Conv(width, out, a))
        self.post_shortcut_convs = nn.Sequential(Conv(2 * out, out, a))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """[B, W, T], [B, W', more samples] -> [B, W', T']."""
        fine = self.pre_shortcut_convs(self.upconv(x))
        edge = (skip.shape[-1] - fine.shape[-1]) // 2
        found: Tensor = self.post_shortcut_convs(
            torch.cat([skip.narrow(-1, edge, fine.shape[-1]), fine], dim=1)
        )
        return found


class UNet(nn.Module):
    """Network of one stem, or of all.

    Args:
        outputs: channels of the output.
        a: arguments of the family.
    """

    def __init__(self, outputs: int, a: WaveUNetArguments) -> None:
        super().__init__()
        widths = a.widths
        inputs = (a.channels, *widths[1:])
        self.downsampling_blocks = nn.ModuleList(
            Down(inputs[i], widths[i], widths[i + 1], a) for i in range(a.levels - 1)
        )
        self.bottlenecks = nn.Sequential(Conv(widths[-1], widths[-1], a))
        self.upsampling_blocks = nn.ModuleList(
            Up(widths[i + 1], widths[i], a) for i in reversed(range(a.levels - 1))
        )
        self.output_conv = nn.Conv1d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, outputs, T']."""
        skips = []
        for down in self.downsampling_blocks:
            x, skip = down(x)
            skips.append(skip)
        x = self.bottlenecks(x)
        for up in self.upsampling_blocks:
            x = up(x, skips.pop())
        y: Tensor = self.output_conv(x)
        return y


class Lengths(NamedTuple):
    """Samples that a network takes, and those that it gives: fewer, from their middle."""

    taken: int
    given: int


class WaveUNet(InContext):
    """The networks; chunks follow each other without overlap, as in the program.

    The program continues the last chunk of a track by silence to full length, and so does `forward`, because
    group normalisation hears the whole chunk.
    """

    Arguments = WaveUNetArguments
    arguments: WaveUNetArguments
    overlap = 0.0

    def __init__(self, arguments: WaveUNetArguments) -> None:
        a = arguments
        lengths = lengths_of(a, int(a.output_size * a.sr))
        super().__init__(
            a,
            stems=a.instruments,
            sample_rate=a.sr,
            channels=a.channels,
            segment_samples=lengths.given,
        )
        self.context_samples = (lengths.taken - lengths.given) // 2
        names = tuple(a.instruments) if a.separate else (ALL,)
        outputs = a.channels * (1 if a.separate else len(self.stems))
        self.waveunets = nn.ModuleDict({name: UNet(outputs, a) for name in names})

    def select(self, stems: Sequence[str]) -> Self:
        """Estimate only `stems`, and drop the networks of the others."""
        super().select(stems)
        if self.arguments.separate:
            for name in [name for name in self.waveunets if canonical(name) not in self.stems]:
                del self.waveunets[name]
        return self

    def separate(self, audio: Tensor, samples: int, least: int) -> Tensor:
        """[B, C, context + `samples` + context] -> [B, S, C, `samples`], in a chunk of `least` samples."""
        taken = lengths_of(self.arguments, least).taken
        audio = F.pad(audio, (0, taken - audio.shape[-1]))
        stems = torch.cat([network(audio) for network in self.waveunets.values()], dim=1)[..., :samples]
        stems = stems.float().unflatten(1, (-1, self.channels))  # [B, S, C, samples]
        if not self.arguments.separate:
            stems = stems[:, list(self.kept)]
        found: Tensor = stems if self.training else stems.clamp(-1, 1)
        return found


def lengths_of(a: WaveUNetArguments, least: int) -> Lengths:
    """Return the lengths with which a network gives `least` samples or a few more."""
    lost = a.kernel_size - 1  # by each convolution
    learned = lost if a.res == "learned" else 0  # by each change of the rate
    bottleneck = TAPS // 2 + 1 if a.res == "fixed" else 2  # what is reflected must be there
    while True:
        given, taken = bottleneck, bottleneck + lost
        shortest = given
        for _ in range(a.levels - 1):
            given = (given - 1) * a.strides + 1 - learned - 2 * lost
            taken = (taken - 1) * a.strides + 1 + learned + 2 * lost
            shortest = min(shortest, given)
        if given >= least and shortest > (TAPS // 2 if a.res == "fixed" else 1):
            return Lengths(taken, given)
        step = a.strides ** (a.levels - 1)
        bottleneck += max(1, (least - given) // step)

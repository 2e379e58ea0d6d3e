"""The first Wave-U-Net: a U-Net on samples that keeps every other one, level by level, and interpolates.

Stoller, Ewert, Dixon, "Wave-U-Net: a multi-scale neural network for end-to-end audio source separation"
(ISMIR 2018, arXiv 1806.03185), sections 3.1 and 3.2: the variants M3 to M6, with input context (convolutions
without padding) and a difference output, as f90/Wave-U-Net computes them in TensorFlow 1. `wave_u_net` is the
network of its author's second program.

The original moves the last chunk of a track back so that it ends with the track; here it is continued by
silence. As a network that drops samples isn't invariant to shifts, the last chunk can differ a little.

Legend: `B` batch, `S` stems, `C` channels, `W` width of features, `T` samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.context import InContext

LEAK = 0.2


@dataclass(frozen=True)
class FirstWaveUNetArguments:
    """Sizes of the network; the defaults are those of M4.

    Attributes:
        source_names: stems, in the order of the output; the last one is what the others leave of the mix.
        num_initial_filters: width of the first level, by which each further level is wider.
        num_layers: number of levels.
        filter_size: of the convolutions on the way down; odd.
        merge_filter_size: of those on the way up; odd.
        learned_upsampling: weights of its own for each feature between two samples, rather than their mean.
        channels: of mix and stems.
        expected_sr: sample rate in Hz.
        num_frames: least length of a chunk, in samples.
    """

    source_names: Sequence[str] = ("accompaniment", "vocals")
    num_initial_filters: int = 24
    num_layers: int = 12
    filter_size: int = 15
    merge_filter_size: int = 5
    learned_upsampling: bool = False
    channels: int = 2
    expected_sr: int = 22050
    num_frames: int = 16384

    def __post_init__(self) -> None:
        for name in ("filter_size", "merge_filter_size"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise StemsplitError(f"first_wave_u_net: {name} {getattr(self, name)}: must be odd")
        if min(self.num_initial_filters, self.num_layers, self.num_frames) < 1 or len(self.source_names) < 2:
            raise StemsplitError("first_wave_u_net: needs a level, a feature, a sample and two stems")


class FirstWaveUNet(InContext):
    """The network; its chunks follow each other without overlap, as in the original."""

    Arguments = FirstWaveUNetArguments
    arguments: FirstWaveUNetArguments
    overlap = 0.0

    def __init__(self, arguments: FirstWaveUNetArguments) -> None:
        a = arguments
        taken, given = lengths(a, a.num_frames)
        super().__init__(
            a,
            stems=a.source_names,
            sample_rate=a.expected_sr,
            channels=a.channels,
            segment_samples=given,
        )
        self.context_samples = (taken - given) // 2
        widths = [a.channels, *(a.num_initial_filters * (i + 1) for i in range(a.num_layers + 1))]
        self.down = nn.ModuleList(nn.Conv1d(*pair, a.filter_size) for pair in pairwise(widths[:-1]))
        self.bottleneck = nn.Conv1d(widths[-2], widths[-1], a.filter_size)
        ways = list(pairwise(reversed(widths[1:])))
        self.up = nn.ModuleList(nn.Conv1d(below + out, out, a.merge_filter_size) for below, out in ways)
        self.interpolation = nn.ParameterList(
            nn.Parameter(torch.zeros(below)) for below, _ in ways if a.learned_upsampling
        )
        self.outputs = nn.ModuleList(
            nn.Conv1d(a.channels + widths[1], a.channels, 1) for _ in a.source_names[:-1]
        )

    def separate(self, audio: Tensor, samples: int, least: int) -> Tensor:
        """[B, C, context + `samples` + context] -> [B, S, C, `samples`], in a chunk of `least` samples."""
        taken, given = lengths(self.arguments, least)
        audio = F.pad(audio, (0, taken - audio.shape[-1]))
        features = torch.cat([_middle(audio, given), self._features(audio)], dim=1)  # [B, C + W, given]
        stems = [torch.tanh(output(features)).float() for output in self.outputs]
        rest = _middle(audio, given).float() - torch.stack(stems).sum(0)
        stems.append(rest if self.training else rest.clamp(-1, 1))
        return torch.stack([stems[i] for i in self.kept], dim=1)[..., :samples]

    def _features(self, audio: Tensor) -> Tensor:
        """[B, C, taken] -> [B, W, given]."""
        x, skips = audio, list[Tensor]()
        for down in self.down:
            skips.append(_leaky(down(x)))
            x = skips[-1][..., ::2]  # [B, W, (T + 1)/2]
        x = _leaky(self.bottleneck(x))
        for level, up in enumerate(self.up):
            share = self.interpolation[level].sigmoid()[:, None] if len(self.interpolation) else 0.5
            x = interpolated(x, share)  # [B, W, 2·T − 1]
            x = _leaky(up(torch.cat([_middle(skips.pop(), x.shape[-1]), x], dim=1)))
        return x


def interpolated(x: Tensor, share: Tensor | float) -> Tensor:
    """Put a sample between each two: `share` of the first, the rest of the second one.

    Args:
        x: [B, W, T].
        share: 0 to 1, [W, 1] or the same for all.

    Returns:
        [B, W, 2·T − 1].
    """
    between = share * x[..., :-1] + (1 - share) * x[..., 1:]
    pairs = torch.stack([x[..., :-1], between], dim=-1).flatten(-2)  # [B, W, 2·(T − 1)]
    return torch.cat([pairs, x[..., -1:]], dim=-1)


def lengths(a: FirstWaveUNetArguments, least: int) -> tuple[int, int]:
    """Return how many samples the network takes to give `least` or a few more, and how many it gives.

    Their difference, the context, is the same for all lengths.
    """
    deepest = float(least)
    for _ in range(a.num_layers):
        deepest = (deepest + a.merge_filter_size) / 2
    given = max(2, math.ceil(deepest))
    taken = given + a.filter_size - 1
    for _ in range(a.num_layers):
        given = 2 * given - a.merge_filter_size
        taken = 2 * taken - 1 + a.filter_size - 1
    return taken, given


def _middle(x: Tensor, samples: int) -> Tensor:
    """[B, W, T] -> [B, W, `samples`]."""
    return x.narrow(-1, (x.shape[-1] - samples) // 2, samples)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, LEAK)

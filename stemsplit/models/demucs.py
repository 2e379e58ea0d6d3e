"""Demucs: a U-Net on the waveform.

Strided convolutions reduce the rate level by level while the channels grow, transposed convolutions mirror
them, and every level of the decoder adds the encoder's output of the same level. `DemucsV2` has an LSTM at
the bottom (Défossez, Usunier, Bottou, Bach, "Music Source Separation in the Waveform Domain", 2019; demucs
2.0.3, model.py). In the third generation, `Demucs`, compressed residual branches take its place (Défossez,
"Hybrid Spectrogram and Waveform Source Separation", 2021; demucs 4.1.0, demucs.py).

Legend: `B` batch, `S` stems, `C` audio channels, `T` samples.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.conv import DConv, rescale_weights
from stemsplit.models.blocks.recurrent import BLSTM
from stemsplit.models.blocks.released_demucs import DemucsConfiguration
from stemsplit.models.fast.tiled import OverTime
from stemsplit.models.network import Network

STD_FLOOR = 1e-5  # added to standard deviations before dividing by them
ZERO_CROSSINGS = 24  # of the resampler's sinc on each side, as in julius
ROLLOFF = 0.945  # cutoff over the lower of both Nyquist frequencies, as in julius


@dataclass(frozen=True)
class DemucsArguments(DemucsConfiguration):
    """Arguments of `Demucs`. Names, order and defaults are those of the class in demucs 4.1.0.

    Attributes:
        sources: names of the stems.
        audio_channels: of mix and stems.
        channels: after the first layer.
        growth: channels grow by this factor from level to level.
        depth: levels of the U-Net.
        rewrite: mix the channels through a GLU in every layer.
        lstm_layers: layers of an LSTM at the bottom; 0 for none.
        kernel_size: of the strided convolutions.
        stride: of the strided convolutions.
        context: neighbours on each side that the decoder's GLUs see.
        gelu: GELU rather than ReLU.
        glu: GLU rather than ReLU to mix the channels.
        norm_starts: the first level with group normalisation.
        norm_groups: its groups.
        dconv_mode: residual branches in the encoder (1), the decoder (2) or both (3).
        dconv_depth: residual branches per layer; negative for as many without dilation.
        dconv_comp: factor by which they are narrower.
        dconv_attn: the first level whose branches have local attention.
        dconv_lstm: the first level whose branches have an LSTM.
        dconv_init: their initial LayerScale.
        normalize: standardise every chunk, and undo it at the output.
        resample: work at twice the rate.
        rescale: reference of `rescale_weights`; 0 for none.
        samplerate: in Hz.
        segment: length of a chunk in seconds.
    """

    sources: Sequence[str]
    audio_channels: int = 2
    channels: int = 64
    growth: float = 2.0
    depth: int = 6
    rewrite: bool = True
    lstm_layers: int = 0
    kernel_size: int = 8
    stride: int = 4
    context: int = 1
    gelu: bool = True
    glu: bool = True
    norm_starts: int = 4
    norm_groups: int = 4
    dconv_mode: int = 1
    dconv_depth: int = 2
    dconv_comp: float = 4
    dconv_attn: int = 4
    dconv_lstm: int = 4
    dconv_init: float = 1e-4
    normalize: bool = True
    resample: bool = True
    rescale: float = 0.1
    samplerate: int = 44100
    segment: float = 40


@dataclass(frozen=True)
class DemucsV2Arguments:
    """Arguments of `DemucsV2`. Names, order and defaults are those of the class in demucs 2.0.3.

    All but two mean the same as in `DemucsArguments`.

    Attributes:
        context: kernel size of the decoder's GLUs, which have no padding.
        segment_length: samples per chunk.
    """

    sources: Sequence[str]
    audio_channels: int = 2
    channels: int = 64
    depth: int = 6
    rewrite: bool = True
    glu: bool = True
    rescale: float = 0.1
    resample: bool = True
    kernel_size: int = 8
    stride: int = 4
    growth: float = 2.0
    lstm_layers: int = 2
    context: int = 3
    normalize: bool = False
    samplerate: int = 44100
    segment_length: int = 40 * 44100


@dataclass(frozen=True)
class Level:
    """Channels of one level of the U-Net.

    Attributes:
        index: number of the level, from the audio inwards.
        outer: channels on the side of the audio.
        inner: channels on the side of the bottom.
        outputs: channels of the decoder's output; `outer`, times the stems at the outermost level.
    """

    index: int
    outer: int
    inner: int
    outputs: int


def levels_of(a: DemucsArguments | DemucsV2Arguments) -> list[Level]:
    """Return the levels from the audio inwards."""
    outer, inner = a.audio_channels, a.channels
    levels = []
    for index in range(a.depth):
        outputs = outer if index else outer * len(a.sources)
        levels.append(Level(index, outer, inner, outputs))
        outer, inner = inner, int(a.growth * inner)
    return levels


class WaveformUNet(Network):
    """Base of both generations.

    Args:
        a: arguments of the family.
        encoder: layers from the audio inwards.
        decoder: layers from the bottom outwards; the last ends in a transposed convolution.
        lost: steps by which the GLU of a decoder's layer shortens its input.
        segment_samples: samples per chunk.
    """

    normalise = True

    def __init__(
        self,
        a: DemucsArguments | DemucsV2Arguments,
        encoder: list[nn.Sequential],
        decoder: list[nn.Sequential],
        lost: int,
        segment_samples: int,
    ) -> None:
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.samplerate,
            channels=a.audio_channels,
            segment_samples=segment_samples,
        )
        self.kernel_size, self.stride, self.lost = a.kernel_size, a.stride, lost
        self.rate = 2 if a.resample else 1
        self.encoder = nn.ModuleList(encoder)
        self.decoder = nn.ModuleList(decoder)
        self.lstm = BLSTM(levels_of(a)[-1].inner, a.lstm_layers) if a.lstm_layers else None
        if a.rescale:
            rescale_weights(self, a.rescale)
        self.context_samples = math.ceil(self._widest_padding() / 2)

    def padded_samples(self, samples: int) -> int:
        """Return P(n): the shortest length ≥ n that every convolution divides without remainder."""
        steps = samples * self.rate
        for _ in self.encoder:
            steps = max(1, math.ceil((steps - self.kernel_size) / self.stride) + 1) + self.lost
        for _ in self.decoder:
            steps = (steps - 1) * self.stride + self.kernel_size
        return math.ceil(steps / self.rate)

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Rearrange the convolutions for inference on a CPU; they compute in fp32 whatever `dtype`."""
        for index, layer in enumerate(self.encoder):
            self.encoder[index] = OverTime(cast(nn.Sequential, layer))
        *inner, outermost = (cast(nn.Sequential, layer) for layer in self.decoder)
        for index, layer in enumerate(inner):
            self.decoder[index] = OverTime(layer)
        # The very last convolution stays: every call reduces its weights to the selected stems.
        self.decoder[-1] = nn.Sequential(OverTime(cast(nn.Sequential, outermost[:-1])), outermost[-1])
        return self

    def _widest_padding(self) -> int:
        """Return the maximum of P(n) − n over all n."""
        # P is a staircase, so the maximum is at n = 1 or right after a step. Rounding to whole samples can
        # make two neighbouring steps differ, so the first two are tried.
        candidates = [1]
        for steps in (self.lost + 1, self.lost + 2):
            for _ in self.decoder:
                steps = (steps - self.lost - 1) * self.stride + self.kernel_size
            candidates.append(steps // self.rate + 1)
        return max(self.padded_samples(n) - n for n in candidates)

    def _padded(self, mix: Tensor) -> Tensor:
        """Centre a mix in P(T) samples, with zeros around it: [B, C, T] -> [B, C, P(T)]."""
        missing = self.padded_samples(mix.shape[-1]) - mix.shape[-1]
        return F.pad(mix, (missing // 2, missing - missing // 2))

    def waveforms(self, mix: Tensor) -> Tensor:
        """Run the U-Net.

        Args:
            mix: [B, C, P(n)].

        Returns:
            the selected stems, [B, S, C, m], centred in the mix; n ≤ m ≤ P(n).
        """
        x = resample(mix, 1, self.rate)  # [B, C, rate·P(n)]
        skips = []
        for layer in self.encoder:
            x = layer(x)
            skips.append(x)
        if self.lstm is not None:
            x = self.lstm(x)
        *inner, last = self.decoder
        for layer in inner:
            x = layer(x + centre(skips.pop(), x.shape[-1]))
        x = self._outputs(cast(nn.Sequential, last), x + centre(skips.pop(), x.shape[-1]))
        return resample(x, self.rate, 1)

    def _outputs(self, layer: nn.Sequential, x: Tensor) -> Tensor:
        """Apply the decoder's outermost layer, for the selected stems only: [B, inner, ·] -> [B, S, C, ·]."""
        *before, final = layer
        for module in before:
            x = module(x)
        widen = cast(nn.ConvTranspose1d, final)
        kept = [stem * self.channels + c for stem in self.kept for c in range(self.channels)]
        bias = None if widen.bias is None else widen.bias[kept]
        with torch.autocast(x.device.type, enabled=False):  # these are samples of audio
            weight = widen.weight[:, kept]  # [inner, S·C, kernel]
            y = F.conv_transpose1d(x.to(weight.dtype), weight, bias, self.stride)
        return y.view(len(y), len(self.kept), self.channels, -1)  # [B, S, C, ·]


class Demucs(WaveformUNet):
    """Third generation: compressed residual branches, group normalisation, GLUs with padding."""

    Arguments = DemucsArguments
    arguments: DemucsArguments

    def __init__(self, arguments: DemucsArguments) -> None:
        a, levels = arguments, levels_of(arguments)
        super().__init__(
            a,
            [nn.Sequential(*_encoder_layer(a, level)) for level in levels],
            [nn.Sequential(*_decoder_layer(a, level)) for level in reversed(levels)],
            lost=0,
            segment_samples=int(a.samplerate * a.segment),
        )

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        samples = mix.shape[-1]
        if not self.arguments.normalize:
            return centre(self.waveforms(self._padded(mix)), samples)
        mean, std = _moments(mix)  # [B, 1, 1] each
        stems = self.waveforms(self._padded((mix - mean) / (STD_FLOOR + std)))
        return centre(stems, samples) * std[:, None] + mean[:, None]  # by [B, 1, 1, 1]


def _encoder_layer(a: DemucsArguments, level: Level) -> Iterator[nn.Module]:
    yield nn.Conv1d(level.outer, level.inner, a.kernel_size, a.stride)
    yield _norm(a, level, level.inner)
    yield nn.GELU() if a.gelu else nn.ReLU()
    if a.dconv_mode & 1:
        yield _residual_branches(a, level)
    if a.rewrite:
        yield from _rewrite(a, level, neighbours=0)


def _decoder_layer(a: DemucsArguments, level: Level) -> Iterator[nn.Module]:
    if a.rewrite:
        yield from _rewrite(a, level, neighbours=a.context)
    if a.dconv_mode & 2:
        yield _residual_branches(a, level)
    yield nn.ConvTranspose1d(level.inner, level.outputs, a.kernel_size, a.stride)
    if level.index:
        yield _norm(a, level, level.outputs)
        yield nn.GELU() if a.gelu else nn.ReLU()


def _rewrite(a: DemucsArguments, level: Level, neighbours: int) -> Iterator[nn.Module]:
    channels = 2 * level.inner if a.glu else level.inner
    yield nn.Conv1d(level.inner, channels, 2 * neighbours + 1, padding=neighbours)
    yield _norm(a, level, channels)
    yield nn.GLU(dim=1) if a.glu else nn.ReLU()


def _norm(a: DemucsArguments, level: Level, channels: int) -> nn.Module:
    return nn.GroupNorm(a.norm_groups, channels) if level.index >= a.norm_starts else nn.Identity()


def _residual_branches(a: DemucsArguments, level: Level) -> DConv:
    return DConv(
        level.inner,
        compress=a.dconv_comp,
        depth=a.dconv_depth,
        init=a.dconv_init,
        attention=level.index >= a.dconv_attn,
        lstm=level.index >= a.dconv_lstm,
    )


class DemucsV2(WaveformUNet):
    """Second generation: an LSTM, GLUs without padding, no normalisation layers, no residual branches.

    Every GLU of the decoder shortens its input at both ends, so a chunk needs real audio around it.
    """

    Arguments = DemucsV2Arguments
    arguments: DemucsV2Arguments

    def __init__(self, arguments: DemucsV2Arguments) -> None:
        a, levels = arguments, levels_of(arguments)
        super().__init__(
            a,
            [nn.Sequential(*_plain_encoder_layer(a, level)) for level in levels],
            [nn.Sequential(*_plain_decoder_layer(a, level)) for level in reversed(levels)],
            lost=a.context - 1,
            segment_samples=a.segment_length,
        )

    def forward(self, mix: Tensor) -> Tensor:
        """Separate a chunk from the P(n) samples around it: [B, C, context + n + context] -> [B, S, C, n]."""
        samples = mix.shape[-1] - 2 * self.context_samples
        padded = self.padded_samples(samples)
        start = self.context_samples - (padded - samples) // 2
        return self._middle(mix[..., start : start + padded], samples)

    def estimate(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> [B, S, C, T]."""
        return self._middle(self._padded(mix), mix.shape[-1])

    def _middle(self, mix: Tensor, samples: int) -> Tensor:
        """Separate the n samples in the middle: [B, C, P(n)] -> [B, S, C, n]."""
        if not self.arguments.normalize:
            # demucs 2 sets std to 1 and divides by std + floor all the same.
            return centre(self.waveforms(mix / (1 + STD_FLOOR)), samples)
        mean, std = _moments(mix)  # [B, 1, 1] each
        stems = self.waveforms((mix - mean) / (STD_FLOOR + std))
        return centre(stems, samples) * std[:, None] + mean[:, None]


def _plain_encoder_layer(a: DemucsV2Arguments, level: Level) -> Iterator[nn.Module]:
    yield nn.Conv1d(level.outer, level.inner, a.kernel_size, a.stride)
    yield nn.ReLU()
    if a.rewrite:
        yield from _plain_rewrite(a, level, kernel_size=1)


def _plain_decoder_layer(a: DemucsV2Arguments, level: Level) -> Iterator[nn.Module]:
    if a.rewrite:
        yield from _plain_rewrite(a, level, kernel_size=a.context)
    yield nn.ConvTranspose1d(level.inner, level.outputs, a.kernel_size, a.stride)
    if level.index:
        yield nn.ReLU()


def _plain_rewrite(a: DemucsV2Arguments, level: Level, kernel_size: int) -> Iterator[nn.Module]:
    yield nn.Conv1d(level.inner, 2 * level.inner if a.glu else level.inner, kernel_size)
    yield nn.GLU(dim=1) if a.glu else nn.ReLU()


def _moments(mix: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of the mono mix: [B, C, T] -> [B, 1, 1] each."""
    mono = mix.mean(dim=1, keepdim=True)  # [B, 1, T]
    return mono.mean(dim=-1, keepdim=True), mono.std(dim=-1, keepdim=True)


def centre(x: Tensor, samples: int) -> Tensor:
    """Return the middle `samples` of [..., T]; an odd surplus is cut off at the end."""
    before = (x.shape[-1] - samples) // 2
    return x[..., before : before + samples]


def resample(x: Tensor, old: int, new: int) -> Tensor:
    """Resample by windowed-sinc interpolation (J. O. Smith, Digital Audio Resampling; julius, resample.py).

    Args:
        x: [..., T]; its first and last samples are repeated beyond its ends.
        old: its rate, as a small integer.
        new: rate of the result, as a small integer.

    Returns:
        [..., ⌊T · new/old⌋].
    """
    if old == new:
        return x
    kernels, width = _sinc_kernels(old, new, x.device)
    padded = x.reshape(-1, 1, x.shape[-1])  # [N, 1, T]
    padded = F.pad(padded, (width, width + old), mode="replicate")  # [N, 1, width + T + width + old]
    with torch.autocast(x.device.type, enabled=False):  # these are samples of audio
        phases = F.conv1d(padded, kernels[:, None].to(x), stride=old)  # [N, new, ⌊T/old⌋ + 1]
    y = phases.transpose(1, 2).reshape(*x.shape[:-1], -1)  # [..., (⌊T/old⌋ + 1)·new]
    return y[..., : x.shape[-1] * new // old]


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is kept may be needed in training
def _sinc_kernels(old: int, new: int, device: torch.device) -> tuple[Tensor, int]:
    """Return a windowed sinc per phase of the output; cached, so don't write into it.

    Output sample j is at time j/new, input sample i at time i/old. The distances to the surrounding input
    samples, and so their weights, depend on the phase j mod new only.

    Returns:
        [new, width + old + width], and the width.
    """
    # In fp32 on purpose: in float64, the output agrees 8 dB less with julius, which the published networks
    # were trained with.
    cutoff = ROLLOFF * min(old, new)  # twice the cutoff frequency: zero crossings per unit of time
    width = math.ceil(ZERO_CROSSINGS * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float32, device="cpu") / old
    times = torch.arange(new, dtype=torch.float32, device="cpu")[:, None] / new
    crossings = ((taps - times) * cutoff).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
    window = torch.cos(torch.pi / 2 * crossings / ZERO_CROSSINGS).square()  # Hann
    kernels = torch.sinc(crossings) * window
    return (kernels / kernels.sum(dim=1, keepdim=True)).to(device), width  # a gain of 1 for a constant

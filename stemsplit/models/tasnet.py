"""Conv-TasNet: a learnt spectrogram, and masks for it from a stack of dilated convolutions.

Y. Luo, N. Mesgarani: Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation
(2019), with stereo filters as in Demucs 2 (A. Défossez et al. 2019). The arguments keep the paper's letters.

Legend: `batch`, `S` stems, `C` channels, `T` samples, `N` filters, `K` frames.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.network import Network

EPSILON = 1e-8


@dataclass(frozen=True)
class ConvTasNetArguments:
    """The constructor's arguments in demucs 2.0.3, where both published models differ by X = 10.

    Attributes:
        sources: names of the stems.
        N: filters of encoder and decoder.
        L: samples per filter; they overlap by half.
        B: channels between the convolutional blocks.
        H: channels inside a block.
        P: kernel size inside a block, odd unless causal.
        X: blocks per repeat, of dilation 1, 2, … 2^(X−1).
        R: repeats.
        audio_channels: of mix and stems.
        norm_type: gLN over channels and time, cLN over channels, BN over the batch, or id for none.
        causal: look at the past alone.
        mask_nonlinear: relu, or softmax over the stems.
        samplerate: in Hz.
        segment_length: samples per chunk.
    """

    sources: Sequence[str]
    N: int = 256
    L: int = 20
    B: int = 256
    H: int = 512
    P: int = 3
    X: int = 8
    R: int = 4
    audio_channels: int = 2
    norm_type: str = "gLN"
    causal: bool = False
    mask_nonlinear: str = "relu"
    samplerate: int = 44100
    segment_length: int = 8 * 44100

    def __post_init__(self) -> None:
        if self.norm_type not in NORMS:
            raise StemsplitError(f"tasnet: norm_type {self.norm_type}: must be one of {', '.join(NORMS)}")
        if self.mask_nonlinear not in ("relu", "softmax"):
            raise StemsplitError(f"tasnet: mask_nonlinear {self.mask_nonlinear}: must be relu or softmax")
        if self.P % 2 == 0 and not self.causal:
            raise StemsplitError(f"tasnet: P {self.P}: must be odd, or the network causal")


class ChannelNorm(nn.Module):
    """Zero mean and unit variance over the channels of every frame, then a gain and a bias per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, K], and back."""
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)
        return self.gamma * (x - mean) / (variance + EPSILON).sqrt() + self.beta


class GlobalNorm(ChannelNorm):
    """The same over channels and time together."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, K], and back."""
        return F.group_norm(x, 1, self.gamma.flatten(), self.beta.flatten(), EPSILON)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "gLN": GlobalNorm,
    "cLN": ChannelNorm,
    "BN": nn.BatchNorm1d,
    "id": lambda channels: nn.Identity(),
}


class Chomp(nn.Module):
    """Cuts off the last frames, which have seen the future."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, K + frames] to [batch, channels, K]."""
        return x[..., : x.shape[-1] - self.frames]


class DepthwiseSeparable(nn.Module):
    """A dilated convolution of every channel by itself, then a mixture of the channels (Section II-C)."""

    def __init__(self, a: ConvTasNetArguments, dilation: int) -> None:
        super().__init__()
        reach = (a.P - 1) * dilation
        padding = reach if a.causal else reach // 2
        self.net = nn.Sequential(
            nn.Conv1d(a.H, a.H, a.P, padding=padding, dilation=dilation, groups=a.H, bias=False),
            *([Chomp(padding)] if a.causal else []),
            nn.PReLU(),
            NORMS[a.norm_type](a.H),
            nn.Conv1d(a.H, a.B, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, H, K] to [batch, B, K]."""
        y: Tensor = self.net(x)
        return y


class Block(nn.Module):
    """A residual block of the separator: widen, then a depthwise separable convolution (Figure 1C)."""

    def __init__(self, a: ConvTasNetArguments, dilation: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(a.B, a.H, 1, bias=False),
            nn.PReLU(),
            NORMS[a.norm_type](a.H),
            DepthwiseSeparable(a, dilation),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, B, K], and back."""
        y: Tensor = x + self.net(x)
        return y


class Encoder(nn.Module):
    """Samples to a spectrogram of N learnt filters, not negative."""

    def __init__(self, a: ConvTasNetArguments) -> None:
        super().__init__()
        self.conv1d_U = nn.Conv1d(a.audio_channels, a.N, a.L, stride=a.L // 2, bias=False)

    def forward(self, mix: Tensor) -> Tensor:
        """[batch, C, T] to [batch, N, K]."""
        with torch.autocast(mix.device.type, enabled=False):  # samples of audio need full precision
            return torch.relu(self.conv1d_U(mix))


class Separator(nn.Module):
    """The spectrogram of the mix to a mask per stem (Figure 1B)."""

    def __init__(self, a: ConvTasNetArguments) -> None:
        super().__init__()
        self.filters = a.N
        self.softmax = a.mask_nonlinear == "softmax"
        repeats = [nn.Sequential(*(Block(a, 2**x) for x in range(a.X))) for _ in range(a.R)]
        self.network = nn.Sequential(
            ChannelNorm(a.N),
            nn.Conv1d(a.N, a.B, 1, bias=False),
            nn.Sequential(*repeats),
            nn.Conv1d(a.B, len(a.sources) * a.N, 1, bias=False),
        )

    def forward(self, mix: Tensor, stems: Sequence[int]) -> Tensor:
        """The masks of some stems.

        Args:
            mix: [batch, N, K].
            stems: their positions among the sources.

        Returns:
            [batch, S, N, K], not negative.
        """
        features: Tensor = self.network[:-1](mix)
        last = cast(nn.Conv1d, self.network[-1])
        if self.softmax:
            shares: Tensor = last(features).unflatten(1, (-1, self.filters)).softmax(1)
            return shares[:, list(stems)]
        matrices: Tensor = last.weight.unflatten(0, (-1, self.filters))  # one per source
        scores: Tensor = F.conv1d(features, matrices[list(stems)].flatten(0, 1))
        return torch.relu(scores).view(len(mix), len(stems), self.filters, -1)


class Decoder(nn.Module):
    """Spectrograms to samples: every frame becomes C × L samples, and frames add up where they overlap."""

    def __init__(self, a: ConvTasNetArguments) -> None:
        super().__init__()
        self.channels = a.audio_channels
        self.hop = a.L // 2
        self.basis_signals = nn.Linear(a.N, a.audio_channels * a.L, bias=False)

    def forward(self, stems: Tensor) -> Tensor:
        """[batch, S, N, K] to [batch, S, C, (K − 1) L/2 + L]."""
        basis: Tensor = self.basis_signals.weight.T.unflatten(1, (self.channels, -1))
        frames = stems.flatten(0, 1).to(basis.dtype)
        with torch.autocast(stems.device.type, enabled=False):
            samples: Tensor = F.conv_transpose1d(frames, basis, stride=self.hop)
        return samples.view(*stems.shape[:2], self.channels, -1)


class ConvTasNet(Network):
    """Encoder, separator and decoder. Released as tasnet and tasnet_extra."""

    Arguments = ConvTasNetArguments
    arguments: ConvTasNetArguments
    normalise = True

    def __init__(self, arguments: ConvTasNetArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.samplerate,
            channels=a.audio_channels,
            segment_samples=a.segment_length,
        )
        self.encoder = Encoder(a)
        self.separator = Separator(a)
        self.decoder = Decoder(a)
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d | nn.Linear):
                nn.init.xavier_normal_(layer.weight)

    def estimate(self, mix: Tensor) -> Tensor:
        """[batch, C, T] to [batch, S, C, T]. Samples after the last whole filter stay zero."""
        samples = mix.shape[-1]
        spectrum = self.encoder(F.pad(mix, (0, max(0, self.arguments.L - samples))))
        masks = self.separator(spectrum, self.kept)
        stems: Tensor = self.decoder(masks * spectrum[:, None])
        return F.pad(stems, (0, samples - stems.shape[-1]))  # or cut what a short mix was filled up with

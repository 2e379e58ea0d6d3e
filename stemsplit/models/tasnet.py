"""Conv-TasNet: a learnt spectrogram, and masks for it from a stack of dilated convolutions.

Luo and Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech Separation",
2019, with stereo filters as in Demucs 2 (Défossez et al. 2019; demucs 2.0.3, tasnet.py). Arguments and shapes
have the paper's letters: `N` filters, `B` and `H` channels, `K` frames.

Legend: `batch`, `S` stems, `C` audio channels, `T` samples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.network import Network

EPSILON = 1e-8  # added to variances


@dataclass(frozen=True)
class ConvTasNetArguments:
    """Arguments of the class in demucs 2.0.3; both published models have X = 10.

    Attributes:
        sources: names of the stems.
        N: filters of encoder and decoder.
        L: samples per filter; filters overlap by half.
        B: channels between the convolutional blocks.
        H: channels inside a block.
        P: kernel size inside a block, odd unless causal.
        X: blocks per repeat, of dilation 1, 2, … 2^(X−1).
        R: repeats.
        audio_channels: of mix and stems.
        norm_type: gLN over channels and time, cLN over channels, BN over the batch, or id for none.
        causal: see the past only.
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
    """Normalisation over the channels of every frame, with a gain and a bias per channel (cLN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(1, channels, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, K] -> [batch, channels, K]."""
        variance, mean = torch.var_mean(x, 1, correction=0, keepdim=True)  # [batch, 1, K]
        return self.gamma * (x - mean) / (variance + EPSILON).sqrt() + self.beta


class GlobalNorm(ChannelNorm):
    """Normalisation over channels and time together (gLN)."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, K] -> [batch, channels, K]."""
        gain, bias = self.gamma.flatten(), self.beta.flatten()  # [channels] each
        return F.group_norm(x, 1, gain, bias, EPSILON)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "gLN": GlobalNorm,
    "cLN": ChannelNorm,
    "BN": nn.BatchNorm1d,
    "id": lambda channels: nn.Identity(),
}


class Chomp(nn.Module):
    """Cut off the last frames, which depend on the future."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, K + frames] -> [batch, channels, K]."""
        return x[..., : x.shape[-1] - self.frames]


class DepthwiseSeparable(nn.Module):
    """Depthwise separable convolution: dilated per channel, then pointwise over channels (Section II-C)."""

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
        """[batch, H, K] -> [batch, B, K]."""
        y: Tensor = self.net(x)
        return y


class Block(nn.Module):
    """Residual block of the separator: a pointwise, then a depthwise separable convolution (Figure 1C)."""

    def __init__(self, a: ConvTasNetArguments, dilation: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(a.B, a.H, 1, bias=False),
            nn.PReLU(),
            NORMS[a.norm_type](a.H),
            DepthwiseSeparable(a, dilation),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, B, K] -> [batch, B, K]."""
        y: Tensor = x + self.net(x)
        return y


class Encoder(nn.Module):
    """Encoder of samples into a spectrogram of N learnt filters, ≥ 0."""

    def __init__(self, a: ConvTasNetArguments) -> None:
        super().__init__()
        self.conv1d_U = nn.Conv1d(a.audio_channels, a.N, a.L, stride=a.L // 2, bias=False)

    def forward(self, mix: Tensor) -> Tensor:
        """[batch, C, T] -> [batch, N, K]."""
        with torch.autocast(mix.device.type, enabled=False):  # samples of audio need full precision
            return torch.relu(self.conv1d_U(mix))


class Separator(nn.Module):
    """Temporal convolutional network that estimates a mask per stem (Figure 1B)."""

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
        """Estimate the masks of some stems.

        Args:
            mix: [batch, N, K].
            stems: their indices among the sources.

        Returns:
            [batch, S, N, K], ≥ 0.
        """
        features: Tensor = self.network[:-1](mix)  # [batch, B, K]
        last = cast(nn.Conv1d, self.network[-1])
        if self.softmax:
            # over all sources, [batch, sources, N, K]
            shares: Tensor = last(features).unflatten(1, (-1, self.filters)).softmax(1)  # [batch, ·, N, K]
            return shares[:, list(stems)]
        matrices: Tensor = last.weight.unflatten(0, (-1, self.filters))  # [sources, N, B, 1]
        scores: Tensor = F.conv1d(features, matrices[list(stems)].flatten(0, 1))  # [batch, S·N, K]
        return torch.relu(scores).view(len(mix), len(stems), self.filters, -1)  # [batch, S, N, K]


class Decoder(nn.Module):
    """Decoder of spectrograms into samples: C × L samples per frame, overlapped and added."""

    def __init__(self, a: ConvTasNetArguments) -> None:
        super().__init__()
        self.channels = a.audio_channels
        self.hop = a.L // 2
        self.basis_signals = nn.Linear(a.N, a.audio_channels * a.L, bias=False)

    def forward(self, stems: Tensor) -> Tensor:
        """[batch, S, N, K] -> [batch, S, C, (K − 1) L/2 + L]."""
        basis: Tensor = self.basis_signals.weight.T.unflatten(1, (self.channels, -1))  # [N, C, L]
        frames = stems.flatten(0, 1).to(basis.dtype)  # [batch·S, N, K]
        with torch.autocast(stems.device.type, enabled=False):  # samples of audio need full precision
            samples: Tensor = F.conv_transpose1d(frames, basis, stride=self.hop)  # [batch·S, C, T]
        return samples.view(*stems.shape[:2], self.channels, -1)  # [batch, S, C, T]


class ConvTasNet(Network):
    """Encoder, separator and decoder; released as tasnet and tasnet_extra."""

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
        """[batch, C, T] -> [batch, S, C, T]; samples after the last whole filter are zero."""
        samples = mix.shape[-1]
        spectrum = self.encoder(F.pad(mix, (0, max(0, self.arguments.L - samples))))
        masks = self.separator(spectrum, self.kept)
        stems: Tensor = self.decoder(masks * spectrum[:, None])  # [batch, S, N, K] · [batch, 1, N, K]
        return F.pad(stems, (0, samples - stems.shape[-1]))  # negative, a crop, if a short mix was padded

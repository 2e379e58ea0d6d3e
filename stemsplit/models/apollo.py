"""Apollo (Li and Luo 2024): restores lossily compressed music, band by band.

"Apollo: Band-sequence Modeling for High-Quality Audio Restoration" (arXiv 2409.08514): the modules for
frequency band split, frequency band sequence modeling (attention over the bands, convolutions over time) and
frequency band reconstruction, which gives the spectrogram itself. Keys, arguments and their defaults are
those of the released checkpoints.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.bands import Table, linear_bands
from stemsplit.models.blocks.released import released_arguments, released_stems, released_use
from stemsplit.models.blocks.rotary import turn
from stemsplit.models.fast.packed import pack_pointwises
from stemsplit.models.spectral import SpectralNetwork, Transform

BANDS = 80
HEADS = 8
SLICE = 1024  # steps of the sequences that a CPU runs over at a time
POSITIONS = 100  # of which checkpoints hold the rotary angles
POWER_FLOOR = torch.finfo(torch.float32).eps


class ChannelNorm(nn.Module):
    """RMSNorm over the channels: x / √(mean x² + ε) · weight.

    Args:
        channels: of the input.
    """

    EPSILON = 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, steps] -> [N, C, steps]."""
        scale = (x.float().square().mean(1, keepdim=True) + self.EPSILON).rsqrt()
        return x * scale * self.weight[:, None]


class BandAttention(nn.Module):
    """Self-attention over the bands of one frame with rotary positions, then a gated MLP, both residual.

    Args:
        width: of a band's features.
    """

    cos_freq: Tensor
    sin_freq: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        head = width // HEADS
        rates = 10_000.0 ** -(torch.arange(0, head, 2) / head)
        angles = torch.outer(torch.arange(POSITIONS), rates).repeat_interleave(2, dim=1)  # [positions, head]
        self.register_buffer("cos_freq", angles.cos())
        self.register_buffer("sin_freq", angles.sin())
        self.input_norm = ChannelNorm(width)
        self.weight = nn.Conv1d(width, 3 * width, 1, bias=False)
        self.output = nn.Conv1d(width, width, 1, bias=False)
        self.MLP = nn.Sequential(ChannelNorm(width), nn.Conv1d(width, 8 * width, 1, bias=False), nn.SiLU())
        self.MLP_output = nn.Conv1d(4 * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, bands] -> [N, width, bands]."""
        heads = self.weight(self.input_norm(x)).unflatten(1, (HEADS, -1))  # [N, heads, 3·head, bands]
        q, k, v = heads.transpose(2, 3).chunk(3, dim=-1)  # [N, heads, bands, head] each
        bands = x.shape[-1]
        cos, sin = self.cos_freq[:bands, ::2], self.sin_freq[:bands, ::2]  # a pair has one angle
        attended = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v.contiguous())
        x = x + self.output(attended.transpose(2, 3).flatten(1, 2))  # [N, width, bands]
        gate, value = self.MLP(x).chunk(2, dim=1)  # both went through a SiLU, the gate goes through a second
        y: Tensor = x + self.MLP_output(F.silu(gate) * value)
        return y


class TimeConvolution(nn.Module):
    """Residual depthwise convolution over time, then an MLP.

    Args:
        width: of a band's features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv1d(width, width, 7, padding=3, groups=width),
            ChannelNorm(width),
            nn.Conv1d(width, 4 * width, 1),
            nn.SiLU(),
            nn.Conv1d(4 * width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, frames] -> [N, width, frames]."""
        y: Tensor = x + self.conv(x)
        return y


class TimeConvolutions(nn.Module):
    """Three convolutions over time in sequence.

    Args:
        width: of a band's features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(TimeConvolution(width) for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, frames] -> [N, width, frames]."""
        y: Tensor = self.blocks(x)
        return y


class BandSequence(nn.Module):
    """Attention over the bands of every frame, then convolutions over the frames of every band.

    Args:
        width: of a band's features.

    Attributes:
        sliced: run over a few sequences at a time, so that they stay in a CPU's cache.
    """

    sliced: bool = False

    def __init__(self, width: int) -> None:
        super().__init__()
        self.band_net = BandAttention(width)
        self.seq_net = TimeConvolutions(width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, bands, width, frames] -> [N, bands, width, frames]."""
        x = self._along(self.band_net, x.permute(0, 3, 2, 1))  # [N, frames, width, bands]
        return self._along(self.seq_net, x.permute(0, 3, 2, 1))  # [N, bands, width, frames]

    def _along(self, layer: nn.Module, x: Tensor) -> Tensor:
        """Run a layer along the last dimension: [N, sequences, width, steps] -> the same."""
        if not self.sliced:
            whole: Tensor = layer(x.flatten(0, 1)).view(x.shape)
            return whole
        # the features of a step are adjacent in memory
        out = x.new_empty(*x.shape[:2], x.shape[3], x.shape[2]).transpose(2, 3)
        size = max(1, SLICE // x.shape[-1])
        for one, written in zip(x, out, strict=True):  # [sequences, width, steps]
            for some, to in zip(one.split(size), written.split(size), strict=True):
                to.copy_(layer(some))
        return out


class Apollo(SpectralNetwork):
    """Estimates the spectrogram of one stem, the restored mix; each audio channel by itself."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        """Values of the paper.

        Attributes:
            stem: name of the output.
            audio_channels: of mix and stem.
            sr: sample rate in Hz.
            win: length of a frame in ms; the hop is half of it.
            feature_dim: width of a band's features.
            layer: blocks of attention over bands and convolutions over time.
            normalise: standardise the whole track's waveform.
            overlap: fraction of a chunk shared with the next; None for the default.
            segment_samples: length of a chunk in samples.
        """

        stem: str = "restored"
        audio_channels: int = 2
        sr: int = 44_100
        win: int = 20
        feature_dim: int = 256
        layer: int = 6
        normalise: bool = False
        overlap: float | None = None
        segment_samples: int = 132_300

        def __post_init__(self) -> None:
            if self.feature_dim % (2 * HEADS):
                raise StemsplitError(f"feature_dim {self.feature_dim}: must be a multiple of {2 * HEADS}")
            if self.n_fft % 2 or self.n_fft < 2 * BANDS:
                raise StemsplitError(
                    f"win {self.win}: frames of {self.n_fft} samples must be even and of {2 * BANDS} at least"
                )

        @property
        def n_fft(self) -> int:
            """Samples per frame."""
            return int(self.sr * self.win // 1000)

        @property
        def table(self) -> Table:
            """Bands of equal width; the last one takes what remains."""
            bins = self.n_fft // 2 + 1
            width = bins // BANDS
            return linear_bands([width] * (BANDS - 1) + [bins - width * (BANDS - 1)], bins)

        @classmethod
        def from_config(cls, config: Mapping[str, Any]) -> Self:
            """Return the arguments of a released checkpoint, from the configuration published beside it.

            Args:
                config: with the sections `model` and `training` (instruments and target_instrument), and
                    perhaps `audio` (chunk_size, num_channels, sample_rate) and `inference` (`released_use`).

            Raises:
                StemsplitError: the configuration asks for something that the network doesn't have.
            """
            arguments = released_arguments(config, {field.name for field in fields(cls)})
            rate = arguments.pop("sample_rate", None)
            if rate not in (None, arguments.get("sr", cls.sr)):
                raise StemsplitError(f"sr {arguments.get('sr', cls.sr)}, but a sample_rate of {rate}")
            if len(stems := released_stems(config)) != 1:
                raise StemsplitError(f"one stem is estimated, not {', '.join(stems)}")
            if channels := (config.get("audio") or {}).get("num_channels"):
                arguments["audio_channels"] = channels
            return cls(**arguments | released_use(config) | {"stem": stems[0]})

    def __init__(self, arguments: Arguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=(a.stem,),
            sample_rate=a.sr,
            channels=a.audio_channels,
            segment_samples=a.segment_samples,
            transform=Transform(a.n_fft, a.n_fft // 2),
        )
        self.normalise, self.overlap = a.normalise, a.overlap
        self.table = a.table
        width = a.feature_dim
        self.BN = nn.ModuleList(
            nn.Sequential(ChannelNorm(2 * len(band) + 1), nn.Conv1d(2 * len(band) + 1, width, 1))
            for band in self.table
        )
        self.net = nn.Sequential(*(BandSequence(width) for _ in range(a.layer)))
        self.output = nn.ModuleList(
            nn.Sequential(ChannelNorm(width), nn.Conv1d(width, 4 * len(band), 1), nn.GLU(dim=1))
            for band in self.table
        )

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, 1, C, F, frames]."""
        z = self.transform.analyse(mix)
        bands = z.flatten(0, 1).split([len(band) for band in self.table], dim=1)  # [B·C, band, frames] each
        features = [layer(_features(band)) for layer, band in zip(self.BN, bands, strict=True)]
        x = self.net(torch.stack(features, dim=1))  # [B·C, bands, width, frames]
        parts = [
            layer(band).float().unflatten(1, (2, -1))  # [B·C, 2, band, frames]
            for layer, band in zip(self.output, x.unbind(1), strict=True)
        ]
        real, imaginary = torch.cat(parts, dim=2).unbind(1)  # [B·C, F, frames] each
        return torch.complex(real, imaginary).view(z.shape)[:, None]  # [B, 1, C, F, frames]

    def prepare(self, dtype: torch.dtype = torch.float32) -> Self:
        """Pack the layers that are linear in a step's features, and run over a few sequences at a time."""
        for block in self.net:
            cast(BandSequence, block).sliced = True
        pack_pointwises(self.net)
        return self


def _features(band: Tensor) -> Tensor:
    """Real parts, imaginary parts and the logarithm of the amplitude that both are divided by.

    Args:
        band: complex [N, bins, frames].

    Returns:
        [N, 2·bins + 1, frames].
    """
    power = (band.real.square() + band.imag.square()).sum(1, keepdim=True)
    amplitude = (power + POWER_FLOOR).sqrt()
    return torch.cat([band.real / amplitude, band.imag / amplitude, amplitude.log()], dim=1)

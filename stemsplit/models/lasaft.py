"""LaSAFT: one U-Net for all stems, told by an embedding of the stem which of them to estimate.

Choi, Kim, Chung, Jung, "LaSAFT: Latent Source Attentive Frequency Transformation for Conditioned Source
Separation" (ICASSP 2021, arXiv 2010.11631): the network with LaSAFT blocks and gated point-wise convolutional
modulation (GPoCM) of its decoder. Names and shapes of the weights are those of its authors' checkpoints
(ws-choi/Conditioned-Source-Separation-LaSAFT), which also hold the window of the transform.

Legend: `B` batch, `S` stems, `C` channels, `W` width of features, `F` bins, `T` samples; `N` counts the items
of a batch, each with its stem: N = B·S.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.network import ignore_when_loading
from stemsplit.models.spectral import SpectralNetwork, Transform

KERNEL = 3  # of the time-frequency convolutions
BOTTLENECK = 16  # the linear layers along frequency are this many times narrower between them …
NARROWEST = 16  # … but have this many units
LEAST_CONTEXT = 5000  # samples that are cut off both ends of a chunk, up to a whole hop


@dataclass(frozen=True)
class LaSAFTArguments:
    """Arguments of the authors' class; the defaults are those of the released network.

    Attributes:
        sources: names of the stems, in the order of their embeddings.
        n_fft: samples per frame, under a Hann window.
        hop_length: samples from frame to frame.
        num_frame: frames of a chunk.
        n_blocks: at all scales: in the encoder as many as in the decoder, and one between them.
        internal_channels: width of the features.
        n_internal_layers: convolutions of a block.
        num_tdfs: latent sources, each with linear layers of its own.
        dk: length of the keys and queries of the attention over latent sources.
        embedding_dim: length of a stem's embedding.
        control_n_layer: lengths of the embedding, each twice the one before, from which the modulation is
            computed.
        audio_channels: of mix and stems.
        sample_rate: in Hz.
    """

    sources: Sequence[str] = ("vocals", "drums", "bass", "other")
    n_fft: int = 4096
    hop_length: int = 1024
    num_frame: int = 128
    n_blocks: int = 9
    internal_channels: int = 24
    n_internal_layers: int = 5
    num_tdfs: int = 6
    dk: int = 32
    embedding_dim: int = 64
    control_n_layer: int = 4
    audio_channels: int = 2
    sample_rate: int = 44_100

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            raise StemsplitError("lasaft: needs two sources at least")
        if self.n_blocks < 3 or self.n_blocks % 2 == 0 or self.scales > 20:
            raise StemsplitError(f"lasaft: n_blocks {self.n_blocks}: must be odd, from 3 to 41")
        if self.n_fft < 1 or self.n_fft % (2 * self.frame_multiple):
            raise StemsplitError(
                f"lasaft: n_fft {self.n_fft}: must be a multiple of {2 * self.frame_multiple}"
            )
        if min(self.n_internal_layers, self.control_n_layer, self.hop_length) < 1:
            raise StemsplitError("lasaft: n_internal_layers, control_n_layer and hop_length: 1 at least")
        if self.window_samples <= 2 * self.context_samples:
            raise StemsplitError(
                f"lasaft: num_frame {self.num_frame}: nothing is left between a chunk's ends"
            )

    @property
    def scales(self) -> int:
        """Number of scales below the first."""
        return self.n_blocks // 2

    @property
    def frame_multiple(self) -> int:
        """The number of frames is a multiple of this."""
        return 1 << self.scales

    @property
    def window_samples(self) -> int:
        """Samples of a chunk, with what is cut off its ends."""
        return self.hop_length * (self.num_frame - 1)

    @property
    def context_samples(self) -> int:
        """Samples that are cut off each end of a chunk."""
        return -(-LEAST_CONTEXT // self.hop_length) * self.hop_length

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Return what the tensors of a checkpoint tell; not the names of the stems, nor hop and frames.

        Raises:
            KeyError: a tensor is missing.
        """
        home = "spec2spec"
        width, parts = shapes[f"{home}.first_conv.0.weight"][:2]
        bins = shapes[f"{home}.encoders.0.tdfs.tdf.0.weight"][1]
        dk, latent = shapes[f"{home}.encoders.0.keys"]
        embedding = shapes[f"{home}.embedding.weight"][1]
        last = shapes[f"{home}.condition_generator.linear_beta.0.weight"][1]
        return {
            "n_fft": 2 * bins,
            "n_blocks": 2 * _count(shapes, rf"{home}\.encoders\.(\d+)\.") + 1,
            "internal_channels": width,
            "n_internal_layers": _count(shapes, rf"{home}\.encoders\.0\.tfc\.H\.(\d+)\."),
            "num_tdfs": latent,
            "dk": dk,
            "embedding_dim": embedding,
            "control_n_layer": (last // embedding).bit_length(),
            "audio_channels": parts // 2,
        }


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """Return how many different numbers the names have at a place."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def _normalised(width: int, *layers: nn.Module) -> nn.Sequential:
    """Return layers, each followed by batch normalisation and ReLU."""
    return nn.Sequential(
        *(one for layer in layers for one in (layer, nn.BatchNorm2d(width), nn.ReLU(inplace=True)))
    )


class Convolutions(nn.Module):
    """Densely connected time-frequency convolutions (TFC).

    Args:
        width: of the input.
        a: arguments of the family.
    """

    def __init__(self, width: int, a: LaSAFTArguments) -> None:
        super().__init__()
        out = a.internal_channels
        self.H = nn.ModuleList(
            _normalised(out, nn.Conv2d(width + i * out, out, KERNEL, padding=KERNEL // 2))
            for i in range(a.n_internal_layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, W, frames, F] -> [N, W', frames, F]."""
        first, *others = self.H
        y: Tensor = first(x)
        for layer in others:
            x = torch.cat([y, x], dim=1)
            y = layer(x)
        return y


class Frequencies(nn.Module):
    """Linear layers along frequency (TDF) for all latent sources.

    Args:
        bins: of the input; the output has as many for each latent source.
        a: arguments of the family.
    """

    def __init__(self, bins: int, a: LaSAFTArguments) -> None:
        super().__init__()
        out = bins * a.num_tdfs
        narrow = max(out // BOTTLENECK, NARROWEST)
        down, up = nn.Linear(bins, narrow, bias=False), nn.Linear(narrow, out, bias=False)
        self.tdf = _normalised(a.internal_channels, down, up)

    def forward(self, x: Tensor) -> Tensor:
        """[N, W, frames, F] -> [N, W, frames, F · latent sources]."""
        y: Tensor = self.tdf(x)
        return y


class Block(nn.Module):
    """Convolutions, and what the latent sources add to their output, weighted by attention (section 2.2).

    Args:
        width: of the input.
        bins: of input and output.
        a: arguments of the family.
    """

    def __init__(self, width: int, bins: int, a: LaSAFTArguments) -> None:
        super().__init__()
        self.tfc = Convolutions(width, a)
        self.tdfs = Frequencies(bins, a)
        self.keys = nn.Parameter(torch.randn(a.dk, a.num_tdfs))
        self.linear_query = nn.Linear(a.embedding_dim, a.dk)

    def forward(self, x: Tensor, embedding: Tensor, modulation: tuple[Tensor, Tensor] | None) -> Tensor:
        """Transform features.

        Args:
            x: [N, W, frames, F].
            embedding: of the stems, [N, embedding_dim].
            modulation: matrices and offsets, for the output of the convolutions; None for none.

        Returns:
            [N, W', frames, F].
        """
        x = self.tfc(x)
        if modulation is not None:
            x = x * _modulated(x, *modulation).sigmoid()
        scores = self.linear_query(embedding) @ self.keys / math.sqrt(len(self.keys))  # [N, latent sources]
        values = self.tdfs(x).reshape(len(x), -1, scores.shape[1])  # [N, W·frames·F, latent sources]
        return x + torch.bmm(values, scores.softmax(1)[..., None]).view(x.shape)


def _modulated(x: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Return each item's features times its own matrix, plus offsets (PoCM, section 2.3).

    Args:
        x: [N, W, frames, F].
        matrices: [N, W, W'].
        offsets: [N, W'].

    Returns:
        [N, W', frames, F].
    """
    products = matrices.transpose(1, 2) @ x.flatten(2)  # [N, W', frames·F]
    return (products + offsets[..., None]).view_as(x)


class Controls(nn.Module):
    """Modulation of every block of the decoder, computed from the stem's embedding.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: LaSAFTArguments) -> None:
        super().__init__()
        self.dense_control_block = Widening(a)
        sizes = (a.scales, a.internal_channels, a.internal_channels)
        last = a.embedding_dim << (a.control_n_layer - 1)
        self.sizes = sizes
        self.linear_gamma = self._layer(last, math.prod(sizes))
        self.linear_beta = self._layer(last, math.prod(sizes[:2]))

    @staticmethod
    def _layer(given: int, out: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(given, out), nn.Identity(), nn.BatchNorm1d(out, affine=False))

    def forward(self, embedding: Tensor) -> list[tuple[Tensor, Tensor]]:
        """[N, embedding_dim] -> for each block of the decoder matrices [N, W, W] and offsets [N, W]."""
        x = self.dense_control_block(embedding)
        matrices = self.linear_gamma(x).unflatten(1, self.sizes)  # [N, blocks, W, W]
        offsets = self.linear_beta(x).unflatten(1, self.sizes[:2])  # [N, blocks, W]
        return list(zip(matrices.unbind(1), offsets.unbind(1), strict=True))


class Widening(nn.Module):
    """Layers of which each doubles the length of the embedding.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: LaSAFTArguments) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(a.control_n_layer - 1):
            size = a.embedding_dim << i
            layers += [nn.Linear(size, 2 * size), nn.ReLU()]
            if i > 0:
                layers += [nn.Dropout(), nn.BatchNorm1d(2 * size)]
        self.linear = nn.Sequential(*layers)

    def forward(self, embedding: Tensor) -> Tensor:
        """[N, embedding_dim] -> [N, embedding_dim · 2^(control_n_layer − 1)]."""
        y: Tensor = self.linear(embedding)
        return y


class ConditionedUNet(nn.Module):
    """U-Net on spectrograms that halves frames and bins from scale to scale.

    The first convolution joins adjacent bins, F + 1 to F, and the last one undoes that.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: LaSAFTArguments) -> None:
        super().__init__()
        width, parts = a.internal_channels, 2 * a.audio_channels
        bins = [a.n_fft // 2 >> i for i in range(a.scales + 1)]
        self.first_conv = _normalised(width, nn.Conv2d(parts, width, (1, 2)))
        self.encoders = nn.ModuleList(Block(width, size, a) for size in bins[:-1])
        self.downsamplings = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 2, 2), nn.BatchNorm2d(width)) for _ in bins[:-1]
        )
        self.mid_block = Block(width, bins[-1], a)
        self.upsamplings = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2), nn.BatchNorm2d(width)) for _ in bins[:-1]
        )
        self.decoders = nn.ModuleList(Block(2 * width, size, a) for size in reversed(bins[:-1]))
        self.last_conv = nn.Sequential(nn.Conv2d(width, parts, (1, 2), padding=(0, 1)))
        self.embedding = nn.Embedding(len(a.sources), a.embedding_dim)
        self.condition_generator = Controls(a)

    def forward(self, x: Tensor, stems: Sequence[int]) -> Tensor:
        """Estimate the spectrograms of stems.

        Args:
            x: [B, 2C, frames, F + 1].
            stems: their indices among the sources.

        Returns:
            [B, S, 2C, frames, F + 1].
        """
        batch = len(x)
        rows = torch.stack([self.embedding.weight[i] for i in stems])  # [S, embedding_dim]
        embedding = rows.repeat(batch, 1)  # [N, embedding_dim]
        controls = self.condition_generator(embedding)
        x = self.first_conv(x.repeat_interleave(len(stems), 0))  # [N, W, frames, F]
        saved = []
        for block, down in zip(self.encoders, self.downsamplings, strict=True):
            saved.append(block(x, embedding, None))
            x = down(saved[-1])
        x = self.mid_block(x, embedding, None)
        for block, up, control in zip(self.decoders, self.upsamplings, controls, strict=True):
            x = block(torch.cat([up(x), saved.pop()], dim=1), embedding, control)
        out: Tensor = self.last_conv(x).unflatten(0, (batch, -1))  # [B, S, 2C, frames, F + 1]
        return out


class LaSAFT(SpectralNetwork):
    """Maps the mix's complex spectrogram to each stem's, in the middle of chunks that don't overlap."""

    Arguments = LaSAFTArguments
    arguments: LaSAFTArguments

    def __init__(self, arguments: LaSAFTArguments) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.window_samples - 2 * a.context_samples,
            transform=Transform(a.n_fft, a.hop_length),
        )
        self.context_samples, self.overlap = a.context_samples, 0.0
        self.spec2spec = ConditionedUNet(a)
        ignore_when_loading(self, "stft.stft.window")
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

    def padded_samples(self, samples: int) -> int:
        """Return the samples that the network gets for a chunk: all its context."""
        return samples + 2 * self.context_samples

    def spectrograms(self, mix: Tensor) -> Tensor:
        """[B, C, T] -> complex [B, S, C, F, frames], the frames being a multiple of `frame_multiple`."""
        samples = mix.shape[-1]
        z = self.transform.analyse(F.pad(mix, (0, self._whole_frames(samples) - samples)))
        # both parts of a number are as far apart as the audio has channels
        x = torch.view_as_real(z).permute(0, 4, 1, 3, 2).flatten(1, 2)  # [B, 2C, frames, F]
        # in training one batch, of which the normalisations take the statistics; otherwise stem by stem
        groups = [self.kept] if self.training else [(i,) for i in self.kept]
        y = torch.cat([self.spec2spec(x, group) for group in groups], dim=1).float()
        parts = y.unflatten(2, (2, -1)).transpose(-1, -2)  # [B, S, 2, C, F, frames]
        return torch.complex(parts[:, :, 0], parts[:, :, 1])

    def _whole_frames(self, samples: int) -> int:
        """Return the length, a multiple of `frame_multiple` frames, to which silence continues `samples`.

        The authors' program hears whole chunks only, so short ones are continued to a chunk.
        """
        a = self.arguments
        chunk = self.padded_samples(self.segment_samples)
        frames = -(-(samples if self.training else max(samples, chunk)) // a.hop_length) + 1
        whole = -(-frames // a.frame_multiple) * a.frame_multiple
        return a.hop_length * (whole - 1)

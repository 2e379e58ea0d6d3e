"""Layers and bases of LaSAFT and LASAFT-Net-v2: networks for all stems that get a stem as an embedding.

Choi, Kim, Chung, Jung, "LaSAFT: Latent Source Attentive Frequency Transformation for Conditioned Source
Separation" (ICASSP 2021, arXiv 2010.11631). Names and shapes of weights are those of the authors' programs.

Legend: `B` batch, `S` stems, `C` channels, `W` width of features, `F` bins, `T` samples; `N` counts the items
of a batch, each with its stem: N = B·S.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError
from stemsplit.models.network import ignore_when_loading
from stemsplit.models.spectral import SpectralNetwork, Transform

Activation = type[nn.ReLU] | type[nn.LeakyReLU]

KERNEL = 3  # of the time-frequency convolutions
BOTTLENECK = 16  # the linear layers along frequency are this many times narrower between them …
NARROWEST = 16  # … but have this many units
LEAST_CONTEXT = 5000  # samples that are cut off both ends of a chunk, up to a whole hop


@dataclass(frozen=True)
class ConditionedArguments:
    """Arguments of both families.

    Attributes:
        sources: names of the stems, in the order of their embeddings.
        n_fft: samples per frame, under a Hann window.
        hop_length: samples from frame to frame.
        num_frame: frames of a chunk.
        n_blocks: at all scales: in the encoder as many as in the decoder, and one between them.
        internal_channels: width of the features.
        n_internal_layers: convolutions of a block.
        num_tdfs: latent sources.
        dk: length of the keys and queries of the attention over latent sources.
        embedding_dim: length of a stem's embedding.
        audio_channels: of mix and stems.
        sample_rate: in Hz.
    """

    family: ClassVar[str]

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
    audio_channels: int = 2
    sample_rate: int = 44_100

    def __post_init__(self) -> None:
        if len(self.sources) < 2:
            self.refuse("needs two sources at least")
        if self.n_blocks < 3 or self.n_blocks % 2 == 0 or self.scales > 20:
            self.refuse(f"n_blocks {self.n_blocks}: must be odd, from 3 to 41")
        if self.n_fft < 1 or self.n_fft % (2 * self.frame_multiple):
            self.refuse(f"n_fft {self.n_fft}: must be a multiple of {2 * self.frame_multiple}")
        if min(self.n_internal_layers, self.hop_length) < 1:
            self.refuse("n_internal_layers and hop_length: 1 at least")
        if self.window_samples <= 2 * self.context_samples:
            self.refuse(f"num_frame {self.num_frame}: nothing is left between a chunk's ends")

    def refuse(self, why: str) -> None:
        """Raise `StemsplitError` with the family's name."""
        raise StemsplitError(f"{self.family}: {why}")

    @property
    def scales(self) -> int:
        """Number of scales below the first."""
        return self.n_blocks // 2

    @property
    def bins(self) -> list[int]:
        """Bins at each scale, that between encoder and decoder included."""
        return [self.n_fft // 2 >> i for i in range(self.scales + 1)]

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


def counted(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """Return how many different numbers the names of tensors have at a place of a pattern."""
    return len({match[1] for name in shapes if (match := re.match(pattern, name))})


def narrowed(bins: int) -> int:
    """Return the units between two linear layers along frequency of which the second has `bins` outputs."""
    return max(bins // BOTTLENECK, NARROWEST)


def normalised(width: int, *layers: nn.Module, activation: Activation = nn.ReLU) -> nn.Sequential:
    """Return layers, each followed by batch normalisation and an activation."""
    return nn.Sequential(
        *(one for layer in layers for one in (layer, nn.BatchNorm2d(width), activation(inplace=True)))
    )


class Convolutions(nn.Module):
    """Densely connected time-frequency convolutions (TFC).

    Args:
        width: of the input.
        out: width of each convolution's output.
        layers: number of convolutions.
        activation: after each of them.
    """

    def __init__(self, width: int, out: int, layers: int, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        self.H = nn.ModuleList(
            normalised(
                out, nn.Conv2d(width + i * out, out, KERNEL, padding=KERNEL // 2), activation=activation
            )
            for i in range(layers)
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
    """Two linear layers along frequency (TDF).

    Args:
        width: of the features.
        bins: of the input.
        out: bins of the output.
        activation: after each layer.
    """

    def __init__(self, width: int, bins: int, out: int, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        narrow = narrowed(out)
        down, up = nn.Linear(bins, narrow, bias=False), nn.Linear(narrow, out, bias=False)
        self.tdf = normalised(width, down, up, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        """[N, W, frames, F] -> [N, W, frames, F']."""
        y: Tensor = self.tdf(x)
        return y


def modulated(x: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Return each item's features times its own matrix, plus offsets (PoCM, section 2.3).

    Args:
        x: [N, W, frames, F].
        matrices: [N, W, W'].
        offsets: [N, W'], or [N, 1] for the same offset of all features.

    Returns:
        [N, W', frames, F].
    """
    products = matrices.transpose(1, 2) @ x.flatten(2)  # [N, W', frames·F]
    y: Tensor = (products + offsets[..., None]).unflatten(2, x.shape[2:])
    return y


class ConditionedUNet(nn.Module):
    """Base of the U-Nets on spectrograms; each halves frames and bins from scale to scale.

    The first convolution joins adjacent bins, F + 1 to F, and the last one undoes that.

    Args:
        a: arguments of the family.
        activation: after the first convolution.
    """

    def __init__(self, a: ConditionedArguments, activation: Activation = nn.ReLU) -> None:
        super().__init__()
        width, parts = a.internal_channels, 2 * a.audio_channels
        self.first_conv = normalised(width, nn.Conv2d(parts, width, (1, 2)), activation=activation)
        self.last_conv = nn.Sequential(nn.Conv2d(width, parts, (1, 2), padding=(0, 1)))
        self.embedding = nn.Embedding(len(a.sources), a.embedding_dim)

    def embedded(self, stems: Sequence[int], batch: int) -> Tensor:
        """Return the embeddings of stems for all items of a batch, [N, embedding_dim]."""
        rows = torch.stack([self.embedding.weight[i] for i in stems])  # [S, embedding_dim]
        return rows.repeat(batch, 1)  # [N, embedding_dim]

    def forward(self, x: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
        """Estimate the spectrograms of stems.

        Args:
            x: [B, 2C, frames, F + 1].
            groups: indices of stems among the sources; the stems of a group are computed together.

        Returns:
            [B, S, 2C, frames, F + 1], in the order of the groups.
        """
        raise TypeError(f"{type(self).__name__} estimates nothing")


class ConditionedNetwork(SpectralNetwork):
    """Maps the mix's complex spectrogram to each stem's, in the middle of chunks.

    Args:
        arguments: of the family.
        unet: what maps the spectrograms.
    """

    arguments: ConditionedArguments

    def __init__(self, arguments: ConditionedArguments, unet: ConditionedUNet) -> None:
        a = arguments
        super().__init__(
            a,
            stems=a.sources,
            sample_rate=a.sample_rate,
            channels=a.audio_channels,
            segment_samples=a.window_samples - 2 * a.context_samples,
            transform=Transform(a.n_fft, a.hop_length),
        )
        self.context_samples = a.context_samples
        self.spec2spec = unet
        ignore_when_loading(self, "stft.stft.window")

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
        y = self.spec2spec(x, groups).float()  # [B, S, 2C, frames, F]
        parts = y.unflatten(2, (2, -1)).transpose(-1, -2)  # [B, S, 2, C, F, frames]
        return torch.complex(parts[:, :, 0], parts[:, :, 1])

    def _whole_frames(self, samples: int) -> int:
        """Return the length, a multiple of `frame_multiple` frames, to which silence continues `samples`.

        The authors' programs hear whole chunks only, so short ones are continued to a chunk.
        """
        a = self.arguments
        chunk = self.padded_samples(self.segment_samples)
        frames = -(-(samples if self.training else max(samples, chunk)) // a.hop_length) + 1
        whole = -(-frames // a.frame_multiple) * a.frame_multiple
        return a.hop_length * (whole - 1)

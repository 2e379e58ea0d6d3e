"""LaSAFT: one U-Net for all stems, told by an embedding of the stem which of them to estimate.

Choi, Kim, Chung, Jung, "LaSAFT: Latent Source Attentive Frequency Transformation for Conditioned Source
Separation" (ICASSP 2021, arXiv 2010.11631): the network with LaSAFT blocks and gated point-wise convolutional
modulation (GPoCM) of its decoder. Names and shapes of the weights are those of its authors' checkpoints
(ws-choi/Conditioned-Source-Separation-LaSAFT), which also hold the window of the transform.

Legend: `B` batch, `S` stems, `C` channels, `W` width of features, `F` bins, `T` samples; `N` counts the items
of a batch, each with its stem: N = B·S.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from stemsplit.models.blocks.conditioned import (
    ConditionedArguments,
    ConditionedNetwork,
    ConditionedUNet,
    Convolutions,
    Frequencies,
    counted,
    modulated,
)


@dataclass(frozen=True, kw_only=True)
class LaSAFTArguments(ConditionedArguments):
    """Arguments of the authors' class; the defaults are those of the released network.

    Of the latent sources, `num_tdfs`, each has linear layers along frequency of its own.

    Attributes:
        control_n_layer: lengths of the embedding, each twice the one before, from which the modulation is
            computed.
    """

    family: ClassVar[str] = "lasaft"

    control_n_layer: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.control_n_layer < 1:
            self.refuse("control_n_layer: 1 at least")

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
            "n_blocks": 2 * counted(shapes, rf"{home}\.encoders\.(\d+)\.") + 1,
            "internal_channels": width,
            "n_internal_layers": counted(shapes, rf"{home}\.encoders\.0\.tfc\.H\.(\d+)\."),
            "num_tdfs": latent,
            "dk": dk,
            "embedding_dim": embedding,
            "control_n_layer": (last // embedding).bit_length(),
            "audio_channels": parts // 2,
        }


class Block(nn.Module):
    """Convolutions, and what the latent sources add to their output, weighted by attention (section 2.2).

    Args:
        width: of the input.
        bins: of input and output.
        a: arguments of the family.
    """

    def __init__(self, width: int, bins: int, a: LaSAFTArguments) -> None:
        super().__init__()
        out = a.internal_channels
        self.tfc = Convolutions(width, out, a.n_internal_layers)
        self.tdfs = Frequencies(out, bins, bins * a.num_tdfs)
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
            x = x * modulated(x, *modulation).sigmoid()
        scores = self.linear_query(embedding) @ self.keys / math.sqrt(len(self.keys))  # [N, latent sources]
        values = self.tdfs(x).reshape(len(x), -1, scores.shape[1])  # [N, W·frames·F, latent sources]
        return x + torch.bmm(values, scores.softmax(1)[..., None]).view(x.shape)


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


class UNet(ConditionedUNet):
    """U-Net whose blocks all know the stem.

    Args:
        a: arguments of the family.
    """

    def __init__(self, a: LaSAFTArguments) -> None:
        super().__init__(a)
        width, bins = a.internal_channels, a.bins
        self.encoders = nn.ModuleList(Block(width, size, a) for size in bins[:-1])
        self.downsamplings = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 2, 2), nn.BatchNorm2d(width)) for _ in bins[:-1]
        )
        self.mid_block = Block(width, bins[-1], a)
        self.upsamplings = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(width, width, 2, 2), nn.BatchNorm2d(width)) for _ in bins[:-1]
        )
        self.decoders = nn.ModuleList(Block(2 * width, size, a) for size in reversed(bins[:-1]))
        self.condition_generator = Controls(a)

    def forward(self, x: Tensor, groups: Sequence[Sequence[int]]) -> Tensor:
        """[B, 2C, frames, F + 1] -> [B, S, 2C, frames, F + 1], see `ConditionedUNet`."""
        return torch.cat([self._together(x, stems) for stems in groups], dim=1)

    def _together(self, x: Tensor, stems: Sequence[int]) -> Tensor:
        """[B, 2C, frames, F + 1] -> [B, S, 2C, frames, F + 1]."""
        batch = len(x)
        embedding = self.embedded(stems, batch)  # [N, embedding_dim]
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


class LaSAFT(ConditionedNetwork):
    """Maps the mix's complex spectrogram to each stem's, in the middle of chunks that don't overlap."""

    Arguments = LaSAFTArguments

    def __init__(self, arguments: LaSAFTArguments) -> None:
        super().__init__(arguments, UNet(arguments))
        self.overlap = 0.0
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)

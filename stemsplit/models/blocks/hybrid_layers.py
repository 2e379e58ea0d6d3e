"""Encoder and decoder layers of Hybrid Demucs, over frequency or over time.

Legend: `B` batch, `C` channels, `F` bins, `T` steps of the layer's input in time (samples or frames).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.errors import StemsplitError


@dataclass(frozen=True)
class LayerPlan:
    """One level of one branch; its encoder and its decoder layer are built from the same plan.

    Attributes:
        outer: channels towards the audio.
        inner: channels towards the middle of the U-Net.
        outputs: channels that the decoder gives: `outer`, and at the outermost level for every stem.
        outermost: the decoder's output is final, without an activation.
        kernel: of the strided convolution.
        stride: of the strided convolution.
        padding: of the strided convolution, on both sides.
        spectral: the strided convolution runs over frequency, otherwise over time.
        bare: only the strided convolution, for a time branch that joins or leaves the spectral one here.
        groups: of the normalisation; 0 for none.
        rewrite: mix channels through a GLU.
        context_encoder: neighbours that the encoder's GLU sees on each side.
        context_decoder: neighbours that the decoder's GLU sees on each side.
        residual: makes the residual branches for that many channels.
        residual_encoder: the encoder has them.
        residual_decoder: the decoder has them.
    """

    outer: int
    inner: int
    outputs: int
    outermost: bool
    kernel: int
    stride: int
    padding: int
    spectral: bool
    bare: bool
    groups: int
    rewrite: bool
    context_encoder: int
    context_decoder: int
    residual: Callable[[int], nn.Module]
    residual_encoder: bool
    residual_decoder: bool

    def norm(self, channels: int) -> nn.Module:
        """Group normalisation or nothing."""
        return nn.GroupNorm(self.groups, channels) if self.groups else nn.Identity()

    def mixer(self, channels: int, context: int, over_bins: bool = True) -> nn.Module:
        """The convolution before a GLU, seeing `context` neighbours on each side in time and in frequency."""
        width = 2 * context + 1
        if not self.spectral:
            return nn.Conv1d(channels, 2 * channels, width, padding=context)
        if not over_bins:
            return nn.Conv2d(channels, 2 * channels, (1, width), padding=(0, context))
        return nn.Conv2d(channels, 2 * channels, width, padding=context)


class HybridLayer(nn.Module):
    """What encoder and decoder layers share.

    Attributes:
        dconv: residual branches over time, or None.
        rewrite: the convolution before the GLU, or None.
    """

    def __init__(self, plan: LayerPlan) -> None:
        super().__init__()
        self.plan = plan
        self.rewrite: nn.Module | None = None
        self.dconv: nn.Module | None = None

    def mix(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The GLU over normalised channels: [B, C, ...] -> [B, C, ...]."""
        if self.rewrite is None:
            return x
        return F.glu(norm(self.rewrite(x)), dim=1)

    def refine(self, x: Tensor) -> Tensor:
        """The residual branches, every bin by itself: [B, C, F, T] or [B, C, T]."""
        if self.dconv is None:
            return x
        if x.dim() == 3:
            out: Tensor = self.dconv(x)
            return out
        rows: Tensor = self.dconv(x.transpose(1, 2).flatten(0, 1))
        return rows.view(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)


class EncoderLayer(HybridLayer):
    """Strided convolution, GELU, residual branches, GLU.

    Args:
        plan: of the level.
        padded: pad the strided convolution as the plan says; otherwise the caller has done so.
    """

    def __init__(self, plan: LayerPlan, *, padded: bool = True) -> None:
        super().__init__(plan)
        padding = plan.padding if padded else 0
        self.conv: nn.Conv1d | nn.Conv2d
        if plan.spectral:
            self.conv = nn.Conv2d(
                plan.outer, plan.inner, (plan.kernel, 1), (plan.stride, 1), padding=(padding, 0)
            )
        else:
            self.conv = nn.Conv1d(plan.outer, plan.inner, plan.kernel, plan.stride, padding=padding)
        if plan.bare:
            return
        self.norm1 = plan.norm(plan.inner)
        if plan.rewrite:
            self.rewrite = plan.mixer(plan.inner, plan.context_encoder)
            self.norm2 = plan.norm(2 * plan.inner)
        if plan.residual_encoder:
            self.dconv = plan.residual(plan.inner)

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """Encode one level.

        Args:
            x: [B, outer, F, T], or over time [B, outer, T], for which [B, outer, 1, T] may stand.
            inject: [B, inner, T], the time branch where it joins.

        Returns:
            [B, inner, F/stride, T], or [B, inner, ⌈T/stride⌉] over time.
        """
        if not self.plan.spectral:
            x = x if x.dim() == 3 else x.flatten(1, 2)
            x = F.pad(x, (0, -x.shape[-1] % self.plan.stride))
        y: Tensor = self.conv(x)
        if self.plan.bare:
            return y
        if inject is not None:
            y = y + inject[:, :, None]
        y = self.refine(F.gelu(self.norm1(y)))
        return self.mix(y, self.norm2) if self.plan.rewrite else y


class DecoderLayer(HybridLayer):
    """GLU over the sum with the skip connection, residual branches, transposed convolution, GELU.

    Args:
        plan: of the level.
        over_bins: the GLU of a spectral layer sees neighbouring bins too.
    """

    def __init__(self, plan: LayerPlan, *, over_bins: bool = True) -> None:
        super().__init__(plan)
        self.kept: list[int] | None = None
        self.conv_tr: nn.ConvTranspose1d | nn.ConvTranspose2d
        if plan.spectral:
            self.conv_tr = nn.ConvTranspose2d(plan.inner, plan.outputs, (plan.kernel, 1), (plan.stride, 1))
        else:
            self.conv_tr = nn.ConvTranspose1d(plan.inner, plan.outputs, plan.kernel, plan.stride)
        self.norm2 = plan.norm(plan.outputs)
        if plan.bare:
            return
        if plan.rewrite:
            self.rewrite = plan.mixer(plan.inner, plan.context_decoder, over_bins)
            self.norm1 = plan.norm(2 * plan.inner)
        if plan.residual_decoder:
            self.dconv = plan.residual(plan.inner)

    def forward(self, x: Tensor | None, skip: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
        """Decode one level.

        Args:
            x: [B, inner, F, T], or [B, inner, T] for a single bin or over time; None for zeros.
            skip: what the encoder's layer gave.
            length: T of the output over time.

        Returns:
            the output, [B, outputs, F·stride, T] or [B, outputs, length], and what the transposed convolution
            was given, [B, inner, F, T] or [B, inner, T].
        """
        y = self.expand(skip if x is None else x.view_as(skip) + skip)
        return self.contract(y, length), y

    def expand(self, x: Tensor) -> Tensor:
        """What the transposed convolution is given: [B, inner, ...] -> [B, inner, ...]."""
        return self.refine(self.mix(x, self.norm1) if self.plan.rewrite else x)

    def contract(self, y: Tensor, length: int) -> Tensor:
        """From there to the output, which `forward` describes."""
        z, padding = self.spread(y), self.plan.padding
        if self.plan.spectral:
            z = z[:, :, padding : z.shape[2] - padding]
        else:
            z = z[..., padding : padding + length]
        return z if self.plan.outermost else F.gelu(z)

    def spread(self, y: Tensor) -> Tensor:
        """The transposed convolution before its margins are cut: [B, outputs, (F − 1)·stride + kernel, T]."""
        if self.kept is None:
            out: Tensor = self.norm2(self.conv_tr(y))
            return out
        if self.plan.groups:
            out = self.norm2(self.conv_tr(y))
            return out[:, self.kept]
        transposed = F.conv_transpose2d if self.plan.spectral else F.conv_transpose1d
        return transposed(y, self.conv_tr.weight[:, self.kept], self.bias(), self.conv_tr.stride)

    def bias(self) -> Tensor | None:
        """Of the transposed convolution, for the channels that are kept: [outputs]."""
        bias = self.conv_tr.bias
        return bias if bias is None or self.kept is None else bias[self.kept]

    def select_outputs(self, channels: list[int]) -> None:
        """Compute only these channels of the output."""
        self.kept = channels


class BandedEncoder(nn.Module):
    """An encoder layer per frequency band (Hybrid Demucs, "Frequency-wise convolutions").

    With equal weights in all bands it is the plain layer, exactly.

    Args:
        plan: of the level.
        ratios: where a band ends and the next begins, as fractions of the bins.
    """

    def __init__(self, plan: LayerPlan, ratios: Sequence[float]) -> None:
        super().__init__()
        self.plan = plan
        self.ratios = tuple(ratios)
        self.layers = nn.ModuleList(EncoderLayer(plan, padded=False) for _ in range(len(ratios) + 1))

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """[B, outer, F, T] -> [B, inner, F/stride, T]; nothing is injected at a banded level."""
        x = F.pad(x, (0, 0, self.plan.padding, self.plan.padding))
        bands = self._bands(x.shape[2])
        return torch.cat([layer(x[:, :, a:b]) for layer, (a, b) in zip(self.layers, bands, strict=True)], 2)

    def _bands(self, bins: int) -> list[tuple[int, int]]:
        """First and last + 1 of the padded bins that each band's convolution reads.

        A band ends where a whole number of strides comes closest to its ratio, and the next one's kernel
        starts one stride after its last.
        """
        plan, start = self.plan, 0
        bands: list[tuple[int, int]] = []
        for ratio in self.ratios:
            border = round((bins - 2 * plan.padding) * ratio) + plan.padding
            steps = round((border - start - plan.kernel) / plan.stride + 1)
            if steps < 1:
                raise StemsplitError(f"multi_freqs {ratio:g}: {bins} bins are too few for such a band")
            bands.append((start, start + (steps - 1) * plan.stride + plan.kernel))
            start += steps * plan.stride
        return [*bands, (start, bins)]


class BandedDecoder(nn.Module):
    """A decoder layer per frequency band, their outputs overlapped and added.

    Args:
        plan: of the level.
        ratios: where a band ends and the next begins, as fractions of the bins.
    """

    def __init__(self, plan: LayerPlan, ratios: Sequence[float]) -> None:
        super().__init__()
        self.plan = plan
        self.ratios = tuple(ratios)
        self.layers = nn.ModuleList(DecoderLayer(plan, over_bins=False) for _ in range(len(ratios) + 1))

    def forward(self, x: Tensor, skip: Tensor, length: int) -> tuple[Tensor, None]:
        """[B, inner, F, T], and the skip connection -> [B, outputs, F·stride, T]; no time branch leaves."""
        edges = [0, *(round(x.shape[2] * ratio) for ratio in self.ratios), x.shape[2]]
        z = self._spread(x + skip, edges)
        z = z[:, :, self.plan.padding : z.shape[2] - self.plan.padding]
        return (z if self.plan.outermost else F.gelu(z)), None

    def _spread(self, x: Tensor, edges: list[int]) -> Tensor:
        """All bands, joined where their kernels overlap, each bias counted once."""
        seam = self.plan.kernel - self.plan.stride
        pieces: list[Tensor] = []
        layer: Any
        for layer, start, stop in zip(self.layers, edges, edges[1:], strict=False):
            z = layer.spread(layer.expand(x[:, :, start:stop]))
            if pieces:
                before = pieces.pop()
                bias = layer.bias()[:, None, None]
                pieces += [
                    before[:, :, :-seam],
                    before[:, :, -seam:] + (z[:, :, :seam] - bias),
                    z[:, :, seam:],
                ]
            else:
                pieces.append(z)
        return torch.cat(pieces, dim=2)

    def select_outputs(self, channels: list[int]) -> None:
        """Compute only these channels of the output."""
        layer: Any
        for layer in self.layers:
            layer.select_outputs(channels)

"""Encoder and decoder layers of Hybrid Demucs, over frequency or over time.

Défossez 2021; `HEncLayer`, `HDecLayer` and `MultiWrap` of demucs 4.1.0, hdemucs.py.

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
    """Plan of a level of one branch, from which its encoder and its decoder layer are built.

    Attributes:
        outer: channels on the side of the audio.
        inner: channels on the side of the bottleneck.
        outputs: channels of the decoder's output; `outer`, times the stems at the outermost level.
        outermost: the decoder's output has no activation.
        kernel: of the strided convolution.
        stride: of the strided convolution.
        padding: of the strided convolution, on both sides.
        spectral: the strided convolution runs over frequency rather than over time.
        bare: only the strided convolution, for a time branch that joins or leaves the spectral one here.
        groups: of the normalisation; 0 for none.
        rewrite: mix channels through a GLU.
        context_encoder: neighbours on each side that the encoder's GLU sees.
        context_decoder: neighbours on each side that the decoder's GLU sees.
        residual: makes the residual branches for a number of channels.
        residual_encoder: the encoder has residual branches.
        residual_decoder: the decoder has residual branches.
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
        """Make a group normalisation, or an identity."""
        return nn.GroupNorm(self.groups, channels) if self.groups else nn.Identity()

    def mixer(self, channels: int, context: int, over_bins: bool = True) -> nn.Module:
        """Make the convolution before a GLU, with `context` neighbours on each side in time and frequency."""
        width = 2 * context + 1
        if not self.spectral:
            return nn.Conv1d(channels, 2 * channels, width, padding=context)
        if not over_bins:
            return nn.Conv2d(channels, 2 * channels, (1, width), padding=(0, context))
        return nn.Conv2d(channels, 2 * channels, width, padding=context)


class HybridLayer(nn.Module):
    """Base of encoder and decoder layers.

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
        """Mix channels through the GLU: [B, C, ...] -> [B, C, ...]."""
        if self.rewrite is None:
            return x
        return F.glu(norm(self.rewrite(x)), dim=1)  # [B, 2C, ...] -> [B, C, ...]

    def refine(self, x: Tensor) -> Tensor:
        """Apply the residual branches, to every bin by itself: [B, C, F, T] or [B, C, T]; the shape stays."""
        if self.dconv is None:
            return x
        if x.dim() == 3:
            out: Tensor = self.dconv(x)
            return out
        rows: Tensor = self.dconv(x.transpose(1, 2).flatten(0, 1))  # [B·F, C, T]
        return rows.view(x.shape[0], x.shape[2], x.shape[1], x.shape[3]).transpose(1, 2)  # [B, C, F, T]


class EncoderLayer(HybridLayer):
    """Strided convolution, GELU, residual branches, GLU.

    Args:
        plan: of the level.
        padded: pad the strided convolution as planned; otherwise the caller has done so.
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
            x: [B, outer, F, T], or over time [B, outer, T] or [B, outer, 1, T].
            inject: output of the time branch if it joins here, [B, inner, T].

        Returns:
            [B, inner, F/stride, T], or [B, inner, ⌈T/stride⌉] over time.
        """
        if not self.plan.spectral:
            x = x if x.dim() == 3 else x.flatten(1, 2)  # [B, outer, T]
            x = F.pad(x, (0, -x.shape[-1] % self.plan.stride))  # a whole number of strides
        y: Tensor = self.conv(x)
        if self.plan.bare:
            return y
        if inject is not None:
            y = y + inject[:, :, None]  # [B, inner, 1, T]: only one bin is left where the branches join
        y = self.refine(F.gelu(self.norm1(y)))
        return self.mix(y, self.norm2) if self.plan.rewrite else y


class DecoderLayer(HybridLayer):
    """GLU over the sum with the skip connection, residual branches, transposed convolution, GELU.

    Args:
        plan: of the level.
        over_bins: the GLU of a spectral layer sees neighbouring bins, too.
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
            skip: output of the encoder's layer.
            length: T of the output over time.

        Returns:
            the output, [B, outputs, F·stride, T] or [B, outputs, length], and the input of the transposed
            convolution, [B, inner, F, T] or [B, inner, T].
        """
        # A bottleneck over time gives [B, inner, T] for a skip connection [B, inner, 1, T].
        y = self.expand(skip if x is None else x.view_as(skip) + skip)
        return self.contract(y, length), y

    def expand(self, x: Tensor) -> Tensor:
        """Return the input of the transposed convolution: [B, inner, ...] -> [B, inner, ...]."""
        return self.refine(self.mix(x, self.norm1) if self.plan.rewrite else x)

    def contract(self, y: Tensor, length: int) -> Tensor:
        """Return the output of `forward` from the transposed convolution's input, without the padding."""
        z, padding = self.spread(y), self.plan.padding
        if self.plan.spectral:
            z = z[:, :, padding : z.shape[2] - padding]  # [B, outputs, F·stride, T]
        else:
            z = z[..., padding : padding + length]  # [B, outputs, length]
        return z if self.plan.outermost else F.gelu(z)

    def spread(self, y: Tensor) -> Tensor:
        """Apply the transposed convolution, padding included: [B, outputs, (F − 1)·stride + kernel, T]."""
        if self.kept is None:
            out: Tensor = self.norm2(self.conv_tr(y))
            return out
        if self.plan.groups:  # the statistics are those of all channels
            out = self.norm2(self.conv_tr(y))
            return out[:, self.kept]
        transposed = F.conv_transpose2d if self.plan.spectral else F.conv_transpose1d
        return transposed(y, self.conv_tr.weight[:, self.kept], self.bias(), self.conv_tr.stride)

    def bias(self) -> Tensor | None:
        """Return the transposed convolution's bias of the channels that are kept, [outputs]."""
        bias = self.conv_tr.bias
        return bias if bias is None or self.kept is None else bias[self.kept]

    def select_outputs(self, channels: list[int]) -> None:
        """Compute only these channels of the output."""
        self.kept = channels


class BandedEncoder(nn.Module):
    """Encoder layer with weights of its own in each frequency band.

    Hybrid Demucs, "Frequency-wise convolutions". With equal weights in all bands it equals `EncoderLayer`.

    Args:
        plan: of the level.
        ratios: edges between the bands, as fractions of the bins.
    """

    def __init__(self, plan: LayerPlan, ratios: Sequence[float]) -> None:
        super().__init__()
        self.plan = plan
        self.ratios = tuple(ratios)
        self.layers = nn.ModuleList(EncoderLayer(plan, padded=False) for _ in range(len(ratios) + 1))

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """[B, outer, F, T] -> [B, inner, F/stride, T]; `inject` is ignored, the branches join further in."""
        x = F.pad(x, (0, 0, self.plan.padding, self.plan.padding))
        bands = self._bands(x.shape[2])
        # [B, inner, F/stride, T]
        return torch.cat([layer(x[:, :, a:b]) for layer, (a, b) in zip(self.layers, bands, strict=True)], 2)

    def _bands(self, bins: int) -> list[tuple[int, int]]:
        """Return the range of padded bins that each band's convolution reads, as first and last + 1.

        A band ends where a whole number of strides comes closest to its ratio. The first kernel of the next
        band is one stride after the last one of this band.
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
    """Decoder layer with weights of its own in each frequency band, whose outputs are overlapped and added.

    Args:
        plan: of the level.
        ratios: edges between the bands, as fractions of the bins.
    """

    def __init__(self, plan: LayerPlan, ratios: Sequence[float]) -> None:
        super().__init__()
        self.plan = plan
        self.ratios = tuple(ratios)
        self.layers = nn.ModuleList(DecoderLayer(plan, over_bins=False) for _ in range(len(ratios) + 1))

    def forward(self, x: Tensor, skip: Tensor, length: int) -> tuple[Tensor, None]:
        """[B, inner, F, T] and the skip connection -> [B, outputs, F·stride, T]."""
        edges = [0, *(round(x.shape[2] * ratio) for ratio in self.ratios), x.shape[2]]
        z = self._spread(x + skip, edges)
        z = z[:, :, self.plan.padding : z.shape[2] - self.plan.padding]  # [B, outputs, F·stride, T]
        return (z if self.plan.outermost else F.gelu(z)), None

    def _spread(self, x: Tensor, edges: list[int]) -> Tensor:
        """Decode all bands and add their outputs where the kernels overlap: [B, outputs, ·, T]."""
        seam = self.plan.kernel - self.plan.stride
        pieces: list[Tensor] = []
        layer: Any
        for layer, start, stop in zip(self.layers, edges, edges[1:], strict=False):
            z = layer.spread(layer.expand(x[:, :, start:stop]))
            if pieces:
                before = pieces.pop()
                bias = layer.bias()[:, None, None]  # in both overlapping outputs, but to be added once
                pieces += [
                    before[:, :, :-seam],
                    before[:, :, -seam:] + (z[:, :, :seam] - bias),
                    z[:, :, seam:],
                ]
            else:
                pieces.append(z)
        return torch.cat(pieces, dim=2)  # [B, outputs, (F − 1)·stride + kernel, T]

    def select_outputs(self, channels: list[int]) -> None:
        """Compute only these channels of the output."""
        layer: Any
        for layer in self.layers:
            layer.select_outputs(channels)

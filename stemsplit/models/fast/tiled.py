"""Layers of Hybrid Demucs for inference on a CPU: channels last in memory, in tiles of a few bins.

A layer's intermediate results are several times larger than a core's cache. Computed tile by tile they stay
in it; only group normalisation and layers over time need all bins at once. With channels last, convolutions
need no copies of their inputs, and a bin's frames are adjacent in memory, so that residual branches over time
take them without a copy, too.

All tensors are [B, C, F, T] (`B` batch, `C` channels, `F` bins, `T` frames or samples); layers over time have
F = 1.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.conv import DConv
from stemsplit.models.blocks.hybrid_layers import (
    BandedDecoder,
    BandedEncoder,
    DecoderLayer,
    EncoderLayer,
    HybridLayer,
)
from stemsplit.models.fast.packed import PackedGLU
from stemsplit.models.fast.winograd import WinogradConvolution

TILE_BYTES = 2**21  # about the size of a core's own (L2) cache
AnyConv = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


def channels_last(x: Tensor) -> Tensor:
    """Return [B, C, F, T] with its channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def with_bins(x: Tensor) -> Tensor:
    """Return [B, C, T] as [B, C, 1, T]; [B, C, F, T] stays."""
    return x if x.dim() == 4 else x.unsqueeze(2)


def empty_channels_last(batch: int, channels: int, bins: int, steps: int, like: Tensor) -> Tensor:
    """Allocate [B, C, F, T], channels last in memory."""
    return like.new_empty(batch, bins, steps, channels).permute(0, 3, 1, 2)  # [B, C, F, T]


def gelu_(x: Tensor) -> Tensor:
    """Apply GELU in place."""
    out: Tensor = torch.ops.aten.gelu_(x)
    return out


def bins_of(x: Tensor, start: int, stop: int) -> Tensor:
    """Return bins start … stop − 1 of [B, C, F, T], zeros beyond both ends: [B, C, stop − start, T]."""
    below, above = max(0, -start), max(0, stop - x.shape[2])
    inside = x[:, :, max(0, start) : stop]
    return F.pad(inside, (0, 0, below, above)) if below or above else inside


def tiles(bins: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the tiles of `size` bins, as first and last + 1."""
    for start in range(0, bins, size):
        yield start, min(bins, start + size)


class Convolution(nn.Module):
    """Convolution of [B, C, F, T] over time, frequency or both, with weights in channels-last layout.

    Args:
        conv: to take the weights and the geometry from.
        outputs: channels of a transposed convolution to compute, None for all.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: AnyConv, outputs: list[int] | None = None) -> None:
        super().__init__()
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        if outputs is not None:
            weight, bias = weight[:, outputs], None if bias is None else bias[outputs]
        self.weight, self.bias = channels_last(with_bins(weight)), bias
        over_time = conv.weight.dim() == 3
        self.stride = (1, *conv.stride) if over_time else conv.stride
        self.dilation = (1, *conv.dilation) if over_time else conv.dilation
        self.padding = (0, cast(int, conv.padding[-1]))  # over bins, `bins_of` pads the tiles

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, F, T] -> [B, outputs, F', T']."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def transposed(self, x: Tensor) -> Tensor:
        """Apply it transposed, padding kept: [B, inputs, F, T] -> [B, outputs, F', T']."""
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride)


LONG = 1024  # steps; the moments of more of them are added up in float64


class TiledBranch(nn.Module):
    """Residual branch of `DConv`, over the frames of every bin.

    The branch ends in y = W h + b, a normalisation of y over channels and time, and a GLU. The statistics of
    y follow from those of the much smaller h. With μ and Σ, mean and covariance of h over time, the mean of y
    is that of v = W μ + b over the channels; its variance is the variance of v plus the mean of wᵀ Σ w over
    the rows w of W. With m, the mean, and r = 1/√(variance + ε), the normalised y is linear in r h, r and
    −r m, so one linear layer with constant weights computes it.

    Args:
        branch: to take the weights from.
    """

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        layers: list[Any] = list(branch)
        narrow, self.norm_in, _, *inner, widen, norm, _, layer_scale = layers  # _: GELU and GLU
        self.narrow = Convolution(narrow)
        self.inner = nn.Sequential(*inner)
        self.weight, self.bias, self.eps = widen.weight.detach()[..., 0], widen.bias.detach(), norm.eps
        # The mean of wᵀ Σ w over the rows of W is the sum of the entries of Σ ∘ (WᵀW), divided by the rows.
        self.gram = self.weight.t() @ self.weight / len(self.weight)  # [hidden, hidden]
        factor = norm.weight.detach()[:, None]
        # γ (y − m) r + β = γW (r h) + γb r + γ (−r m) + β
        joint = torch.cat([factor * self.weight, factor * self.bias[:, None], factor], dim=1)  # [2C, ·]
        self.widen = PackedGLU(joint, norm.bias, scale=layer_scale.scale)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] -> [N, T, C]."""
        h = self.narrow(x.transpose(1, 2).unsqueeze(2)).squeeze(2)  # [N, C, 1, T] -> [N, hidden, T]
        # Contiguous: channels last, PyTorch's norm adds up in plain single precision, too roughly for long h.
        h = gelu_(self.norm_in(h.contiguous()))
        if len(self.inner):
            h = self.inner(h)
        out: Tensor = self.widen(self._standardised(h.transpose(1, 2)))  # [N, T, C]
        return out.add_(x)

    def _standardised(self, h: Tensor) -> Tensor:
        """Return (r h, r, −r m) of every bin: [N, T, hidden] -> [N, T, hidden + 2]."""
        # In fp32 the running sums of matrix products over 86 000 steps leave an accuracy of 50 dB only.
        precise = h.double() if h.shape[1] > LONG else h
        mean = precise.mean(dim=1)  # μ, [N, hidden]
        moments = precise.transpose(1, 2) @ precise / h.shape[1]  # [N, hidden, hidden]
        mu, covariance = mean.to(h.dtype), (moments - mean[:, :, None] * mean[:, None]).to(h.dtype)
        between, m = torch.var_mean(F.linear(mu, self.weight, self.bias), dim=1, correction=0)  # of v, [N]
        variance = between + (covariance * self.gram).sum(dim=(1, 2))  # [N]
        r = torch.rsqrt(variance + self.eps)[:, None, None]  # [N, 1, 1]
        constants = torch.cat([r, -r * m[:, None, None]], dim=2).expand(-1, h.shape[1], -1)  # [N, T, 2]
        return torch.cat([h * r, constants], dim=2)  # [N, T, hidden + 2]


class TiledLayer(nn.Module):
    """Base of encoder and decoder layers.

    Args:
        layer: to take the weights from.

    Attributes:
        context: bins on each side that its GLU sees.
    """

    def __init__(self, layer: HybridLayer) -> None:
        super().__init__()
        self.plan = layer.plan
        self.mixer: nn.Module | None = None
        self.context = 0
        if layer.rewrite is not None:
            mixer = Convolution(cast(nn.Conv2d, layer.rewrite))
            self.context = mixer.weight.shape[2] // 2
            # Without neighbours and normalisation, convolution and GLU are one packed linear layer.
            if mixer.weight[0, 0].numel() == 1 and not layer.plan.groups:
                self.mixer = PackedGLU(mixer.weight[..., 0, 0], cast(Tensor, mixer.bias))
            elif mixer.padding == (0, 1) and mixer.weight.shape[-1] == 3:
                self.mixer = WinogradConvolution(mixer.weight, cast(Tensor, mixer.bias))
            else:
                self.mixer = mixer
        self.branches = nn.Sequential()
        if layer.dconv is not None:
            branches = cast(DConv, layer.dconv).layers
            self.branches = nn.Sequential(*(TiledBranch(cast(nn.Sequential, branch)) for branch in branches))

    def tile(self, x: Tensor, bins: int) -> int:
        """Return the number of bins per tile for a layer of `bins` bins with the input x, [B, ·, ·, T]."""
        if self.plan.groups:  # normalised over all bins
            return bins
        return max(1, TILE_BYTES // (x.element_size() * self.plan.inner * x.shape[0] * x.shape[-1]))

    def mix(self, x: Tensor, norm: nn.Module) -> Tensor:
        """Mix channels through the GLU: [B, C, F + 2·context, T] -> [B, C, F, T]."""
        if self.mixer is None:
            return x
        if isinstance(self.mixer, PackedGLU):
            out: Tensor = self.mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # [B, C, F, T]
            return out
        mixed: Tensor = norm(self.mixer(x))
        return F.glu(mixed, dim=1)

    def refine(self, x: Tensor) -> Tensor:
        """Apply the residual branches: [B, C, F, T] -> [B, C, F, T]."""
        if not len(self.branches):
            return x
        rows: Tensor = self.branches(x.permute(0, 2, 3, 1).flatten(0, 1))  # [B·F, T, C]
        return rows.view(x.shape[0], x.shape[2], *rows.shape[1:]).permute(0, 3, 1, 2)  # [B, C, F, T]


class TiledEncoder(TiledLayer):
    """`EncoderLayer` for inference.

    Args:
        layer: to take the weights from; its GLU sees no neighbouring bins.
    """

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__(layer)
        self.conv = Convolution(layer.conv)
        self.margin = cast(int, layer.conv.padding[0])
        self.norm1, self.norm2 = (getattr(layer, name, nn.Identity()) for name in ("norm1", "norm2"))

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """Encode one level, as `EncoderLayer.forward`."""
        x = channels_last(with_bins(x))
        if not self.plan.spectral:
            y = self._encode(F.pad(x, (0, -x.shape[-1] % self.plan.stride)), inject)
            return y.squeeze(2)  # [B, inner, T/stride]
        plan = self.plan
        bins = (x.shape[2] + 2 * self.margin - plan.kernel) // plan.stride + 1
        out = empty_channels_last(x.shape[0], plan.inner, bins, x.shape[-1], like=x)
        for start, stop in tiles(bins, self.tile(x, bins)):
            # Output bins start … stop − 1 read (n − 1)·stride + kernel input bins from `first` on.
            first = start * plan.stride - self.margin
            seen = bins_of(x, first, first + (stop - start - 1) * plan.stride + plan.kernel)
            out[:, :, start:stop] = self._encode(seen, inject)
        return out

    def _encode(self, x: Tensor, inject: Tensor | None) -> Tensor:
        """Apply the layer to a tile, or to all bins: [B, outer, F, T] -> [B, inner, F', T]."""
        y: Tensor = self.conv(x)
        if self.plan.bare:
            return y
        if inject is not None:
            y = y + inject[:, :, None]  # [B, inner, 1, T]
        return self.mix(self.refine(gelu_(self.norm1(y))), self.norm2)


class TiledDecoder(TiledLayer):
    """`DecoderLayer` for inference.

    Args:
        layer: to take the weights from.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__(layer)
        self.conv_tr = Convolution(layer.conv_tr, layer.kept)
        self.norm1, self.norm2 = getattr(layer, "norm1", nn.Identity()), layer.norm2

    def forward(self, x: Tensor | None, skip: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
        """Decode one level, as `DecoderLayer.forward`; with several tiles the second result is None."""
        x = None if x is None else channels_last(with_bins(x.view_as(skip)))  # [B, inner, F, T]
        skip = channels_last(with_bins(skip))
        bins = skip.shape[2]
        size = self.tile(skip, bins) if self.plan.spectral else bins
        pieces = (self._expand(x, skip, start, stop) for start, stop in tiles(bins, size))
        if size < bins:
            return self._spread(pieces, skip, bins), None
        y = next(pieces)
        if not self.plan.spectral:
            return self.contract(y.squeeze(2), length), None  # y: [B, inner, T]
        return self._spread(iter([y]), skip, bins), y

    def contract(self, y: Tensor, length: int) -> Tensor:
        """Return the output over time from the transposed convolution's input: [B, outputs, length]."""
        z = self.spread(channels_last(with_bins(y))).squeeze(2)  # [B, inner, T] -> [B, outputs, T']
        z = z[..., self.plan.padding : self.plan.padding + length]
        return z if self.plan.outermost else gelu_(z)

    def expand(self, x: Tensor) -> Tensor:
        """Return the transposed convolution's input for all bins: [B, inner, F, T] -> [B, inner, F, T]."""
        return self._expand(None, channels_last(x), 0, x.shape[2])

    def spread(self, y: Tensor) -> Tensor:
        """Apply the transposed convolution: [B, inner, F, T] -> [B, outputs, (F − 1)·stride + kernel, T]."""
        out: Tensor = self.norm2(self.conv_tr.transposed(y))
        return out

    def bias(self) -> Tensor:
        """Return the bias of the transposed convolution, [outputs]."""
        return cast(Tensor, self.conv_tr.bias)

    def _expand(self, x: Tensor | None, skip: Tensor, start: int, stop: int) -> Tensor:
        """Return the transposed convolution's input for bins start … stop − 1, [B, inner, ·, T]."""
        first, end = start - self.context, stop + self.context
        seen = bins_of(skip, first, end)
        if x is not None:
            seen = seen + bins_of(x, first, end)
        return self.refine(self.mix(seen, self.norm1))

    def _spread(self, pieces: Iterator[Tensor], like: Tensor, bins: int) -> Tensor:
        """Return the output over frequency, from the tiles of the transposed convolution's input."""
        plan = self.plan
        height = (bins - 1) * plan.stride + plan.kernel - 2 * plan.padding
        out = empty_channels_last(len(like), self.conv_tr.weight.shape[1], height, like.shape[-1], like=like)
        position = -plan.padding  # of the next rows in the output; the padding is cut off
        for z in self._joined(pieces):
            start, stop = max(0, position), min(height, position + z.shape[2])
            inside = z[:, :, start - position : stop - position]
            out[:, :, start:stop] = inside if plan.outermost else gelu_(inside)
            position += z.shape[2]
        return out

    def _joined(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """Yield the transposed convolutions of the tiles, overlapped and added, without gaps."""
        seam = self.plan.kernel - self.plan.stride  # bins that two tiles share
        carried: Tensor | None = None
        for y in pieces:
            z = self.spread(y)
            if carried is not None:
                z[:, :, :seam] += carried - self.bias()[:, None, None]  # the bias is in both: subtract one
            whole = z.shape[2] - seam
            yield z[:, :, :whole]
            carried = z[:, :, whole:]
        if carried is not None:
            yield carried


class OverTime(nn.Module):
    """Sequence of layers over time, channels last in memory.

    Args:
        layers: convolutions, residual branches, activations and normalisations of [B, C, T].
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.Sequential(*map(_over_single_bin, layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T']."""
        out: Tensor = self.layers(channels_last(with_bins(x)))
        return out.squeeze(2)  # [B, C', 1, T'] -> [B, C', T']


class Transposed(Convolution):
    """Transposed convolution as a layer of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, F, T] -> [B, outputs, F', T']."""
        return self.transposed(x)


class Branches(nn.Module):
    """`DConv` for [B, C, 1, T].

    Args:
        dconv: to take the weights from.
    """

    def __init__(self, dconv: DConv) -> None:
        super().__init__()
        self.branches = nn.Sequential(*(TiledBranch(cast(nn.Sequential, branch)) for branch in dconv.layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, T] -> [B, C, 1, T]."""
        rows: Tensor = self.branches(x.squeeze(2).transpose(1, 2))  # [B, T, C]
        return rows.transpose(1, 2).unsqueeze(2)  # [B, C, 1, T]


def _over_single_bin(layer: nn.Module) -> nn.Module:
    """Return a layer of [B, C, T] as one of [B, C, 1, T]."""
    if isinstance(layer, nn.ConvTranspose1d):
        return Transposed(layer)
    if isinstance(layer, nn.Conv1d):
        return Convolution(layer)
    return Branches(layer) if isinstance(layer, DConv) else layer


def tiled(layer: nn.Module) -> nn.Module:
    """Return a layer of Hybrid Demucs for inference; unchanged if no faster one exists."""
    if isinstance(layer, BandedEncoder | BandedDecoder):
        for index, band in enumerate(layer.layers):
            layer.layers[index] = tiled(band)
        return layer
    if isinstance(layer, EncoderLayer) and not (layer.plan.spectral and layer.plan.context_encoder):
        return TiledEncoder(layer)
    if isinstance(layer, DecoderLayer) and not (layer.plan.groups and layer.kept):
        return TiledDecoder(layer)
    return layer

"""The layers of Hybrid Demucs for inference on a CPU: channels last in memory, a few bins at a time.

A layer's intermediate results are several times larger than a cache. Computed band by band of frequency they
stay in it; only normalisation over all bins, and everything over time alone, needs them whole. With channels
last, convolutions need no copies of what they are given, and a bin's frames lie together, so that residual
branches over time take them as they are.

All tensors within are [B, C, F, T]; a layer over time alone has F = 1.
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

CACHED_BYTES = 2**21  # of a tile, about what a core's own cache holds
AnyConv = nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d


def last(x: Tensor) -> Tensor:
    """[B, C, F, T] with its channels last in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def four(x: Tensor) -> Tensor:
    """[B, C, T] as [B, C, 1, T]; what has four dimensions stays."""
    return x if x.dim() == 4 else x.unsqueeze(2)


def new(batch: int, channels: int, bins: int, steps: int, like: Tensor) -> Tensor:
    """Memory for [B, C, F, T], channels last."""
    return like.new_empty(batch, bins, steps, channels).permute(0, 3, 1, 2)


def gelu_(x: Tensor) -> Tensor:
    """GELU in place."""
    out: Tensor = torch.ops.aten.gelu_(x)
    return out


def bins_of(x: Tensor, start: int, stop: int) -> Tensor:
    """The bins from `start` to before `stop` of [B, C, F, T], zeros beyond both ends."""
    below, above = max(0, -start), max(0, stop - x.shape[2])
    inside = x[:, :, max(0, start) : stop]
    return F.pad(inside, (0, 0, below, above)) if below or above else inside


def tiles(bins: int, size: int) -> Iterator[tuple[int, int]]:
    """First and last + 1 of every `size` bins."""
    for start in range(0, bins, size):
        yield start, min(bins, start + size)


class Convolution(nn.Module):
    """A convolution over time, over frequency or both, of [B, C, F, T].

    Args:
        conv: its weights and geometry.
        outputs: the channels of a transposed convolution to compute, None for all.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, conv: AnyConv, outputs: list[int] | None = None) -> None:
        super().__init__()
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        if outputs is not None:
            weight, bias = weight[:, outputs], None if bias is None else bias[outputs]
        self.weight, self.bias = last(four(weight)), bias
        over_time = conv.weight.dim() == 3
        self.stride = (1, *conv.stride) if over_time else conv.stride
        self.dilation = (1, *conv.dilation) if over_time else conv.dilation
        self.padding = (0, cast(int, conv.padding[-1]))  # bins are padded by whoever cuts the tiles

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, F, T] -> [B, outputs, F', T']."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)

    def transposed(self, x: Tensor) -> Tensor:
        """Its opposite, without any margin cut off: [B, inputs, F, T] -> [B, outputs, F', T']."""
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride)


_LONG = 1024  # samples that single precision adds up well, in whatever order


class TiledBranch(nn.Module):
    """A residual branch of `DConv`, over every bin's frames.

    The branch ends in y = W h + b, a normalisation of y over channels and time, and a GLU. The statistics of
    y follow from those of the much smaller h: its mean is that of v = W μ + b over the channels, μ being the
    mean of h over time; its variance is that of v plus the mean of wᵀ Σ w over the rows w of W, Σ being the
    covariance of h. With r = 1/√(variance + ε) and m = the mean, the normalised y is linear in
    (r h, r, −r m), so that a single layer of constant weights gives it.

    Args:
        branch: what it computes.
    """

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        layers: list[Any] = list(branch)
        narrow, self.norm_in, _, *inner, widen, norm, _, layer_scale = layers
        self.narrow = Convolution(narrow)
        self.inner = nn.Sequential(*inner)
        self.weight, self.bias, self.eps = widen.weight.detach()[..., 0], widen.bias.detach(), norm.eps
        self.gram = self.weight.t() @ self.weight / len(self.weight)
        factor = norm.weight.detach()[:, None]
        joint = torch.cat([factor * self.weight, factor * self.bias[:, None], factor], dim=1)
        self.widen = PackedGLU(joint, norm.bias, scale=layer_scale.scale)

    def forward(self, x: Tensor) -> Tensor:
        """[N, T, C] -> [N, T, C]."""
        h = self.narrow(x.transpose(1, 2).unsqueeze(2)).squeeze(2)
        # PyTorch sums with channels last in plain single precision, too roughly for long h
        h = gelu_(self.norm_in(h.contiguous()))
        if len(self.inner):
            h = self.inner(h)
        out: Tensor = self.widen(self._standardised(h.transpose(1, 2)))
        return out.add_(x)

    def _standardised(self, h: Tensor) -> Tensor:
        """(r h, r, −r m) for every bin: [N, T, hidden] -> [N, T, hidden + 2]."""
        # Matrix products that add up one by one leave 50 dB of the 86 000 samples of a layer over time.
        precise = h.double() if h.shape[1] > _LONG else h
        mean = precise.mean(dim=1)
        moments = precise.transpose(1, 2) @ precise / h.shape[1]  # [N, hidden, hidden]
        mu, covariance = mean.to(h.dtype), (moments - mean[:, :, None] * mean[:, None]).to(h.dtype)
        between, m = torch.var_mean(F.linear(mu, self.weight, self.bias), dim=1, correction=0)
        variance = between + (covariance * self.gram).sum(dim=(1, 2))
        r = torch.rsqrt(variance + self.eps)[:, None, None]
        constants = torch.cat([r, -r * m[:, None, None]], dim=2).expand(-1, h.shape[1], -1)
        return torch.cat([h * r, constants], dim=2)


class TiledLayer(nn.Module):
    """The parts that encoder and decoder layers share.

    Args:
        layer: what it computes.

    Attributes:
        context: bins on each side that its GLU looks at.
    """

    def __init__(self, layer: HybridLayer) -> None:
        super().__init__()
        self.plan = layer.plan
        self.mixer: nn.Module | None = None
        self.context = 0
        if layer.rewrite is not None:
            mixer = Convolution(cast(nn.Conv2d, layer.rewrite))
            self.context = mixer.weight.shape[2] // 2
            pointwise = mixer.weight[0, 0].numel() == 1 and not layer.plan.groups
            self.mixer = PackedGLU(mixer.weight[..., 0, 0], cast(Tensor, mixer.bias)) if pointwise else mixer
        self.branches = nn.Sequential()
        if layer.dconv is not None:
            branches = cast(DConv, layer.dconv).layers
            self.branches = nn.Sequential(*(TiledBranch(cast(nn.Sequential, branch)) for branch in branches))

    def tile(self, x: Tensor, bins: int) -> int:
        """Return the number of a layer's `bins` to compute at a time, x [B, ·, ·, T] being its input."""
        if self.plan.groups:
            return bins
        return max(1, CACHED_BYTES // (x.element_size() * self.plan.inner * x.shape[0] * x.shape[-1]))

    def mix(self, x: Tensor, norm: nn.Module) -> Tensor:
        """The GLU, of bins that have their context: [B, C, F + 2 context, T] -> [B, C, F, T]."""
        if self.mixer is None:
            return x
        if isinstance(self.mixer, PackedGLU):
            out: Tensor = self.mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            return out
        mixed: Tensor = norm(self.mixer(x))
        return F.glu(mixed, dim=1)

    def refine(self, x: Tensor) -> Tensor:
        """The residual branches: [B, C, F, T] -> [B, C, F, T]."""
        if not len(self.branches):
            return x
        rows: Tensor = self.branches(x.permute(0, 2, 3, 1).flatten(0, 1))
        return rows.view(x.shape[0], x.shape[2], *rows.shape[1:]).permute(0, 3, 1, 2)


class TiledEncoder(TiledLayer):
    """`EncoderLayer` for inference.

    Args:
        layer: what it computes; its GLU sees no neighbouring bins.
    """

    def __init__(self, layer: EncoderLayer) -> None:
        super().__init__(layer)
        self.conv = Convolution(layer.conv)
        self.margin = cast(int, layer.conv.padding[0])
        self.norm1, self.norm2 = (getattr(layer, name, nn.Identity()) for name in ("norm1", "norm2"))

    def forward(self, x: Tensor, inject: Tensor | None = None) -> Tensor:
        """As `EncoderLayer`."""
        x = last(four(x))
        if not self.plan.spectral:
            y = self._encode(F.pad(x, (0, -x.shape[-1] % self.plan.stride)), inject)
            return y.squeeze(2)
        plan = self.plan
        bins = (x.shape[2] + 2 * self.margin - plan.kernel) // plan.stride + 1
        out = new(x.shape[0], plan.inner, bins, x.shape[-1], like=x)
        for start, stop in tiles(bins, self.tile(x, bins)):
            first = start * plan.stride - self.margin
            seen = bins_of(x, first, first + (stop - start - 1) * plan.stride + plan.kernel)
            out[:, :, start:stop] = self._encode(seen, inject)
        return out

    def _encode(self, x: Tensor, inject: Tensor | None) -> Tensor:
        """The layer for all the bins that it is given."""
        y: Tensor = self.conv(x)
        if self.plan.bare:
            return y
        if inject is not None:
            y = y + inject[:, :, None]
        return self.mix(self.refine(gelu_(self.norm1(y))), self.norm2)


class TiledDecoder(TiledLayer):
    """`DecoderLayer` for inference.

    Args:
        layer: what it computes.
    """

    def __init__(self, layer: DecoderLayer) -> None:
        super().__init__(layer)
        self.conv_tr = Convolution(layer.conv_tr, layer.kept)
        self.norm1, self.norm2 = getattr(layer, "norm1", nn.Identity()), layer.norm2

    def forward(self, x: Tensor | None, skip: Tensor, length: int) -> tuple[Tensor, Tensor | None]:
        """As `DecoderLayer`; what the transposed convolution was given comes back only of a single tile."""
        x = None if x is None else last(four(x.view_as(skip)))
        skip = last(four(skip))
        bins = skip.shape[2]
        size = self.tile(skip, bins) if self.plan.spectral else bins
        pieces = (self._expand(x, skip, start, stop) for start, stop in tiles(bins, size))
        if size < bins:
            return self._spread(pieces, skip, bins), None
        y = next(pieces)
        if not self.plan.spectral:
            return self.contract(y.squeeze(2), length), None
        return self._spread(iter([y]), skip, bins), y

    def contract(self, y: Tensor, length: int) -> Tensor:
        """As `DecoderLayer`, over time: [B, inner, T] -> [B, outputs, length]."""
        z = self.spread(last(four(y))).squeeze(2)
        z = z[..., self.plan.padding : self.plan.padding + length]
        return z if self.plan.outermost else gelu_(z)

    def expand(self, x: Tensor) -> Tensor:
        """As `DecoderLayer`, for all bins at once: [B, inner, F, T] -> [B, inner, F, T]."""
        return self._expand(None, last(x), 0, x.shape[2])

    def spread(self, y: Tensor) -> Tensor:
        """As `DecoderLayer`: [B, inner, F, T] -> [B, outputs, (F − 1)·stride + kernel, T]."""
        out: Tensor = self.norm2(self.conv_tr.transposed(y))
        return out

    def bias(self) -> Tensor:
        """Return the bias of the transposed convolution: [outputs]."""
        return cast(Tensor, self.conv_tr.bias)

    def _expand(self, x: Tensor | None, skip: Tensor, start: int, stop: int) -> Tensor:
        """Return the transposed convolution's input for the bins from `start` to before `stop`."""
        first, end = start - self.context, stop + self.context
        seen = bins_of(skip, first, end)
        if x is not None:
            seen = seen + bins_of(x, first, end)
        return self.refine(self.mix(seen, self.norm1))

    def _spread(self, pieces: Iterator[Tensor], like: Tensor, bins: int) -> Tensor:
        """The output over frequency, from what the transposed convolution is given tile by tile."""
        plan = self.plan
        height = (bins - 1) * plan.stride + plan.kernel - 2 * plan.padding
        out = new(len(like), self.conv_tr.weight.shape[1], height, like.shape[-1], like=like)
        position = -plan.padding
        for z in self._joined(pieces):
            start, stop = max(0, position), min(height, position + z.shape[2])
            inside = z[:, :, start - position : stop - position]
            out[:, :, start:stop] = inside if plan.outermost else gelu_(inside)
            position += z.shape[2]
        return out

    def _joined(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """Transposed convolutions of tiles, overlapped and added, each bias counted once."""
        seam = self.plan.kernel - self.plan.stride
        carried: Tensor | None = None
        for y in pieces:
            z = self.spread(y)
            if carried is not None:
                z[:, :, :seam] += carried - self.bias()[:, None, None]
            whole = z.shape[2] - seam
            yield z[:, :, :whole]
            carried = z[:, :, whole:]
        if carried is not None:
            yield carried


class OverTime(nn.Module):
    """A sequence of layers over time, channels last in memory.

    Args:
        layers: convolutions, residual branches, activations and normalisations of [B, C, T].
    """

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.Sequential(*map(_flat, layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C', T']."""
        out: Tensor = self.layers(last(four(x)))
        return out.squeeze(2)


class Transposed(Convolution):
    """A transposed convolution as a layer of its own."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, F, T] -> [B, outputs, F', T']."""
        return self.transposed(x)


class Branches(nn.Module):
    """`DConv` of [B, C, 1, T].

    Args:
        dconv: what it computes.
    """

    def __init__(self, dconv: DConv) -> None:
        super().__init__()
        self.branches = nn.Sequential(*(TiledBranch(cast(nn.Sequential, branch)) for branch in dconv.layers))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 1, T] -> [B, C, 1, T]."""
        rows: Tensor = self.branches(x.squeeze(2).transpose(1, 2))
        return rows.transpose(1, 2).unsqueeze(2)


def _flat(layer: nn.Module) -> nn.Module:
    """A layer over time for [B, C, 1, T]."""
    if isinstance(layer, nn.ConvTranspose1d):
        return Transposed(layer)
    if isinstance(layer, nn.Conv1d):
        return Convolution(layer)
    return Branches(layer) if isinstance(layer, DConv) else layer


def tiled(layer: nn.Module) -> nn.Module:
    """A layer of Hybrid Demucs for inference, or itself where there is nothing to gain."""
    if isinstance(layer, BandedEncoder | BandedDecoder):
        for index, band in enumerate(layer.layers):
            layer.layers[index] = tiled(band)
        return layer
    if isinstance(layer, EncoderLayer) and not (layer.plan.spectral and layer.plan.context_encoder):
        return TiledEncoder(layer)
    if isinstance(layer, DecoderLayer) and not (layer.plan.groups and layer.kept):
        return TiledDecoder(layer)
    return layer

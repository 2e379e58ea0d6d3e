"""Linear layers for inference on a CPU, with weights packed once in the layout of oneDNN's kernels.

PyTorch repacks a weight at every call, through a library that is slow on some CPUs, and computes the
activation in a second pass over memory. torch.compile avoids both with private operators. If this build of
PyTorch lacks them, or they compute something else, the layers fall back to the public operators.
"""

from collections.abc import Callable
from functools import cache
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROW_EPS = 1e-12  # added to the variances of rows, and taken off again
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "gelu": F.gelu,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
}


class PackedLinear(nn.Module):
    """Linear layer x Wᵀ + b, followed by an activation.

    Args:
        weight: [outputs, inputs].
        bias: [outputs], or None.
        scale: a factor per output, [outputs], folded into weight and bias.
        activation: a key of `ACTIVATIONS`.
        dtype: to compute in; the output has the input's dtype.
        keep: leave the output in `dtype`.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        *,
        scale: Tensor | None = None,
        activation: str = "none",
        dtype: torch.dtype = torch.float32,
        keep: bool = False,
    ) -> None:
        super().__init__()
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        if scale is not None:
            scale = scale.detach()
            # s·(x Wᵀ + b) = x (sW)ᵀ + sb
            weight, bias = weight * scale[:, None], None if bias is None else bias * scale
        self.activation, self.dtype, self.keep = activation, dtype, keep
        self.packed = packs(dtype)
        weight = weight.to(dtype).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight
        self.bias = None if bias is None else bias.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        y = self._compute(x.to(self.dtype))
        return y if self.keep else y.to(x.dtype)

    def _compute(self, x: Tensor) -> Tensor:
        if not self.packed:
            return ACTIVATIONS[self.activation](F.linear(x, self.weight, self.bias))
        out: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.weight, self.bias, self.activation, [], "none"
        )
        return out


class PackedGLU(nn.Module):
    """Linear layer to twice the width and a GLU, (x W₁ᵀ + b₁)·σ(x W₂ᵀ + b₂).

    Args:
        weight: [2 outputs, inputs].
        bias: [2 outputs].
        scale: a factor per output, [outputs].
    """

    def __init__(self, weight: Tensor, bias: Tensor, scale: Tensor | None = None) -> None:
        super().__init__()
        (value, gate), (value_bias, gate_bias) = weight.chunk(2), bias.chunk(2)  # halves of 2·outputs
        self.value = PackedLinear(value, value_bias, scale=scale)
        self.gate = PackedLinear(gate, gate_bias, activation="sigmoid")

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        gate = self.gate(x)
        if not self.value.packed:
            plain: Tensor = self.value(x) * gate
            return plain
        out: Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, gate, self.value.weight, self.value.bias, "mul"
        )
        return out


class PackedPointwise(PackedLinear):
    """A convolution of kernel size 1, as a linear layer over the channels; the output is channels-last."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, ...] -> [B, outputs, ...]."""
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)  # [B, ..., outputs] -> [B, outputs, ...]


def pack_pointwise(conv: nn.Module) -> PackedPointwise:
    """Return a convolution of kernel size 1 as a packed linear layer."""
    weight, bias = cast(nn.Conv1d | nn.Conv2d, conv).weight, cast(nn.Conv1d | nn.Conv2d, conv).bias
    return PackedPointwise(weight.flatten(1), bias)


def pack_pointwises(module: nn.Module) -> None:
    """Pack every one-dimensional convolution of kernel size 1 of a module, fused with nothing."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv1d) and child.kernel_size == (1,):
            setattr(module, name, pack_pointwise(child))
        else:
            pack_pointwises(child)


class PackedSequenceNorm(nn.Module):
    """Normalisation of [B, T, C] over time and channels together, without a transposed copy of the input.

    Args:
        norm: of one group, with a factor and an offset per channel.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight.detach(), norm.bias.detach(), norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        # The variance is the mean of the rows' variances plus the variance of the rows' means. The kernel of
        # layer_norm takes a tenth of the time of torch.var_mean over two dimensions, 5 ns a number.
        _, means, rstd = torch.native_layer_norm(x, (x.shape[-1],), None, None, ROW_EPS)  # [B, T, 1] each
        within = rstd.double().pow(-2).mean(dim=(1, 2), keepdim=True) - ROW_EPS  # [B, 1, 1]
        between, mean = torch.var_mean(means.double(), dim=(1, 2), correction=0, keepdim=True)
        scale = self.weight * torch.rsqrt(within + between + self.eps).to(x.dtype)  # [B, 1, C]
        return torch.addcmul(self.bias - mean.to(x.dtype) * scale, x, scale)  # (x − mean)·scale + bias


def pack_linears(module: nn.Module, dtype: torch.dtype) -> None:
    """Pack every linear layer of a module, fused with a GELU or tanh that follows it in a `Sequential`."""
    for name, child in module.named_children():
        if not isinstance(child, nn.Linear):
            pack_linears(child, dtype)
            continue
        numbered = isinstance(module, nn.Sequential) and name.isdecimal()
        follower = getattr(module, str(int(name) + 1), None) if numbered else None
        activation = _activation(follower)
        setattr(module, name, PackedLinear(child.weight, child.bias, activation=activation, dtype=dtype))
        if activation != "none":
            setattr(module, str(int(name) + 1), nn.Identity())  # in place, so that the indices stay


def _activation(layer: nn.Module | None) -> str:
    """Return the activation that a layer is, of those that follow linear layers in networks."""
    if isinstance(layer, nn.GELU) and layer.approximate == "none":
        return "gelu"
    return "tanh" if isinstance(layer, nn.Tanh) else "none"


@cache
def packs(dtype: torch.dtype) -> bool:
    """Return True if this build of PyTorch has the operators and their results are right on this CPU."""
    with torch.inference_mode(False), torch.no_grad():
        x, bias = torch.linspace(-1, 1, 96).view(3, 32), torch.linspace(0, 1, 32)  # [3, inputs], [outputs]
        weight = torch.linspace(1, -1, 1024).view(32, 32)  # [outputs, inputs]
        plain = F.linear(x, weight, bias)
        try:
            values = _samples(x.to(dtype), weight.to(dtype), bias.to(dtype))
        except (AttributeError, RuntimeError, TypeError):
            return False
        expected = (F.gelu(plain), plain.relu(), plain.sigmoid(), plain.tanh(), plain * x)
        close = 1e-5 if dtype == torch.float32 else 0.1  # bf16 has 8 bits
        return all(torch.allclose(a.float(), b, atol=close) for a, b in zip(values, expected, strict=True))


def _samples(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Apply the operators to a linear layer, with each activation and multiplied by x."""
    packed = torch.ops.mkldnn._reorder_linear_weight(weight)
    linear = torch.ops.mkldnn._linear_pointwise
    found = [linear(x, packed, bias, name, [], "none") for name in ("gelu", "relu", "sigmoid", "tanh")]
    return [*found, linear.binary(x, x, packed, bias, "mul")]

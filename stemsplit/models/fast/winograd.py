"""Convolutions over time with fewer products, for inference on a CPU.

Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", 2016: F(4, 3) computes four outputs of a
filter of three taps from six products instead of twelve, as Aᵀ((G g) ∘ (Bᵀ d)) for taps g and six inputs d.
Here every product is a convolution over the channels and, for two-dimensional kernels, over the bins.

All tensors are [B, C, F, T] (`B` batch, `C` channels, `F` bins, `T` frames), channels last in memory. Where a
network has its frames before its bins, F and T change their roles.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STEPS = 4  # outputs at a time
BLOCK_BYTES = 2**22  # of output that is computed together, so that what it is made from stays in the cache
# G, whose rows stand for the points 0, 1, −1, 2, −2 and ∞
TAPS = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).div(24)


class WinogradConvolution(nn.Module):
    """Convolution of three taps over time, padded by one step on both sides.

    Args:
        weight: [outputs, inputs, bins, 3].
        bias: [outputs], or None.
    """

    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        outputs, inputs, bins, _ = weight.shape
        # Inputs last, so that the products are channels-last without a copy of each.
        taps = weight.detach().permute(3, 0, 2, 1).reshape(3, -1)  # [3, outputs·bins·inputs]
        products = (TAPS @ taps).view(6, outputs, bins, 1, inputs)
        self.products = products.permute(0, 1, 4, 2, 3).unbind()  # [outputs, inputs, bins, 1] each
        self.bias = None if bias is None else bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, F, T] -> [B, outputs, F − bins + 1, T]."""
        outputs, _, bins, _ = self.products[0].shape
        steps = -(-x.shape[-1] // STEPS) * STEPS  # 4·groups
        out = x.new_empty(len(x), x.shape[2] - bins + 1, steps, outputs).permute(0, 3, 1, 2)
        self.fill(F.pad(x, (1, steps + 1 - x.shape[-1])), out)
        return out[..., : x.shape[-1]]

    def fill(self, x: Tensor, out: Tensor) -> None:
        """Write the output, block by block, from a padded input, [B, inputs, F, 4·groups + 2]."""
        groups = out.shape[-1] // STEPS
        size = max(1, BLOCK_BYTES * groups // (out.numel() * out.element_size()))
        for start in range(0, groups, size):
            stop = min(groups, start + size)
            seen = x[..., STEPS * start : STEPS * stop + 2]  # an output sees a step on each side
            self._convolve(seen, stop - start, out[..., STEPS * start : STEPS * stop])

    def _convolve(self, x: Tensor, groups: int, out: Tensor) -> None:
        """Write groups of outputs: [B, inputs, F, 4·groups + 2], [B, outputs, F', 4·groups]."""
        # The bias of the product at point 1 reaches all four outputs with factor 1.
        found = [
            F.conv2d(part, weight, self.bias if point == 1 else None)
            for point, (part, weight) in enumerate(zip(_inputs(x, groups), self.products, strict=True))
        ]
        _write_outputs(found, out)


def _inputs(x: Tensor, groups: int) -> list[Tensor]:
    """Return the six rows of Bᵀ d: [B, C, F, 4·groups + 2] -> [B, C, F, groups] each."""
    d = [x[..., j : j + STEPS * (groups - 1) + 1 : STEPS] for j in range(6)]
    even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    near, far = d[4] - d[2], d[3] - d[1]
    return [
        torch.add(d[4], d[0], alpha=4).sub_(d[2], alpha=5),
        even + odd,
        even.sub_(odd),
        torch.add(near, far, alpha=2),
        near.sub_(far, alpha=2),
        torch.add(d[5], d[1], alpha=4).sub_(d[3], alpha=5),
    ]


def _write_outputs(m: list[Tensor], out: Tensor) -> None:
    """Write Aᵀ m to [B, C, F, 4·groups], and overwrite m, six of [B, C, F, groups]."""
    y = [out[..., j::STEPS] for j in range(STEPS)]
    sum1, difference1 = m[1] + m[2], m[1].sub_(m[2])
    sum2, difference2 = m[3] + m[4], m[3].sub_(m[4])
    torch.add(m[0], sum1, out=y[0]).add_(sum2)
    torch.add(difference1, difference2, alpha=2, out=y[1])
    torch.add(sum1, sum2, alpha=4, out=y[2])
    torch.add(m[5], difference1, out=y[3]).add_(difference2, alpha=8)

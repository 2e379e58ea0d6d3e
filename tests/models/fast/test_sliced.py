"""Sliced layers compute what the plain ones do, in place, however large their slices are."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.models.blocks.axial import AxialBlock, AxialBlocks
from stemsplit.models.blocks.conformer import Conformer, ConformerShape
from stemsplit.models.blocks.polar import Polar
from stemsplit.models.blocks.rotary import RMSNorm, Rotary, Shape, Transformer
from stemsplit.models.fast import sliced
from stemsplit.models.fast.sliced import Normalised, SlicedAttention, SlicedFeedForward, slice_blocks

Decibels = Callable[[Tensor, Tensor], float]
SHAPE = Shape(width=12, heads=2, head_width=8)
CONVOLVED = ConformerShape(
    width=12, heads=2, head_width=8, feed_forward=2, convolved=2, kernel=5, convolution_dropout=0.0
)
AXES: dict[str, Callable[[], list[nn.Module]]] = {
    "rotary": lambda: [Transformer(SHAPE, 2, Rotary(8), norm=False) for _ in range(2)],
    "normalised": lambda: [Transformer(SHAPE, 1, Rotary(8), norm=True) for _ in range(2)],
    "after linear attention": lambda: [
        Transformer(SHAPE, 1, None, norm=True),
        *(Transformer(SHAPE, 1, Rotary(8), norm=True) for _ in range(2)),
    ],
    "polar": lambda: [Transformer(SHAPE, 1, Polar(8, 2), norm=False) for _ in range(2)],
    "conformers": lambda: [Conformer(CONVOLVED, 2, Rotary(8)) for _ in range(2)],
}


def randomised(module: nn.Module) -> Any:
    """Fill vectors, which start as ones and zeros, so that none of them could be left out."""
    for parameter in module.parameters():
        if parameter.dim() < 3:
            parameter.data.add_(0.3 * torch.randn_like(parameter))
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize("rows", [1, 10, 2048])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("axes", AXES)
@torch.inference_mode()
def test_blocks(
    axes: str, skip: bool, rows: int, decibels: Decibels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sliced, "ROWS", rows)
    blocks = randomised(AxialBlocks((AxialBlock(AXES[axes]()) for _ in range(3)), skip))
    fast = copy.deepcopy(blocks)
    slice_blocks(fast, torch.float32, copies=skip)
    norm = randomised(RMSNorm(12))
    exact = copy.deepcopy(blocks).double(), copy.deepcopy(norm).double()
    for batch, frames, bands in ((1, 7, 5), (2, 3, 1), (3, 1, 4)):
        x = torch.randn(batch, frames, bands, 12)
        expected = exact[0](x.double(), exact[1])
        # Some of these blocks enlarge every rounding: the plain ones' own error is the measure then.
        least = min(110, decibels(expected, blocks(x, norm)) - 6)
        assert decibels(expected, fast(x.clone(), Normalised(norm))) >= least


@torch.inference_mode()
def test_blocks_that_copy_leave_their_input(decibels: Decibels) -> None:
    blocks = nn.ModuleList([randomised(AxialBlock(AXES["rotary"]())) for _ in range(2)])
    fast = copy.deepcopy(blocks)
    slice_blocks(fast, torch.float32, copies=True)
    x = torch.randn(1, 6, 1, 12)  # of a single band, a turned view needs no copy
    before, expected, found = x.clone(), x, x
    for block, replaced in zip(blocks, fast, strict=True):
        expected, found = block(expected, None), replaced(found, None)
    assert torch.equal(x, before)
    assert decibels(expected, found) >= 110


@torch.inference_mode()
def test_layers_add_to_their_input(decibels: Decibels) -> None:
    transformer = randomised(Transformer(SHAPE, 1, Rotary(8), norm=False))
    attention, feed_forward = transformer.layers[0]
    attention.to_qkv.bias = nn.Parameter(torch.randn(48))  # of the variant with shared biases
    attention.to_out[0].bias = nn.Parameter(torch.randn(12))
    whole = torch.randn(9, 4, 12)
    x = whole[:, 1:3].transpose(0, 1)  # [2, 9, 12], not contiguous
    for plain, fast in (
        (attention, SlicedAttention(attention, torch.float32)),
        (feed_forward, SlicedFeedForward(feed_forward, torch.float32)),
    ):
        expected, others = x + plain(x), whole[:, ::3].clone()
        assert fast(x) is x
        assert decibels(expected, x) >= 110
        assert torch.equal(whole[:, ::3], others)


@torch.inference_mode()
def test_vectors_of_length_zero_stay_so() -> None:
    x = torch.zeros(1, 3, 12)
    assert torch.equal(Normalised(RMSNorm(12))(x), torch.zeros(1, 3, 12))

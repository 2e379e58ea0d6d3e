"""Convolutions by Winograd's products are the ordinary ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.fast import winograd
from stemsplit.models.fast.winograd import WinogradConvolution


@pytest.mark.parametrize("bins", [1, 3])
@pytest.mark.parametrize("steps", [*range(1, 10), 86])
@pytest.mark.parametrize("block", [1, 2000, 2**22])
@torch.inference_mode()
def test_convolutions_over_time(
    steps: int,
    bins: int,
    block: int,
    decibels: Callable[[Tensor, Tensor], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block)
    weight, bias = torch.randn(10, 6, bins, 3), torch.randn(10)
    x = torch.randn(2, 6, 5, steps).contiguous(memory_format=torch.channels_last)
    expected = F.conv2d(x.double(), weight.double(), bias.double(), padding=(0, 1))
    before = x.clone()
    found = WinogradConvolution(weight, bias)(x)
    assert decibels(expected, found) >= 115
    assert torch.equal(x, before)

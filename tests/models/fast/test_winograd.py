"""Convolutions by Winograd's products are the ordinary ones."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models import build
from stemsplit.models.fast import winograd
from stemsplit.models.fast.winograd import PaddedWinograd, WinogradConvolution, use_winograd
from tests.models.test_contract import MDX_NET, noise


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


@pytest.mark.parametrize("bins", [1, 2, 7])
@pytest.mark.parametrize("steps", [1, 4, 9])
@pytest.mark.parametrize("block", [1, 4000, 2**22])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@torch.inference_mode()
def test_convolutions_padded_on_all_sides(
    bins: int,
    steps: int,
    block: int,
    biased: bool,
    layout: torch.memory_format,
    decibels: Callable[[Tensor, Tensor], float],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block)
    weight, bias = torch.randn(10, 6, 3, 3), torch.randn(10) if biased else None
    x = torch.randn(2, 6, bins, steps).contiguous(memory_format=layout)
    exact = None if bias is None else bias.double()
    expected = F.conv2d(x.double(), weight.double(), exact, padding=1)
    before = x.clone()
    assert decibels(expected, PaddedWinograd(weight, bias)(x)) >= 115
    assert torch.equal(x, before)


@pytest.mark.parametrize(
    ("conv", "replaced"),
    [
        (nn.Conv2d(64, 64, 3, padding=1), True),
        (nn.Conv2d(48, 96, 3, padding=1, bias=False), True),
        (nn.Conv2d(32, 64, 3, padding=1), False),  # gains nothing
        (nn.Conv2d(64, 64, 3), False),
        (nn.Conv2d(64, 64, 3, 2, padding=1), False),
        (nn.Conv2d(64, 64, 3, padding=2, dilation=2), False),
        (nn.Conv2d(64, 64, 3, padding=1, groups=64), False),
        (nn.Conv2d(64, 64, 3, padding=1, padding_mode="circular"), False),
        (nn.Conv2d(64, 64, 5, padding=2), False),
        (nn.ConvTranspose2d(64, 64, 3, padding=1), False),
    ],
)
def test_the_convolutions_that_gain_are_replaced(conv: nn.Module, replaced: bool) -> None:
    network = nn.Sequential(nn.Sequential(conv), nn.ReLU())
    use_winograd(network)
    assert isinstance(network[0][0], PaddedWinograd) is replaced


@torch.inference_mode()
def test_a_wide_network_computes_the_same(decibels: Callable[[Tensor, Tensor], float]) -> None:
    torch.manual_seed(0)
    network = build("mdx_net", MDX_NET | {"g": 64}).eval()
    mix = noise(network, network.segment_samples)
    plain = network(mix)
    assert decibels(plain, network.prepare()(mix)) >= 105
    assert any(isinstance(module, PaddedWinograd) for module in network.modules())

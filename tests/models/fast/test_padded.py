"""Padded convolutions in tiles are the ordinary ones, with Winograd's products or without."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models import build
from stemsplit.models.fast import padded, tfc_tdf, winograd
from stemsplit.models.fast.padded import PaddedConvolution, tile_convolutions
from stemsplit.models.fast.tfc_tdf import OverwritingBlock
from tests.models.test_contract import MDX_NET, noise

Decibels = Callable[[Tensor, Tensor], float]
LAYOUTS = (torch.channels_last, torch.contiguous_format)


@pytest.fixture(params=[1, 4000, 2**22])
def tile(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of a tile."""
    for module, name in ((padded, "TILE_BYTES"), (tfc_tdf, "TILE_BYTES"), (winograd, "BLOCK_BYTES")):
        monkeypatch.setattr(module, name, request.param)


def expected(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution between the activations of `test_tiles`, in double precision."""
    bias = None if conv.bias is None else conv.bias.double()
    return F.conv2d(x.double().square(), conv.weight.double(), bias, padding=1).relu()


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("columns", [1, 4, 9])
@pytest.mark.parametrize("least", [0, 1000])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@torch.inference_mode()
def test_tiles(
    rows: int,
    columns: int,
    least: int,
    biased: bool,
    layout: torch.memory_format,
    tile: None,
    decibels: Decibels,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(padded, "LEAST", least)
    conv = nn.Conv2d(6, 10, 3, padding=1, bias=biased)
    x = torch.randn(2, 6, rows, columns).contiguous(memory_format=layout)
    before = x.clone()
    layer = PaddedConvolution(conv)
    assert (layer.winograd is None) == (least > 0)
    assert decibels(expected(conv, x), layer(x, before=torch.square, after=F.relu_)) >= 115
    assert torch.equal(x, before)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("columns", [8, 9])
@pytest.mark.parametrize("least", [0, 1000])
@torch.inference_mode()
def test_the_output_may_overwrite_the_input(
    rows: int, columns: int, least: int, tile: None, decibels: Decibels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(padded, "LEAST", least)
    conv = nn.Conv2d(6, 6, 3, padding=1)
    x = torch.randn(2, 6, rows, columns).contiguous(memory_format=torch.channels_last)
    truth = expected(conv, x)
    out = PaddedConvolution(conv).overwrite(x, before=torch.square, after=F.relu_)
    assert decibels(truth, out) >= 115
    assert (out.data_ptr() == x.data_ptr()) == (columns == 8)


@pytest.mark.parametrize(
    ("conv", "replaced"),
    [
        (nn.Conv2d(64, 64, 3, padding=1), True),
        (nn.Conv2d(48, 96, 3, padding=1, bias=False), True),
        (nn.Conv2d(32, 64, 3, padding=1), False),  # gains nothing
        (nn.Conv2d(64, 576, 3, padding=1), False),  # takes memory
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
    tile_convolutions(network)
    assert isinstance(network[0][0], PaddedConvolution) is replaced


@pytest.mark.parametrize(
    "more", [{}, {"g": 64}, {"folded": True}, {"k": 5}, {"norm": "gn"}, {"denoise": True}]
)
@torch.inference_mode()
def test_a_prepared_mdx_net_computes_the_same(
    more: dict[str, object], tile: None, decibels: Decibels
) -> None:
    torch.manual_seed(0)
    network = build("mdx_net", MDX_NET | more).eval()
    mix = noise(network, network.segment_samples, batch=2)
    before = mix.clone()
    plain = network(mix)
    network.prepare()
    assert decibels(plain, network(mix)) >= 105
    assert torch.equal(mix, before)
    overwrites = any(isinstance(module, OverwritingBlock) for module in network.modules())
    assert overwrites == (more not in ({"k": 5}, {"norm": "gn"}))

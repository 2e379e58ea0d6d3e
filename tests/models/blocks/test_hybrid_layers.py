"""Layers cut into frequency bands are the plain layers where the weights are equal."""

from functools import partial

import pytest
import torch
from torch import nn

from stemsplit.models.blocks.conv import DConv
from stemsplit.models.blocks.hybrid_layers import (
    BandedDecoder,
    BandedEncoder,
    DecoderLayer,
    EncoderLayer,
    LayerPlan,
)


def plan(outermost: bool = False, residual: bool = True) -> LayerPlan:
    return LayerPlan(
        outer=3,
        inner=8,
        outputs=6 if outermost else 3,
        outermost=outermost,
        kernel=8,
        stride=4,
        padding=2,
        spectral=True,
        bare=False,
        groups=0,
        rewrite=True,
        context_encoder=0,
        context_decoder=1,
        residual=partial(DConv, init=0.3),
        residual_encoder=residual,
        residual_decoder=residual,
    )


def share_weights(plain: nn.Module, banded: BandedEncoder | BandedDecoder) -> None:
    for layer in banded.layers:
        layer.load_state_dict(plain.state_dict())


@pytest.mark.parametrize("ratios", [(0.5,), (0.1, 0.3), (0.25, 0.5, 0.75), (0.37, 0.4, 0.99)])
@pytest.mark.parametrize("bins", [128, 512])
@torch.inference_mode()
def test_banded_encoder_is_seamless(bins: int, ratios: tuple[float, ...]) -> None:
    plain, banded = EncoderLayer(plan()), BandedEncoder(plan(), ratios)
    share_weights(plain, banded)
    x = torch.randn(2, 3, bins, 5)
    torch.testing.assert_close(banded(x), plain(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ratios", [(0.5,), (0.1, 0.3), (0.25, 0.5, 0.75)])
@pytest.mark.parametrize("outermost", [True, False])
@pytest.mark.parametrize("kept", [None, [4], [1, 2]])
@torch.inference_mode()
def test_banded_decoder_is_seamless(
    outermost: bool, ratios: tuple[float, ...], kept: list[int] | None
) -> None:
    plain, banded = DecoderLayer(plan(outermost), over_bins=False), BandedDecoder(plan(outermost), ratios)
    share_weights(plain, banded)
    if kept and outermost:
        plain.select_outputs(kept)
        banded.select_outputs(kept)
    x, skip = torch.randn(2, 2, 8, 32, 5).unbind(0)
    expected, _ = plain(x, skip, 5)
    out, inner = banded(x, skip, 5)
    assert inner is None
    assert out.shape[2] == 128
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


@torch.inference_mode()
def test_only_wanted_outputs_are_computed() -> None:
    layer = DecoderLayer(plan(outermost=True))
    x, skip = torch.randn(2, 2, 8, 32, 5).unbind(0)
    whole, _ = layer(x, skip, 5)
    layer.select_outputs([5, 0])
    torch.testing.assert_close(layer(x, skip, 5)[0], whole[:, [5, 0]])


@torch.inference_mode()
def test_no_input_from_below_means_zeros() -> None:
    layer = DecoderLayer(plan())
    skip = torch.randn(2, 8, 32, 5)
    assert torch.equal(layer(None, skip, 5)[0], layer(torch.zeros_like(skip), skip, 5)[0])

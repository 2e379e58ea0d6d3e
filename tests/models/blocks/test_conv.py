"""Residual branches, local attention and the initial scale of weights."""

from typing import Any

import pytest
import torch
from torch import nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.conv import DConv, LayerScale, rescale_weights
from stemsplit.models.blocks.local_attention import LocalState


def test_rescaling_goes_halfway_to_the_reference() -> None:
    layers = nn.Sequential(nn.Conv1d(4, 8, 3), nn.ConvTranspose2d(8, 2, 3), nn.Linear(3, 3))
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    rescale_weights(layers, 0.1)
    for index in (0, 1):
        weight, bias = before[f"{index}.weight"], before[f"{index}.bias"]
        layer: Any = layers[index]
        torch.testing.assert_close(layer.weight.std(), (weight.std() * 0.1).sqrt())
        torch.testing.assert_close(
            layer.weight / weight, layer.bias.mean() / bias.mean() * torch.ones_like(weight)
        )
    assert torch.equal(layers[2].weight, before["2.weight"]), "only convolutions"


@pytest.mark.parametrize("depth", [3, -3])
def test_branches_dilate_unless_told_otherwise(depth: int) -> None:
    branches = DConv(8, depth=depth, compress=2)
    first: list[Any] = [next(iter(branch.children())) for branch in branches.layers]
    assert [conv.dilation[0] for conv in first] == ([1, 2, 4] if depth > 0 else [1, 1, 1])
    assert branches(torch.randn(1, 8, 5)).shape == (1, 8, 5)


def test_branches_start_as_almost_nothing() -> None:
    x = torch.randn(2, 16, 50)
    change = DConv(16, init=1e-4, lstm=True, attention=True)(x) - x
    assert 0 < change.abs().max() < 1e-2


@pytest.mark.parametrize("channel_last", [True, False])
def test_layer_scale_scales_channels(channel_last: bool) -> None:
    scale = LayerScale(3, 0.5, channel_last)
    scale.scale.data = torch.tensor([1.0, 2.0, 3.0])
    x = torch.ones(2, 3, 4)
    scaled = scale(x.transpose(1, 2)).transpose(1, 2) if channel_last else scale(x)
    assert scaled[1, :, 2].tolist() == [1, 2, 3]


@torch.inference_mode()
def test_a_step_attends_to_all_others_but_not_to_itself() -> None:
    local = LocalState(8).eval()
    nn.init.eye_(local.proj.weight[..., 0])
    x = torch.randn(1, 8, 6)
    alone = (local(x) - x)[..., 2]
    attended = local.content(x)
    local.content.register_forward_hook(lambda *_: attended.clone().index_fill_(2, torch.tensor(2), 1e6))
    torch.testing.assert_close((local(x) - x)[..., 2], alone)
    assert (local(x) - x)[..., 3].abs().max() > 1e3


@torch.inference_mode()
def test_slopes_make_attention_local() -> None:
    local = LocalState(4, heads=1).eval()
    with torch.no_grad():
        local.query.weight.zero_()
        local.query.bias.zero_()  # type: ignore[union-attr]
        local.query_decay.weight.zero_()
        local.query_decay.bias.fill_(100)  # type: ignore[union-attr]
        nn.init.eye_(local.content.weight[..., 0])
        nn.init.eye_(local.proj.weight[..., 0])
        local.content.bias.zero_()  # type: ignore[union-attr]
        local.proj.bias.zero_()  # type: ignore[union-attr]
    x = torch.zeros(1, 4, 9)
    x[..., 4] = 1
    weights = local(x)[0, 0] - x[0, 0]  # what step 4 contributes to each
    # every σ is 1: the slope is (1 + 2 + 3 + 4) / (2 √4) = 2.5 per step
    assert weights[4] == 0
    assert (weights[3] / weights[2]).log().item() == pytest.approx(2.5, rel=0.05)


def test_heads_share_channels_evenly() -> None:
    with pytest.raises(StemsplitError, match="heads"):
        LocalState(6)

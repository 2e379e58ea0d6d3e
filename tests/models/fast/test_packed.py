"""Packed layers compute what the plain ones do, and notice where they can't."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stemsplit.models.blocks.attention import SequenceNorm
from stemsplit.models.fast import packed
from stemsplit.models.fast.packed import PackedGLU, PackedLinear, PackedPointwise, PackedSequenceNorm, packs


@pytest.fixture(params=["oneDNN", "public"])
def _operators(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "public":
        monkeypatch.setattr(packed, "packs", lambda dtype: False)
    elif not packs(torch.float32):
        pytest.skip("this build of PyTorch has no such operators")


@pytest.mark.usefixtures("_operators")
@pytest.mark.parametrize("activation", packed.ACTIVATIONS)
@torch.inference_mode()
def test_linear_layers_with_scale_and_activation(activation: str) -> None:
    x, weight, bias, scale = (torch.randn(*shape) for shape in ((2, 7, 12), (5, 12), (5,), (5,)))
    expected = packed.ACTIVATIONS[activation](F.linear(x, weight, bias) * scale)
    layer = PackedLinear(weight, bias, scale=scale, activation=activation)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    bare = packed.ACTIVATIONS[activation](F.linear(x, weight))
    assert torch.allclose(PackedLinear(weight, None, activation=activation)(x), bare, atol=1e-5)


@pytest.mark.usefixtures("_operators")
@torch.inference_mode()
def test_glus_and_pointwise_convolutions() -> None:
    x, weight, bias, scale = (torch.randn(*shape) for shape in ((2, 7, 12), (10, 12), (10,), (5,)))
    gated = F.glu(F.linear(x, weight, bias), dim=-1)
    assert torch.allclose(PackedGLU(weight, bias)(x), gated, atol=1e-5)
    assert torch.allclose(PackedGLU(weight, bias, scale=scale)(x), gated * scale, atol=1e-5)
    wave = x.transpose(1, 2)
    convolved = F.conv1d(wave, weight[..., None], bias)
    assert torch.allclose(PackedPointwise(weight, bias)(wave), convolved, atol=1e-5)


@torch.inference_mode()
def test_types_are_those_of_the_input_unless_kept() -> None:
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    assert PackedLinear(weight, None, dtype=torch.bfloat16)(x).dtype == torch.float32
    kept = PackedLinear(weight, None, dtype=torch.bfloat16, keep=True)(x)
    assert kept.dtype == torch.bfloat16
    assert torch.allclose(kept.float(), F.linear(x, weight), atol=0.1)


@torch.inference_mode()
def test_normalisation_over_time_and_channels() -> None:
    norm = SequenceNorm(1, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    noise = torch.randn(2, 50, 6)
    rows = torch.linspace(-9, 9, 50)[:, None]
    for x in (3 + 0.1 * noise, noise + rows, 1e-3 * noise, torch.zeros(2, 50, 6)):
        expected = norm.double()(x.double())
        assert torch.allclose(PackedSequenceNorm(norm.float())(x).double(), expected, atol=1e-5)


@torch.inference_mode()
def test_linear_layers_of_a_module_are_replaced_with_the_gelu_behind_them() -> None:
    net = nn.Sequential(
        nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 8), nn.GELU("tanh"), nn.ModuleList([nn.Linear(8, 3)])
    )
    first, last = net[:4], net[4]
    x = torch.randn(5, 6)
    expected = last[0](first(x))
    replaced = copy.deepcopy(net)
    packed.pack_linears(replaced, torch.float32)
    assert not any(isinstance(module, nn.Linear) for module in replaced.modules())
    assert isinstance(replaced[1], nn.Identity) and isinstance(replaced[3], nn.GELU)
    assert torch.allclose(replaced[4][0](replaced[:4](x)), expected, atol=1e-5)


@pytest.mark.parametrize("fault", ["wrong values", "another signature", "no operator"])
def test_operators_that_changed_are_not_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def samples(x: Tensor, weight: Tensor, bias: Tensor) -> list[Tensor]:
        if fault == "another signature":
            raise RuntimeError("expected at most 3 arguments")
        if fault == "no operator":
            raise AttributeError("_reorder_linear_weight")
        return [F.linear(x, weight, bias)] * 5

    monkeypatch.setattr(packed, "_samples", samples)
    packs.cache_clear()
    try:
        assert not packs(torch.float32)
    finally:
        packs.cache_clear()

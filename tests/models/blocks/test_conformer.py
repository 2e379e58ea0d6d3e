"""Conformers against plain layers of torch."""

import torch
from torch import nn
from torch.nn import functional as F

from stemsplit.models.blocks.conformer import Conformer, ConformerShape, Convolution
from stemsplit.models.blocks.rotary import Rotary

SHAPE = ConformerShape(
    width=6, heads=2, head_width=4, feed_forward=3, convolved=2, kernel=5, convolution_dropout=0.0
)


def convolution() -> Convolution:
    """A convolution whose statistics aren't those of the start."""
    made = Convolution(SHAPE).eval()
    norm = made.net[3]
    assert isinstance(norm, nn.BatchNorm1d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return made


@torch.inference_mode()
def test_convolutions_follow_their_formulas() -> None:
    made, x = convolution(), torch.randn(2, 9, 6)
    state = {name.removeprefix("net."): value for name, value in made.state_dict().items()}
    h = F.normalize(x, dim=-1) * 6**0.5 * state["0.gamma"]
    value, gate = F.linear(h, state["2.weight"][..., 0], state["2.bias"]).chunk(2, dim=-1)
    h = F.pad(value * gate.sigmoid(), (0, 0, 2, 2))  # [2, 9 + 4, 12]
    h = sum(h[:, k : k + 9] * state["4.weight"][:, 0, k] for k in range(5)) + state["4.bias"]
    h = (h - state["5.running_mean"]) / (state["5.running_var"] + 1e-5).sqrt()
    h = h * state["5.weight"] + state["5.bias"]
    expected = F.linear(h * h.sigmoid(), state["7.weight"][..., 0], state["7.bias"])
    torch.testing.assert_close(made(x), expected)


@torch.inference_mode()
def test_layers_are_added_to_their_input_by_turns() -> None:
    conformer, x = Conformer(SHAPE, 2, Rotary(4)).eval(), torch.randn(2, 9, 6)
    y = x
    for layer in conformer.layers:
        y = y + layer.ff1.ff(y) / 2
        y = y + layer.attn(y)
        y = y + layer.conv(y)
        y = y + layer.ff2.ff(y) / 2
        y = layer.out_norm(y)
    torch.testing.assert_close(conformer(x), y)
    assert conformer.layers[0].ff1.ff.net[1].out_features == 18

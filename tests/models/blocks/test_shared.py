"""Parameters that several layers share."""

import pytest
import torch
from torch import nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.rotary import Rotary, Shape, Transformer
from stemsplit.models.blocks.shared import share_biases, tied

SHAPE = Shape(width=6, heads=2, head_width=4)


def network() -> nn.Module:
    made = nn.ModuleList(
        [Transformer(SHAPE, 2, Rotary(4), norm=False), Transformer(SHAPE, 1, None, norm=False)]
    )
    share_biases(made, SHAPE)
    return made


def test_all_attentions_with_positions_share_two_biases() -> None:
    made = network()
    names = [name for name, _ in made.named_parameters() if name.startswith("linear_")]
    assert names == ["linear_62_bias_0", "linear_64_bias_0"]
    every = [name for name in made.state_dict() if name.endswith(("to_qkv.bias", "to_out.0.bias"))]
    assert len(every) == 4
    assert not [name for name, _ in made.named_parameters() if name in every]  # counted once, as linear_…


def stored() -> dict[str, torch.Tensor]:
    state = dict(network().state_dict())
    for name in state:
        if name.endswith(("to_qkv.bias", "62_bias_0")):
            state[name] = torch.arange(24.0)
    return state


@pytest.mark.parametrize("assign", [False, True])
def test_one_name_is_enough_and_the_parameter_stays_one(assign: bool) -> None:
    made, state = network(), stored()
    for name in list(state):
        if name.endswith("to_qkv.bias"):
            del state[name]
    made.load_state_dict(tied(made, state), assign=assign)
    shared = {id(p) for n, p in made.named_parameters(remove_duplicate=False) if n.endswith("to_qkv.bias")}
    assert shared == {id(made.linear_62_bias_0)}
    assert torch.equal(made.linear_62_bias_0, torch.arange(24.0))  # type: ignore[arg-type]


def test_copies_that_differ_are_refused() -> None:
    made, state = network(), stored()
    state["0.layers.1.0.to_qkv.bias"] = torch.zeros(24)
    with pytest.raises(StemsplitError, match="0.layers.1.0.to_qkv.bias and linear_62_bias_0 differ"):
        tied(made, state)


def test_a_state_without_them_is_left_to_the_loader() -> None:
    state = {name: value for name, value in stored().items() if "bias" not in name}
    assert tied(network(), state) == state

"""Parameters that several layers share, which checkpoints store once per layer."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.rotary import GatedAttention, Shape


def share_biases(network: nn.Module, shape: Shape) -> None:
    """Give all attentions of a network one bias of their first and one of their last linear layer.

    The names are those of the released BS-RoFormer "SW".
    """
    network.linear_62_bias_0 = nn.Parameter(torch.zeros(3 * shape.inner))
    network.linear_64_bias_0 = nn.Parameter(torch.zeros(shape.width))
    for attention in network.modules():
        if isinstance(attention, GatedAttention):
            attention.to_qkv.bias = network.linear_62_bias_0
            attention.to_out[0].bias = network.linear_64_bias_0


def tied(network: nn.Module, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dict in which all names of a shared parameter have one value.

    Args:
        network: with the parameters.
        state: tensors by name; for a shared parameter, one name is enough.

    Raises:
        StemsplitError: the values of a shared parameter differ.
    """
    names = defaultdict(list)
    for name, parameter in network.named_parameters(remove_duplicate=False):
        names[parameter].append(name)
    found = dict(state)
    for parameter, shared in names.items():
        stored = [name for name in shared if name in state]
        if len(shared) == 1 or not stored:
            continue
        first: Tensor = state[stored[0]]
        for name in stored[1:]:
            if not torch.equal(state[name], first):
                raise StemsplitError(f"{name} and {stored[0]} differ, but are one parameter")
        # As a parameter, it stays one even if it is assigned rather than copied.
        found |= dict.fromkeys(shared, nn.Parameter(first, requires_grad=parameter.requires_grad))
    return found

"""States that the package diffq quantised, and the weights that it restores from them."""

import diffq
import torch
from exchange import answer, asked, seeded
from torch import nn


def module(shapes: list[list[int]]) -> nn.Module:
    """Return a module with parameters of these shapes, in this order."""
    found = nn.Module()
    for index, shape in enumerate(shapes):
        found.register_parameter(f"p{index}", nn.Parameter(torch.randn(shape)))
    return found


arguments, _ = asked()
seeded()
network = module(arguments["shapes"])
quantiser = getattr(diffq, arguments["kind"])(network, **arguments["settings"])
network.eval()
for name, parameter in network.named_parameters():
    if name.endswith("_diffq"):
        parameter.data.normal_(0, 4).clamp_(max=2.5)  # 2 to 14 bits per weight; 15 aren't stored
state = quantiser.get_quantized_state(packed=arguments["packed"])
torch.save({**state, "__quantized": True}, arguments["path"])
restored = module(arguments["shapes"])
diffq.restore_quantized_state(restored, state)
answer(**dict(restored.named_parameters()))

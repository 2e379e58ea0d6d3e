"""X-UMX of asteroid, on random weights, and the file that asteroid saves of it.

Importing asteroid needs packages that this network doesn't, so only the network's own module is loaded.
asteroid 0.7 calls it broken with PyTorch 2, whose inverse STFT takes complex numbers only; given those, it
works.
"""

import sys
import types
from typing import Any

import torch
from exchange import answer, asked, scattered, seeded, skip_init
from torch import Tensor, nn


class BaseModel(nn.Module):
    def __init__(self, sample_rate: float) -> None:
        super().__init__()
        self.sample_rate = sample_rate


skip_init("asteroid", "asteroid.models")
sys.modules["asteroid.models.base_models"] = types.ModuleType("base_models")
sys.modules["asteroid.models.base_models"].BaseModel = BaseModel  # type: ignore[attr-defined]

from asteroid.models.x_umx import BrokenXUMX  # noqa: E402

inverse = torch.istft


def istft(parts: Tensor, **settings: Any) -> Tensor:
    """[N, F, frames, 2] -> [N, T]."""
    return inverse(torch.view_as_complex(parts), **settings)


torch.istft = istft
arguments, given = asked()
path = arguments.pop("path")
seeded()
network = scattered(BrokenXUMX(**arguments)).eval()
for name, value in network.state_dict().items():
    if name.endswith("window"):
        value.copy_(torch.hann_window(len(value)))  # which `scattered` moved, too
    elif "output_" in name:
        value.uniform_(-1, 1.5)  # so that the stems differ
with torch.inference_mode():
    _, stems = network(given["mix"])  # [S, B, C, T]
torch.save(
    {"model_name": "XUMX", "state_dict": network.state_dict(), "model_args": network.get_model_args()}, path
)
answer(stems=stems.transpose(0, 1))

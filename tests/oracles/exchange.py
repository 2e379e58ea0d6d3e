"""Exchange of tensors between a test and a program in the environment of the reference packages."""

import json
import sys
import types
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def asked() -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the arguments and the tensors that the test passed."""
    with safe_open(sys.argv[1], "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        return json.loads(file.metadata()["arguments"]), tensors


def answer(**tensors: Tensor) -> None:
    """Give tensors back to the test."""
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, sys.argv[2])


def skip_init(*names: str) -> None:
    """Let modules of a package be imported without its `__init__`, which needs further packages.

    Args:
        names: the package, and its subpackages to skip likewise.
    """
    place = find_spec(names[0])
    assert place is not None and place.submodule_search_locations
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        inside = name.removeprefix(names[0]).replace(".", "/")
        sys.modules[name].__path__ = [place.submodule_search_locations[0] + inside]


def weights(network: nn.Module) -> Mapping[str, Tensor]:
    """Return a network's tensors by name with the prefix `weights/`, as `answer` takes them."""
    return {f"weights/{name}": tensor for name, tensor in network.state_dict().items()}


def seeded(seed: int = 0) -> None:
    """Fix the random weights of the networks that are made next, and compute in one thread."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)


def scattered(network: nn.Module) -> nn.Module:
    """Move a network's vectors and statistics away from their initial zeros and ones, and return it."""
    for name, value in network.state_dict().items():
        if value.is_floating_point() and value.ndim < 2 and not name.endswith("freqs"):
            value.add_(0.2 * torch.rand_like(value))
    return network

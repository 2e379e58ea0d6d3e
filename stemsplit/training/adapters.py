"""Low-rank adapters of layers (LoRA), frozen parameters, and recomputed activations.

An adapter adds a trainable matrix of low rank to a frozen weight: W + (α / r)·U·D, with U [m, r] and D [r, n]
for a weight seen as a matrix [m, n] (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models").
It is a parametrisation of the weight, so a family uses its layers as ever, and merging it changes nothing.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from stemsplit.reading import Invalid
from stemsplit.training.learning import LoraConfig
from stemsplit.training.rng import generator

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# Names of the weights that an adapter may change, by the kind of layer.
WEIGHTS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    ((nn.Linear, *CONVOLUTIONS), "weight"),
    ((nn.MultiheadAttention,), "in_proj_weight"),
)


class Adapter(nn.Module):
    """A weight plus a trainable matrix of low rank, which is zero at first.

    Args:
        shape: of the weight, seen as a matrix [m, n]: its first axis, and all others.
        rank: r.
        alpha: α, the strength; the matrix is multiplied by α / r.
        rng: draws D; U is zero.
    """

    def __init__(self, shape: Sequence[int], rank: int, alpha: float, rng: Generator) -> None:
        super().__init__()
        rows, columns = shape[0], prod(shape[1:])
        bound = columns**-0.5
        self.down = nn.Parameter((2 * torch.rand(rank, columns, generator=rng) - 1) * bound)  # D
        self.up = nn.Parameter(torch.zeros(rows, rank))  # U
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """Return the adapted weight, of the same shape."""
        # fp32, so that the merged weight is the one that was trained under autocast too
        with torch.autocast(weight.device.type, enabled=False):
            return weight + (self.scale * self.up @ self.down).view_as(weight)


def add_adapters(network: nn.Module, config: LoraConfig, seed: int) -> None:
    """Freeze a network and give an adapter to each layer that a pattern matches.

    A layer whose adapter would be as large as its weight gets none.

    Raises:
        Invalid: a pattern matches no linear or convolution layer.
    """
    layers = list(_layers(network))
    for index, pattern in enumerate(config.layers):
        if not any(fnmatchcase(name, pattern) for name, _, _ in layers):
            rule = f"no linear or convolution layer is called {pattern}"
            raise Invalid(f"layers.{index}", rule)
    network.requires_grad_(False)
    for name, module, weight in layers:
        shape = getattr(module, weight).shape
        smaller = config.rank * (shape[0] + prod(shape[1:])) < prod(shape)
        if smaller and any(fnmatchcase(name, pattern) for pattern in config.layers):
            rng = generator(seed, "adapter", name)
            adapter = Adapter(shape, config.rank, config.alpha, rng)
            parametrize.register_parametrization(module, weight, adapter)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise Invalid("rank", f"{config.rank} is too large for the layers of this network")


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield name, module and name of the weight of each layer that may have an adapter."""
    for name, module in network.named_modules():
        for kinds, weight in WEIGHTS:
            if isinstance(module, kinds) and getattr(module, weight) is not None:
                yield name, module, weight


def merged_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state dict that a network without adapters would have, the adapters added to the weights."""
    merged = {}
    with torch.no_grad():
        for key, value in network.state_dict().items():
            found = re.fullmatch(r"((?:.*\.)?)parametrizations\.(\w+)\.(original|\d+\..*)", key)
            if found is None:
                merged[key] = value
            elif found[3] == "original":
                module = network.get_submodule(found[1].rstrip("."))
                merged[found[1] + found[2]] = getattr(module, found[2]).detach()
    return merged


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters that a pattern matches.

    Raises:
        Invalid: a pattern matches no parameter, or nothing is left to train.
    """
    for index, pattern in enumerate(patterns):
        matched = [p for name, p in network.named_parameters() if fnmatchcase(name, pattern)]
        if not matched:
            raise Invalid(f"freeze.{index}", f"no parameter is called {pattern}")
        for parameter in matched:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise Invalid("freeze", "leaves nothing to train")


def training_mode(network: nn.Module) -> None:
    """Set the training mode, but keep the statistics of frozen batch normalisation as they are.

    One without parameters is frozen if nothing of the module that holds it is trained but adapters.
    """
    network.train()
    for name, module in network.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            holder = network.get_submodule(name.rpartition(".")[0])
            own = list(module.parameters(recurse=False)) or list(_weights(holder))
            module.train(any(parameter.requires_grad for parameter in own))


def _weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """Yield the parameters that don't belong to adapters."""
    for name, parameter in module.named_parameters():
        if not re.search(r"(?:^|\.)parametrizations\.\w+\.\d+\.", name):
            yield parameter


# ---------------------------------------------------------------- activations


def recompute_activations(network: nn.Module) -> int:
    """Keep only the inputs of repeated blocks in training, and compute the rest again in the backward pass.

    The blocks are the outermost modules in lists of modules (Chen et al. 2016, "Training deep nets with
    sublinear memory cost"). Random numbers are drawn again as they were.

    Returns:
        The number of blocks.
    """
    blocks = list(_blocks(network, listed=False))
    for block in blocks:
        block.forward = _recomputed(block.forward)
    return len(blocks)


def _blocks(module: nn.Module, *, listed: bool) -> Iterator[nn.Module]:
    """Yield the outermost modules in lists; `listed` tells whether a list holds this one."""
    is_list = isinstance(module, nn.ModuleList)
    if listed and not is_list and any(True for _ in module.parameters()):
        yield module
        return
    for child in module.children():
        yield from _blocks(child, listed=is_list)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any, **options: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*inputs, **options)
        return checkpoint(forward, *inputs, use_reentrant=False, **options)

    return run

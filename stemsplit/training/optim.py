"""Optimisers with parameter groups, learning-rate schedules, and exponential moving averages of weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from math import cos, pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from stemsplit.models.network import Network
from stemsplit.reading import Invalid
from stemsplit.training.learning import GroupConfig, OptimConfig, ScheduleConfig

KINDS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """The optimiser of all parameters that want a gradient.

    Raises:
        Invalid: a group matches no parameter.
    """
    return KINDS[config.kind](
        parameter_groups(network, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def parameter_groups(network: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Parameters that want the same settings together, as an optimiser takes them, the general ones first.

    Settings of the configuration's first group that matches go before those that the network wants itself
    (`Network.optimizer_overrides`), and both before the general ones.

    Raises:
        Invalid: a group matches no parameter.
    """
    wanted = network.optimizer_overrides() if isinstance(network, Network) else {}
    chosen = [*map(_differences, config.groups), {}]
    own = [*wanted.values(), {}]
    rest = len(config.groups), len(wanted)
    members: dict[tuple[int, int], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            key = _first_match(name, [group.match for group in config.groups]), _first_match(name, [*wanted])
            members.setdefault(key, []).append(parameter)
    for index, group in enumerate(config.groups):
        if all(key[0] != index for key in members):
            raise Invalid(f"groups.{index}.match", f"no parameter is called {group.match}")
    # the rest first: loggers and people take the first group's learning rate for the general one
    keys = sorted(members, key=lambda key: (key != rest, key))
    return [{"params": members[key], **own[key[1]], **chosen[key[0]]} for key in keys]


def _first_match(name: str, patterns: Sequence[str]) -> int:
    """The first pattern that a name matches, or their number."""
    matches = (index for index, pattern in enumerate(patterns) if fnmatchcase(name, pattern))
    return next(matches, len(patterns))


def _differences(group: GroupConfig) -> dict[str, float]:
    values = {"lr": group.lr, "weight_decay": group.weight_decay}
    return {key: value for key, value in values.items() if value is not None}


def schedule_factor(config: ScheduleConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """What the learning rate is multiplied by at a step.

    constant: 1. decay: decay^⌊epoch / every_epochs⌋ (BSRNN: 0.98 every two). noam: d^−½ · min(n^−½,
    n · warmup^−1.5) with n = step + 1 ("Attention is all you need", 5.3). cosine: from 1 to `least`. All but
    noam rise linearly over the warm-up.

    Args:
        config: the kind and its numbers.
        step: from 0.
        steps_per_epoch: for decay.
        total_steps: for cosine.
    """
    if config.kind == "noam":
        n, dimension = float(step + 1), float(config.dimension or 1)
        return 1 / sqrt(dimension) * min(1 / sqrt(n), n / sqrt(config.warmup_steps) ** 3)
    rise = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.kind == "decay":
        return rise * config.decay ** (step // steps_per_epoch // config.every_epochs)
    if config.kind == "cosine":
        progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return rise * (config.least + (1 - config.least) * (1 + cos(pi * min(max(progress, 0), 1))) / 2)
    return rise


class Average:
    """An exponential moving average of a network's weights, without the bias towards the first ones.

    After n updates it is Σ dⁱ·w₍ₙ₋ᵢ₎ / Σ dⁱ: the first update is a copy. Buffers of whole numbers are copied.

    Args:
        network: whose weights it begins with.
        decay: d, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weight = 0.0  # Σ dⁱ
        self.values = {name: value.detach().clone() for name, value in network.state_dict().items()}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take the network's present weights in."""
        self.weight = self.decay * self.weight + 1
        for name, value in network.state_dict().items():
            own = self.values[name]
            if own.is_floating_point():
                own.lerp_(value.to(own), 1 / self.weight)
            else:
                own.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        return {"weight": self.weight, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo `state_dict`; tensors stay on their device."""
        self.weight = state["weight"]
        for name, value in state["values"].items():
            self.values[name].copy_(value)

    def to(self, device: torch.device) -> None:
        """Move to where the network is."""
        self.values = {name: value.to(device) for name, value in self.values.items()}


@contextmanager
def weights_of(network: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Give a network other weights inside the block, and its own back after it.

    Args:
        network: of any kind.
        values: a state dict of the same keys and shapes.
    """
    own = {name: value.detach().clone() for name, value in network.state_dict().items()}
    network.load_state_dict(values)
    try:
        yield
    finally:
        network.load_state_dict(own)

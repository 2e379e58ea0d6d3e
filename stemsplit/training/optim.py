"""Optimiser with parameter groups, learning-rate schedule, and exponential moving averages of weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib import import_module
from importlib.util import find_spec
from math import cos, pi, sqrt
from typing import Any

import torch
from torch import Tensor, nn

from stemsplit.models.network import Network
from stemsplit.reading import Invalid
from stemsplit.training.learning import GroupConfig, OptimConfig, ScheduleConfig

# Module and class of each kind; those outside torch come with the extra `optim`.
KINDS = {
    "adam": ("torch.optim", "Adam"),
    "adamw": ("torch.optim", "AdamW"),
    "adamw8bit": ("bitsandbytes.optim", "AdamW8bit"),
    "muon": ("pytorch_optimizer", "Muon"),
    "prodigy": ("prodigyopt", "Prodigy"),
}


def build_optimizer(network: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Return the optimiser of all trainable parameters.

    Raises:
        Invalid: a group matches no parameter, or the kind's library isn't installed.
    """
    make, groups = optimizer_class(config), parameter_groups(network, config)
    lr, betas, eps, decay = config.lr, config.betas, config.eps, config.weight_decay
    if config.kind == "muon":
        # Steps as large as AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2), so
        # that one learning rate suits both.
        adamw = {"adamw_lr": lr, "adamw_betas": betas, "adamw_eps": eps, "adamw_wd": decay}
        return make(_matrices_apart(groups), lr=lr, weight_decay=decay, use_adjusted_lr=True, **adamw)
    return make(groups, lr=lr, betas=betas, eps=eps, weight_decay=decay)


def optimizer_class(config: OptimConfig) -> Callable[..., torch.optim.Optimizer]:
    """Return the class of an optimiser.

    Raises:
        Invalid: its library isn't installed.
    """
    module, name = KINDS[config.kind]
    library = module.partition(".")[0]
    if find_spec(library) is None:
        raise Invalid("kind", f"{config.kind} needs {library}: pip install 'stemsplit-cli[optim]'")
    found: Callable[..., torch.optim.Optimizer] = getattr(import_module(module), name)
    return found


def _matrices_apart(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Split groups into matrices, for Muon, and biases and scales, for AdamW."""
    parts = [
        {**group, "params": [p for p in group["params"] if (p.dim() > 1) == matrices], "use_muon": matrices}
        for group in groups
        for matrices in (True, False)
    ]
    return [part for part in parts if part["params"]]


def parameter_groups(network: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of equal settings, those with the general settings first.

    The first group of the configuration that matches a parameter overrides the network's own settings for it
    (`Network.optimizer_overrides`), and these override the general ones.

    Raises:
        Invalid: a group matches no parameter.
    """
    overrides = network.optimizer_overrides() if isinstance(network, Network) else {}
    chosen = [*map(_differences, config.groups), {}]
    own = [*overrides.values(), {}]
    general = len(config.groups), len(overrides)  # the key of parameters that nothing matches
    members: dict[tuple[int, int], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            patterns = [group.match for group in config.groups]
            key = _first_match(name, patterns), _first_match(name, [*overrides])
            members.setdefault(key, []).append(parameter)
    for index, group in enumerate(config.groups):
        if all(key[0] != index for key in members):
            raise Invalid(f"groups.{index}.match", _why_empty(network, group.match))
    # loggers report the learning rate of the first group
    keys = sorted(members, key=lambda key: (key != general, key))
    return [{"params": members[key], **own[key[1]], **chosen[key[0]]} for key in keys]


def _why_empty(network: nn.Module, pattern: str) -> str:
    """Return the reason why a group with this pattern has no parameters."""
    called = [one for name, one in network.named_parameters() if fnmatchcase(name, pattern)]
    if not called:
        return f"no parameter is called {pattern}"
    if not any(one.requires_grad for one in called):
        return f"all parameters called {pattern} are frozen"
    return f"earlier groups take all parameters called {pattern}"


def _first_match(name: str, patterns: Sequence[str]) -> int:
    """Return the index of the first pattern that a name matches, or the number of patterns."""
    matches = (index for index, pattern in enumerate(patterns) if fnmatchcase(name, pattern))
    return next(matches, len(patterns))


def _differences(group: GroupConfig) -> dict[str, float]:
    """Return the settings of a group that differ from the general ones."""
    values = {"lr": group.lr, "weight_decay": group.weight_decay}
    return {key: value for key, value in values.items() if value is not None}


def schedule_factor(config: ScheduleConfig, step: int, steps_per_epoch: int, total_steps: int) -> float:
    """Return the factor of the learning rate at a step.

    With n = step + 1:
        constant: 1.
        decay: decay^⌊epoch / every_epochs⌋ (BSRNN: 0.98 every two epochs).
        noam: d^−½ · min(n^−½, n · warmup^−3/2) (Vaswani et al., "Attention is all you need", section 5.3).
        cosine: half a cosine from 1 to `least` (Loshchilov and Hutter, "SGDR", equation 5, without restarts).
    All but noam rise linearly during the warm-up.

    Args:
        config: kind and parameters.
        step: from 0.
        steps_per_epoch: for decay.
        total_steps: for cosine.
    """
    if config.kind == "noam":
        n, dimension = float(step + 1), float(config.dimension or 1)
        return 1 / sqrt(dimension) * min(1 / sqrt(n), n / sqrt(config.warmup_steps) ** 3)
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.kind == "decay":
        return warmup * config.decay ** (step // steps_per_epoch // config.every_epochs)
    if config.kind == "cosine":
        progress = (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps)
        return warmup * (config.least + (1 - config.least) * (1 + cos(pi * min(max(progress, 0), 1))) / 2)
    return warmup


class Ema:
    """Bias-corrected exponential moving average (EMA) of a network's weights.

    With decay d, after n updates it is Σ dⁱ·w₍ₙ₋ᵢ₎ / Σ dⁱ, i < n: the first update is a copy, and the initial
    weights have no influence. Integer buffers are copied, and frozen parameters are left out.

    Args:
        network: gives names, shapes and devices.
        decay: d, in [0, 1).
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weight = 0.0  # Σ dⁱ
        frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
        state = network.state_dict().items()
        self.values = {name: value.detach().clone() for name, value in state if name not in frozen}

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Add the network's current weights to the average."""
        self.weight = self.decay * self.weight + 1
        state = network.state_dict()
        for name, own in self.values.items():
            value = state[name]
            if own.is_floating_point():
                # w̄ₙ = w̄ₙ₋₁ + (wₙ − w̄ₙ₋₁) / Σ dⁱ
                own.lerp_(value.to(own), 1 / self.weight)
            else:
                own.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of an exact resume; its keys never change."""
        return {"weight": self.weight, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; tensors stay on their device."""
        self.weight = state["weight"]
        for name, value in state["values"].items():
            self.values[name].copy_(value)

    def to(self, device: torch.device) -> None:
        """Move the averages to a device."""
        self.values = {name: value.to(device) for name, value in self.values.items()}


@contextmanager
def temporary_weights(network: nn.Module, values: dict[str, Tensor]) -> Iterator[None]:
    """Load other weights into a network inside the block, and restore its own afterwards.

    Args:
        network: any module.
        values: state dict with the network's keys and shapes; weights that it lacks stay as they are.
    """
    own = {k: value.detach().clone() for k, value in network.state_dict().items() if k in values}
    network.load_state_dict(values, strict=False)
    try:
        yield
    finally:
        network.load_state_dict(own, strict=False)

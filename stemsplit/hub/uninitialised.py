"""Build networks without initialising weights that are about to be loaded."""

from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode


class Uninitialised(TorchFunctionMode):
    """Skip the random initialisation of parameters whose weights are about to be loaded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, unless it would fill a parameter with random values."""
        given = kwargs or {}
        target = args[0] if args else given.get("tensor")
        if getattr(func, "__name__", "").endswith(("uniform_", "normal_")) and isinstance(
            target, nn.Parameter
        ):
            return target
        return func(*args, **given)

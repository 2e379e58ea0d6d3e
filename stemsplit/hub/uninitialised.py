"""Build networks without initialising weights that are about to be loaded."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Uninitialised(TorchFunctionMode):
    """Skip the initialisation and rescaling of parameters whose weights are about to be loaded."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, unless it would fill a parameter with random values or rescale it."""
        given = kwargs or {}
        if isinstance(target := args[0] if args else given.get("tensor"), nn.Parameter):
            name = getattr(func, "__name__", "")
            if name.endswith(("uniform_", "normal_", "div_")):
                return target
            if name == "std":
                return torch.ones(())
        return func(*args, **given)

"""Build networks without initialising weights that are about to be loaded."""

from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Uninitialised(TorchFunctionMode):
    """Skip the initialisation and rescaling of parameters whose weights are about to be loaded.

    The rest is little work, for which torch starts no threads: idle ones would slow down those that compute.
    """

    def __enter__(self) -> Self:
        """Begin to skip."""
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Initialise again."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.set_num_threads(self._threads)

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

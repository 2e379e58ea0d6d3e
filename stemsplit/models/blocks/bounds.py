"""Limits on a checkpoint's arguments, so that a malicious or broken file fails at once.

A file may say `depth: 1000000000`. A list of the arguments that create layers would never be complete, so the
limits are on the layers and tensors themselves, counted while a network is built.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

from torch import nn
from torch.nn.modules import module as hooks

from stemsplit.errors import StemsplitError

# Largest argument that is no rate, length or seed; released networks have none above 8192, a window size.
LARGEST = 1_000_000
# Largest number of layers, which some families plan before they make any; released networks have up to 12.
DEEPEST = 1_000
# Layers, parameters and buffers of a network; the largest published one, a RoFormer of 53 stems, has 34 105.
MOST_PARTS = 40_000
# Parameters of one layer: an LSTM of three layers in both directions has 24. torch takes quadratic time to
# add them, which is minutes for a hundred thousand.
MOST_OF_ONE = 1_000
# Names of numbers that may be negative; in Demucs that means no dilation, the mixture's phase, or every layer
_SIGNED = re.compile("dconv_|iters|norm_starts|aggressiveness")
# Names of integers that no network has at 0
_POSITIVE = re.compile(
    "fft|hop|step|stride|kernel|heads|components|frames|percussive|win(_|$)|(?<!bottom_)channels$|rate$|^sr$"
)


def require_bounded(key: str, value: Any) -> None:
    """Refuse an argument that is, or contains, a number that no network has.

    Raises:
        StemsplitError: it is negative or too large, or zero where a network has something.
    """
    inside = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    for item in inside:
        require_bounded(key, item)
    if isinstance(value, int | float) and value < 0 and not _SIGNED.search(key):
        raise StemsplitError(f"{key} {value}: must not be negative")
    if type(value) is int and value == 0 and _POSITIVE.search(key):
        raise StemsplitError(f"{key} {value}: must be positive")
    if re.search("sample|segment|seed", key):  # rates and lengths are large but create no layers
        return
    most = DEEPEST if re.search("depth|layers", key) else LARGEST
    if isinstance(value, int) and abs(value) > most:
        raise StemsplitError(f"{key} {value}: no network has more than {most}")


@contextmanager
def bounded_parts() -> Iterator[None]:
    """Stop this thread from building a network with too many parts, inside the block.

    Raises:
        StemsplitError: a network would have more than `MOST_PARTS`, or a layer more than `MOST_OF_ONE`.
    """
    builder, count = get_ident(), 0

    def add(module: nn.Module, name: str, part: Any) -> None:
        nonlocal count
        if get_ident() != builder:  # torch's hooks are global: other threads may build networks too
            return
        count += 1
        if count > MOST_PARTS or len(module._parameters) > MOST_OF_ONE:
            raise StemsplitError(f"more layers than any network has ({type(module).__name__}, {name})")

    with ExitStack() as stack:
        for register in (
            hooks.register_module_module_registration_hook,
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
        ):
            stack.callback(register(add).remove)
        yield

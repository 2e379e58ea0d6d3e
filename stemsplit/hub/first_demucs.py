"""Packages of demucs 1 (2020 and 2021): a pickled tuple of class, arguments, keywords and state.

facebookresearch/demucs, from commit 3c7876d to f7654e3: utils.py has the format, model.py and tasnet.py the
constructors. Demucs 2 dropped an option of the networks, `upsample`, and kept the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from stemsplit.errors import StemsplitError
from stemsplit.models.demucs import STD_FLOOR

INPUT = "encoder.0.0.weight"  # of the first convolution; Conv-TasNet has none of this name
STEMS = ("drums", "bass", "other", "vocals")  # separate.py; the packages have only their number


@dataclass(frozen=True)
class Constructor:
    """Constructor of a network.

    Attributes:
        names: of its arguments, in order.
        count: the name of the number of stems.
        own: arguments with other defaults than our family's; separate.py has chunks of 10 s.
    """

    names: tuple[str, ...]
    count: str
    own: Mapping[str, Any]


CONSTRUCTORS = {
    "demucs.model.Demucs": Constructor(
        (
            *("sources", "audio_channels", "channels", "depth", "rewrite", "glu", "upsample", "rescale"),
            *("kernel_size", "stride", "growth", "lstm_layers", "context", "samplerate"),
        ),
        "sources",
        {"resample": False, "segment_length": 441_000},
    ),
    "demucs.tasnet.ConvTasNet": Constructor(
        ("N", "L", "B", "H", "P", "X", "R", "C", "audio_channels", "norm_type", "causal", "mask_nonlinear"),
        "C",
        {"audio_channels": 1, "segment_length": 441_000},
    ),
}


def is_first(content: Any) -> bool:
    """Return whether the content of a checkpoint is such a package."""
    return isinstance(content, tuple) and len(content) == 4 and hasattr(content[0], "path")


def renewed(content: tuple[Any, ...]) -> dict[str, Any]:
    """Return the content of such a package as the mapping that later packages are.

    Raises:
        StemsplitError: it is malformed, or of a network that isn't supported.
    """
    klass, positional, keywords, state = content
    constructor = CONSTRUCTORS.get(klass.path)
    if constructor is None:
        raise StemsplitError(f"has a {klass.path}, which demucs 1 didn't have")
    if not (isinstance(positional, tuple | list) and isinstance(keywords, dict)):
        raise StemsplitError("its package is malformed")
    if len(positional) > len(constructor.names):
        raise StemsplitError(f"more arguments than a {klass.path} takes")
    given = {**dict(zip(constructor.names, positional, strict=False)), **keywords}
    if given.pop("upsample", False):
        raise StemsplitError("a variant of the network that isn't supported: upsample")
    if (count := given.pop(constructor.count, len(STEMS))) != len(STEMS):
        raise StemsplitError(f"{count} stems, whose names it doesn't say")
    keywords = {**constructor.own, **given, "sources": STEMS}
    return {"klass": klass, "args": (), "kwargs": keywords, "state": _undivided(state)}


def _undivided(state: Any) -> Any:
    """Return weights with which demucs 2, which divides its input by 1 + STD_FLOOR, computes the same."""
    first = state.get(INPUT) if isinstance(state, dict) else None
    return {**state, INPUT: first * (1 + STD_FLOOR)} if isinstance(first, Tensor) else state

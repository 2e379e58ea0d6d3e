"""Match the tensors of a checkpoint to the names that a network uses.

Training programs wrap what they save: in mappings (`{"model": state, "optimizer": …}`), in modules that add a
prefix to every name (`module.` of DataParallel, `model.` of Lightning, `ema_model.` of averages), or both. No
list of such prefixes would be complete, so the prefix that matches most of the network's names is chosen.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stemsplit.errors import CheckpointError

State = dict[str, Tensor]

INSIDE = "/"  # separates the name of a mapping from a name in it
MAX_DEPTH = 4  # of nested mappings

# The attribute in which a wrapper keeps its module: `_orig_mod` of torch.compile, `_fsdp_wrapped_module` and
# so on. No network here has such names.
_WRAPPER = re.compile(r"(?:(?<=[./])|^)_\w+\.")

# Words in the names of a trainer's own tensors, such as those of its loss
_TRAINER = frozenset(
    "loss losses criterion criteria metric metrics optim optimizer scheduler scaler epoch step steps averaged"
    " ema swa shadow teacher discriminator augment augmentation updates initted".split()
)
_AVERAGES = frozenset("ema swa shadow averaged average averages avg polyak teacher".split())
# Words in the names of tensors that have the weights' names and shapes, but are none
_STATISTICS = frozenset(
    "optim optimizer optimizers optimiser grad grads gradient gradients momentum exp sq fisher".split()
)


class Fitted(NamedTuple):
    """Tensors of a checkpoint that belong to the network.

    Attributes:
        prefix: the prefix that the network's names had.
        state: tensors by name without the prefix, without those of a trainer.
        foreign: names without the prefix that belong neither to the network nor to a trainer.
    """

    prefix: str
    state: State
    foreign: tuple[str, ...]


def flat(content: Mapping[Any, Any]) -> State:
    """Return the tensors of nested mappings by name, with their mapping's path if there are several."""
    found = {_WRAPPER.sub("", name): value for name, value in _walk(content, "", MAX_DEPTH)}
    paths = {_mapping_path(name) for name in found}
    shared = paths.pop() if len(paths) == 1 else ""
    return {name.removeprefix(shared): value for name, value in found.items()}


def fit(state: Mapping[str, Tensor], wanted: Collection[str]) -> Fitted:
    """Find the network's tensors in those of a checkpoint.

    Of the prefixes that match many of the names, the weights are preferred to an average of them, then what
    matches most, then a shorter prefix to a longer one, then the first one. The programs that released
    checkpoints come from and run in (MSST, pymss) read `state`, `state_dict` or `model_state_dict` and no
    average beside it; where MSST means an average, it writes that one under `model_state_dict`.

    Args:
        state: tensors by name, from `flat`.
        wanted: the names that the network uses; some may be missing, which `fill` checks.
    """
    names = frozenset(wanted)
    counts = Counter(
        name[:start]
        for name in state
        for start in _starts(name)
        if name[start:] in names and not _STATISTICS & _words(name[:start])
    )
    many = max(counts.values(), default=0) / 2  # else it isn't a state of this network
    prefix = max(
        (prefix for prefix, count in counts.items() if count >= many),
        key=lambda p: (not _AVERAGES & _words(p), counts[p], -len(p)),
        default=_largest_mapping(state),
    )
    copies = [other for other in counts if other != prefix and counts[other] == counts[prefix]]
    kept, foreign = {}, []
    for name, value in state.items():
        bare = name.removeprefix(prefix)
        if bare in names and name.startswith(prefix):
            kept[bare] = value
        elif _mapping_path(name) == _mapping_path(prefix) and not _is_trainers(name, prefix, copies):
            if name.startswith(prefix):
                kept[bare] = value
            else:
                foreign.append(name)
    return Fitted(prefix, kept, tuple(foreign))


def different_shape(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return which tensor has another shape than the network's, for an error message; "" if none has."""
    for key, value in state.items():
        if key in own and own[key].shape != value.shape:
            return f": {key} is {list(value.shape)}, not {list(own[key].shape)}"
    return ""


def no_numbers(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Return which weight isn't of floating-point numbers, for an error message; "" if all are."""
    for key, value in state.items():
        if key in own and own[key].is_floating_point() and not value.is_floating_point():
            return f": {key} is {str(value.dtype).removeprefix('torch.')}"
    return ""


def shortened(keys: Sequence[str]) -> str:
    """Return the first two names, and the number of the others."""
    more = f" and {len(keys) - 2} more" if len(keys) > 2 else ""
    return ", ".join(keys[:2]) + more


def require_finite(path: Path, state: Iterable[tuple[str, Tensor]], where: str = "") -> None:
    """Refuse weights that would make every output NaN.

    Raises:
        CheckpointError: a tensor has a NaN or infinite value.
    """
    for key, value in state:
        real = torch.view_as_real(value) if value.is_complex() else value
        # NaN and infinity survive a sum, and no sum of float32 values overflows float64
        if real.is_floating_point() and not real.sum(dtype=torch.float64).isfinite():
            raise CheckpointError(path, f"its weights are damaged: {where}{key} holds NaN or infinite values")


def _walk(content: Mapping[Any, Any], place: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            yield place + key, value
        elif isinstance(key, str) and isinstance(value, Mapping) and depth:
            yield from _walk(value, f"{place}{key}{INSIDE}", depth - 1)


def _mapping_path(name: str) -> str:
    """Return the path of the mappings that a name is in."""
    return name[: name.rfind(INSIDE) + 1]


def _largest_mapping(state: Mapping[str, Tensor]) -> str:
    """Return the path of the mapping with the most tensors."""
    return Counter(map(_mapping_path, state)).most_common(1)[0][0]


def _starts(name: str) -> Iterator[int]:
    yield 0
    yield from (match.end() for match in re.finditer(r"[./]", name))


def _words(name: str) -> set[str]:
    apart = re.sub("(?<=[a-z])(?=[A-Z])", "_", name)  # emaModel
    return set(re.split(r"[^a-z]+", apart.lower()))


def _is_trainers(name: str, prefix: str, copies: Collection[str]) -> bool:
    """Return whether a tensor belongs to a trainer, or to a second copy of the network."""
    beside = name.removeprefix(prefix) if name.startswith(prefix) else name[len(_mapping_path(name)) :]
    return name.startswith(tuple(copies)) or bool(_TRAINER & _words(beside.split(".")[0]))

"""The tensors of a checkpoint under the names that a network uses.

Training programs wrap what they save: in mappings (`{"model": state, "optimizer": …}`), in modules that put
a prefix before every name (`module.` of DataParallel, `model.` of Lightning, `ema_model.` of averages), or
both. No list of such prefixes would be complete. So the prefix is looked for under which the network's own
names stand, whatever it is.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

State = dict[str, Tensor]

INSIDE = "/"  # between the name of a mapping and a name in it
DEEPEST = 4  # mappings within mappings

# The attribute in which a wrapper holds its module: `_orig_mod` of torch.compile, `_fsdp_wrapped_module` and
# so on. No network here has such names.
_WRAPPER = re.compile(r"(?:(?<=[./])|^)_\w+\.")

# Words in the names of a trainer's own tensors, beside those of the network that it trains.
_TRAINER = frozenset(
    "loss losses criterion criteria metric metrics optim optimizer scheduler scaler epoch step steps averaged"
    " ema swa shadow teacher discriminator augment augmentation".split()
)
_AVERAGES = frozenset("ema swa shadow averaged average teacher".split())


class Fitted(NamedTuple):
    """The part of a checkpoint that belongs to the network.

    Attributes:
        prefix: what stood before the network's names.
        state: without that prefix; what belongs to a trainer is left out.
        foreign: names beside the prefix that are neither the network's nor a trainer's.
    """

    prefix: str
    state: State
    foreign: tuple[str, ...]


def flat(content: Mapping[Any, Any]) -> State:
    """Return the tensors in nested mappings by name, behind their mapping's name where there are several."""
    found = {_WRAPPER.sub("", name): value for name, value in _walk(content, "", DEEPEST)}
    homes = {_home(name) for name in found}
    alone = homes.pop() if len(homes) == 1 else ""
    return {name.removeprefix(alone): value for name, value in found.items()}


def fit(state: Mapping[str, Tensor], wanted: Collection[str]) -> Fitted:
    """Find the network's tensors in those of a checkpoint.

    Where several prefixes fit equally well, an average of the weights comes after the weights themselves, a
    longer prefix after a shorter, a later one after an earlier.

    Args:
        state: of `flat`.
        wanted: the names that the network uses. Not all need be there: that's for the network to judge.
    """
    names = frozenset(wanted)
    counts = Counter(name[:start] for name in state for start in _starts(name) if name[start:] in names)
    prefix = max(counts, key=lambda p: (counts[p], not _AVERAGES & _words(p), -len(p)), default=_main(state))
    copies = [other for other in counts if other != prefix and counts[other] == counts[prefix]]
    kept, foreign = {}, []
    for name, value in state.items():
        bare = name.removeprefix(prefix)
        if bare in names and name.startswith(prefix):
            kept[bare] = value
        elif _home(name) == _home(prefix) and not _is_trainers(name, prefix, copies):
            if name.startswith(prefix):
                kept[bare] = value
            else:
                foreign.append(name)
    return Fitted(prefix, kept, tuple(foreign))


def _walk(content: Mapping[Any, Any], place: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(key, str) and isinstance(value, Tensor):
            yield place + key, value
        elif isinstance(key, str) and isinstance(value, Mapping) and depth:
            yield from _walk(value, f"{place}{key}{INSIDE}", depth - 1)


def _home(name: str) -> str:
    """The mappings that a name is in."""
    return name[: name.rfind(INSIDE) + 1]


def _main(state: Mapping[str, Tensor]) -> str:
    """The mapping with the most tensors."""
    return Counter(map(_home, state)).most_common(1)[0][0]


def _starts(name: str) -> Iterator[int]:
    yield 0
    yield from (match.end() for match in re.finditer(r"[./]", name))


def _words(name: str) -> set[str]:
    return set(re.split(r"[^a-z]+", name.lower()))


def _is_trainers(name: str, prefix: str, copies: Collection[str]) -> bool:
    """Return whether a foreign tensor is a trainer's, or of a second copy of the network."""
    beside = name.removeprefix(prefix) if name.startswith(prefix) else name[len(_home(name)) :]
    return name.startswith(tuple(copies)) or bool(_TRAINER & _words(beside.split(".")[0]))

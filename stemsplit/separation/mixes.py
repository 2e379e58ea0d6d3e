"""What a track's outputs are: stems, complements (`no_vocals`) and mixes of stems, as sums with signs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.settings import StemSettings

MIX = "mix"  # the input itself, as a term of a sum
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Output:
    """One output: the sum of the `plus` terms less the `minus` terms, each a stem or the mix."""

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "".join(["+".join(self.plus), *(f"-{name}" for name in self.minus)])


def plan_outputs(stems: Sequence[str], settings: StemSettings) -> tuple[Output, ...]:
    """The outputs that `settings` ask of a model that gives `stems`.

    Raises:
        UnknownNameError: a stem that the model doesn't give.
        SettingsError: a mix with a bad name or one that is taken.
    """
    for name in (*(settings.stems or ()), *(part for _, parts in settings.mixes for part in parts)):
        if name not in stems:
            raise UnknownNameError("stem", name, tuple(stems))
    if settings.karaoke:
        return (_karaoke(stems),)
    wanted = [stem for stem in stems if settings.stems is None or stem in settings.stems]
    outputs = [Output(stem, (stem,)) for stem in wanted]
    if settings.rest:
        outputs += [Output(f"no_{stem}", (MIX,), (stem,)) for stem in wanted]
    outputs += [Output(name, parts) for name, parts in settings.mixes]
    _check_names(outputs)
    return tuple(outputs)


def _karaoke(stems: Sequence[str]) -> Output:
    if "vocals" not in stems or len(stems) < 2:
        raise SettingsError(
            f"--karaoke: the model separates no vocals from something else (it gives {', '.join(stems)})",
            setting="--karaoke",
        )
    return Output("instrumental", tuple(stem for stem in stems if stem != "vocals"))


def _check_names(outputs: Sequence[Output]) -> None:
    seen = set()
    for output in outputs:
        if not NAME.fullmatch(output.name):
            raise SettingsError(
                f"--mix {output.name}: a name takes letters, digits, - and _ only", setting="--mix"
            )
        if output.name.lower() in seen:
            raise SettingsError(f"--mix {output.name}: there is an output of that name", setting="--mix")
        seen.add(output.name.lower())


def needed_stems(outputs: Sequence[Output], stems: Sequence[str]) -> tuple[str, ...]:
    """Those of a model's `stems` that some output is made of, in the model's order."""
    terms = {term for output in outputs for term in (*output.plus, *output.minus)}
    return tuple(stem for stem in stems if stem in terms)


def mix_down(outputs: Sequence[Output], terms: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Compute the outputs from their terms.

    Args:
        outputs: O sums.
        terms: [C, n] for every stem needed, and the mix itself under `MIX`.

    Returns:
        [O, C, n].
    """

    def total(names: Sequence[str]) -> NDArray[np.float32]:
        return reduce(np.add, (terms[name] for name in names))

    return np.stack([total(o.plus) - total(o.minus) if o.minus else total(o.plus) for o in outputs])

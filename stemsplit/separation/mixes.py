"""What a track's outputs are: stems, complements (`no_vocals`) and mixes of stems, as sums with signs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from stemsplit.errors import SettingsError
from stemsplit.settings import StemSettings
from stemsplit.stems import canonical, find_stem

MIX = "the mix"  # the input itself, as a term of a sum; no canonical name of a stem has a space
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Output:
    """One output: the sum of the `plus` terms less the `minus` terms, each a stem or the mix."""

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    def __str__(self) -> str:
        plus, minus = (["mix" if name == MIX else name for name in each] for each in (self.plus, self.minus))
        return "".join(["+".join(plus), *(f"-{name}" for name in minus)])

    def expand(self, residual: str, stems: Sequence[str]) -> "Output":
        """Return the same sum with the `residual` stem written as the mix less all `stems`."""
        plus, minus = list[str](), list[str]()
        for names, same, other in ((self.plus, plus, minus), (self.minus, minus, plus)):
            for name in names:
                same.append(MIX if name == residual else name)
                if name == residual:
                    other.extend(stems)
        for name in [name for name in plus if name in minus]:
            plus.remove(name)
            minus.remove(name)
        return Output(self.name, tuple(plus), tuple(minus))


def plan_outputs(stems: Sequence[str], settings: StemSettings) -> tuple[Output, ...]:
    """The outputs that `settings` ask of a model that gives `stems`.

    Raises:
        UnknownNameError: a stem that the model doesn't give.
        SettingsError: a mix with a bad name or one that is taken.
    """
    if settings.karaoke:
        return (_karaoke(stems),)
    named = stems if settings.stems is None else {find_stem(name, stems) for name in settings.stems}
    wanted = [stem for stem in stems if stem in named]
    outputs = [Output(stem, (stem,)) for stem in wanted]
    if settings.rest:
        outputs = _joined(outputs, [Output(f"no_{stem}", (MIX,), (stem,)) for stem in wanted], "--rest")
    mixes = [
        Output(_mix_name(name), tuple(find_stem(part, stems) for part in parts))
        for name, parts in settings.mixes
    ]
    return tuple(_joined(outputs, mixes, "--mix"))


def _karaoke(stems: Sequence[str]) -> Output:
    if "vocals" not in stems or len(stems) < 2:
        raise SettingsError(
            f"--karaoke: the model separates no vocals from something else (it gives {', '.join(stems)})",
            setting="--karaoke",
        )
    return Output("instrumental", tuple(stem for stem in stems if stem != "vocals"))


def _mix_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise SettingsError(f"--mix {name}: a name takes letters, digits, - and _ only", setting="--mix")
    return name


def _joined(outputs: Sequence[Output], more: Sequence[Output], flag: str) -> list[Output]:
    """All outputs, none of which may have the name of another; `flag` asked for `more`."""
    found = list(outputs)
    for output in more:
        if canonical(output.name) in (canonical(other.name) for other in found):
            raise SettingsError(f"{flag}: two outputs would be called {output.name}", setting=flag)
        found.append(output)
    return found


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

"""The outputs of a track: stems, complements (`no_vocals`) and mixes of stems, as sums with signs."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.settings import StemSettings
from stemsplit.stems import ACCOMPANIMENTS, canonical, find_stem

MIX = "the mix"  # the input itself, as a term of a sum; no canonical name of a stem has a space
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Sum:
    """The sum of the `plus` terms less the `minus` terms, each a stem or the mix."""

    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    def __str__(self) -> str:
        plus, minus = (["mix" if name == MIX else name for name in each] for each in (self.plus, self.minus))
        return "".join(["+".join(plus), *(f"-{name}" for name in minus)])

    @property
    def terms(self) -> tuple[str, ...]:
        """All terms, those with a minus last."""
        return (*self.plus, *self.minus)

    def less(self, other: "Sum") -> "Sum":
        """Return the difference of two sums."""
        return Sum((*self.plus, *other.minus), (*self.minus, *other.plus)).expand({})

    def expand(self, known: Mapping[str, "Sum"]) -> "Sum":
        """Return the same sum with the terms that are `known` written out; what cancels is left out."""
        plus, minus = list[str](), list[str]()
        for names, same, other in ((self.plus, plus, minus), (self.minus, minus, plus)):
            for name in names:
                found = known.get(name, Sum((name,)))
                same.extend(found.plus)
                other.extend(found.minus)
        for name in [name for name in plus if name in minus]:
            if name in minus:
                plus.remove(name)
                minus.remove(name)
        return Sum(tuple(plus), tuple(minus))


@dataclass(frozen=True)
class Output:
    """One output: a name, and the sum of terms that it is."""

    name: str
    plus: tuple[str, ...]
    minus: tuple[str, ...] = ()

    @property
    def sum(self) -> Sum:
        """The terms."""
        return Sum(self.plus, self.minus)

    def __str__(self) -> str:
        return str(self.sum)


def plan_outputs(
    stems: Sequence[str], settings: StemSettings, divided: Sequence[str] = ()
) -> tuple[Output, ...]:
    """Return the outputs that `settings` ask of what gives `stems`.

    Args:
        stems: that are given.
        settings: which outputs are wanted.
        divided: stems that are given in parts, such as `vocals` as `vocals.lead` and `vocals.backing`. Such a
            name stands for all of its parts, and in a sum for the stem itself.

    Raises:
        UnknownNameError: there is no such stem.
        SettingsError: a mix with a bad name or one that is taken.
    """
    whole = [*stems, *(stem for stem in divided if stem not in stems)]
    if settings.karaoke:
        return (_karaoke(whole),)
    wanted = [Output(stem, (stem,)) for stem in stems]
    if settings.stems is not None:
        found = {output.name: output for name in settings.stems for output in _named(name, stems, divided)}
        # stems in the order of the model, then what is a sum
        wanted = [found.pop(stem) for stem in stems if stem in found] + list(found.values())
    outputs = wanted
    if settings.rest:
        outputs = _joined(
            outputs, [_output(f"no_{o.name}", Sum((MIX,)).less(o.sum)) for o in wanted], "--rest"
        )
    mixes = [
        _output(_mix_name(name), Sum(parts).expand({part: find_sum(part, whole) for part in parts}))
        for name, parts in settings.mixes
    ]
    return tuple(_joined(outputs, mixes, "--mix"))


def find_sum(name: str, stems: Sequence[str]) -> Sum:
    """Return the stem, or the sum of stems and mix, that `name` means.

    `instrumental` and `accompaniment` are the mix less the vocals, and `no_STEM` is the mix less that stem,
    where no stem is called so.

    Raises:
        UnknownNameError: there is no such stem.
    """
    try:
        return Sum((find_stem(name, stems),))
    except UnknownNameError:
        asked = canonical(name)
        if asked in ACCOMPANIMENTS and "no_vocals" in stems:
            return Sum(("no_vocals",))
        part = "vocals" if asked in ACCOMPANIMENTS else asked.removeprefix("no_")
        if part == asked or part not in stems:
            raise
        return Sum((MIX,), (part,))


def _output(name: str, total: Sum) -> Output:
    return Output(name, total.plus, total.minus)


def _named(name: str, stems: Sequence[str], divided: Sequence[str]) -> Iterator[Output]:
    """Yield the outputs that a name in `--stem` means."""
    whole = [*stems, *(stem for stem in divided if stem not in stems)]
    try:
        total = find_sum(name, whole)
    except UnknownNameError:
        raise UnknownNameError("stem", name, tuple(stems)) from None
    stem = total.plus[0]
    if len(total.terms) > 1 or (canonical(name) in ACCOMPANIMENTS and canonical(name) != stem):
        yield _output(canonical(name), total)
    elif stem in stems:
        yield Output(stem, (stem,))
    else:
        yield from (Output(part, (part,)) for part in stems if part.startswith(f"{stem}."))


def _karaoke(stems: Sequence[str]) -> Output:
    """Return everything but the vocals: the accompaniment if it is given, or the sum of the other stems."""
    given = [stem for stem in stems if stem in ACCOMPANIMENTS]
    others = [stem for stem in stems if stem != "vocals" and "." not in stem]
    if not given and ("vocals" not in stems or not others):
        raise SettingsError(
            f"--karaoke: the model separates no vocals from something else (it gives {', '.join(stems)})",
            setting="--karaoke",
        )
    return Output("instrumental", tuple(given[:1] or others))


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


class Terms(Protocol):
    """A sum, or an output that is one."""

    @property
    def plus(self) -> tuple[str, ...]:
        """The terms that are added."""

    @property
    def minus(self) -> tuple[str, ...]:
        """The terms that are taken away."""


def mix_down(sums: Sequence[Terms], terms: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Compute sums from their terms.

    Args:
        sums: K sums.
        terms: [C, n] for every term.

    Returns:
        [K, C, n].
    """

    def total(names: Sequence[str]) -> NDArray[np.float32]:
        return reduce(np.add, (terms[name] for name in names))

    return np.stack([total(o.plus) - total(o.minus) if o.minus else total(o.plus) for o in sums])

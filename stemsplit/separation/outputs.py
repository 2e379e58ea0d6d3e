"""The outputs of a track as signed sums: stems, complements (`no_vocals` = mix − vocals) and mixes of stems.

`plan_outputs` makes them from the settings, `flow` expands them to sums of signals, `mix_down` computes them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.settings import StemSettings
from stemsplit.stems import ACCOMPANIMENTS, canonical, find_stem

MIX = "the mix"  # the input itself as a term of a sum; the space sets it apart from names of stems
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

    def __add__(self, other: "Sum") -> "Sum":
        return Sum((*self.plus, *other.plus), (*self.minus, *other.minus)).expand({})

    def __sub__(self, other: "Sum") -> "Sum":
        return self + Sum(other.minus, other.plus)

    def expand(self, known: Mapping[str, "Sum"]) -> "Sum":
        """Return the sum with `known` terms replaced by their sums, without terms that cancel."""
        plus, minus = list[str](), list[str]()
        for names, same, other in ((self.plus, plus, minus), (self.minus, minus, plus)):
            for name in names:
                found = known.get(name, Sum((name,)))
                same.extend(found.plus)
                other.extend(found.minus)
        # A term that is both added and subtracted cancels, once per pair.
        for name in [name for name in plus if name in minus]:
            if name in minus:
                plus.remove(name)
                minus.remove(name)
        return Sum(tuple(plus), tuple(minus))


@dataclass(frozen=True)
class Output:
    """One output: its name, and the sum of stems and mix that it is."""

    name: str
    sum: Sum


def plan_outputs(
    stems: Sequence[str], settings: StemSettings, divided: Sequence[str] = ()
) -> tuple[Output, ...]:
    """Return the outputs that `settings` ask for.

    Args:
        stems: the stems that the model or recipe gives.
        settings: the outputs that are asked for.
        divided: stems that aren't given themselves: those that are given in parts, such as `vocals` as
            `vocals.lead` and `vocals.backing`, and those inside a recipe with outputs of its own. With
            `--stem` such a name means all of its parts if there are some, in a sum the stem itself.

    Raises:
        UnknownNameError: there is no such stem.
        SettingsError: the name of a mix is invalid or taken.
    """
    whole = [*stems, *(stem for stem in divided if stem not in stems)]
    if settings.karaoke:
        inner = [stem for stem in divided if not any(part.startswith(f"{stem}.") for part in stems)]
        return (_karaoke(whole, stems if inner else whole),)
    wanted = [Output(stem, Sum((stem,))) for stem in stems]
    if settings.stems is not None:
        found = {output.name: output for name in settings.stems for output in _named(name, stems, divided)}
        # stems in the order of the model, then sums
        wanted = [found.pop(stem) for stem in stems if stem in found] + list(found.values())
    outputs = wanted
    if settings.rest:
        rests = [Output(f"no_{output.name}", Sum((MIX,)) - output.sum) for output in wanted]
        outputs = _joined(outputs, rests, "--rest")
    mixes = [
        Output(_mix_name(name), Sum(parts).expand({part: find_sum(part, whole) for part in parts}))
        for name, parts in settings.mixes
    ]
    return tuple(_joined(outputs, mixes, "--mix"))


def find_sum(name: str, stems: Sequence[str]) -> Sum:
    """Return the stem, or the sum of stems and mix, that `name` means.

    If no stem has that name, `instrumental` and `accompaniment` are the mix less the vocals, and `no_STEM` is
    the mix less that stem.

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


def _named(name: str, stems: Sequence[str], divided: Sequence[str]) -> Iterator[Output]:
    """Yield the outputs that a name given with `--stem` means."""
    whole = [*stems, *(stem for stem in divided if stem not in stems)]
    try:
        total = find_sum(name, whole)
    except UnknownNameError:
        raise UnknownNameError("stem", name, tuple(stems)) from None
    stem = total.plus[0]
    if len(total.terms) > 1 or (canonical(name) in ACCOMPANIMENTS and canonical(name) != stem):
        yield Output(canonical(name), total)
    elif stem in stems:
        yield Output(stem, total)
    else:
        parts = [part for part in stems if part.startswith(f"{stem}.")]
        yield from (Output(name, Sum((name,))) for name in parts or [stem])


def _karaoke(whole: Sequence[str], stems: Sequence[str]) -> Output:
    """Return the output of `--karaoke`: the model's accompaniment, the sum of the others, or the rest.

    Args:
        whole: all stems, also those that aren't given themselves.
        stems: those that add up to the mix; fewer than all if a recipe's outputs may overlap.

    Raises:
        SettingsError: the model gives neither an accompaniment nor vocals.
    """
    given = [stem for stem in stems if stem in ACCOMPANIMENTS]
    others = [stem for stem in stems if stem != "vocals" and "." not in stem] if stems == whole else []
    if not given and "vocals" not in whole:
        raise SettingsError(
            f"--karaoke: the model separates no vocals (it gives {', '.join(stems)})", setting="--karaoke"
        )
    if not given and not others:
        return Output("instrumental", Sum((MIX,), ("vocals",)))
    return Output("instrumental", Sum(tuple(given[:1] or others)))


def _mix_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise SettingsError(f"--mix {name}: a name takes letters, digits, - and _ only", setting="--mix")
    return name


def _joined(outputs: Sequence[Output], more: Sequence[Output], flag: str) -> list[Output]:
    """Return outputs and those that `flag` adds.

    Raises:
        SettingsError: two of them have one name.
    """
    found = list(outputs)
    for output in more:
        if canonical(output.name) in (canonical(other.name) for other in found):
            raise SettingsError(f"{flag}: two outputs would be called {output.name}", setting=flag)
        found.append(output)
    return found


def mix_down(sums: Sequence[Sum], terms: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Compute sums from the samples of their terms.

    Args:
        sums: K sums.
        terms: the samples of every term, [C, n].

    Returns:
        The samples of the sums, [K, C, n].
    """

    def added(names: Sequence[str]) -> NDArray[np.float32]:
        return reduce(np.add, (terms[name] for name in names))

    def total(one: Sum) -> NDArray[np.float32]:
        if not one.plus:
            return -added(one.minus)
        return added(one.plus) - added(one.minus) if one.minus else added(one.plus)

    return np.stack([total(one) for one in sums])  # [K, C, n]

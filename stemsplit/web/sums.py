"""Names of stems, and which stems of a result are sums of others, so that no sound is played twice.

What a stem holds is told by the sum in its tag (`drums+bass`, `mix-vocals`), and otherwise by its name. Parts
are paths: `vocals.lead` and `lead` are ("vocals", "lead"), which lies within ("vocals",).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stemsplit.stems import ACCOMPANIMENTS, canonical

_VOICES = frozenset(
    "lead backing lead_vocals backing_vocals lead_vocal back_vocal dry reverb harmony choir male female"
    " speech".split()
)
_DRUMS = frozenset("kick snare toms hihat ride crash cymbals".split())
_PARTS = {"vocals": _VOICES, "drums": _DRUMS}
_INSTRUMENTS = frozenset(
    "drums bass other guitar piano strings brass synth keys organ percussion wind woodwind woodwinds"
    " lead_guitar rhythm_guitar acoustic_guitar electric_guitar double_bass digital_piano bowed_strings"
    " violin viola cello harp flute oboe clarinet bassoon saxophone trumpet trombone french_horn tuba"
    " accordion banjo mandolin ukulele harmonica harpsichord marimba timpani congas tambourine".split()
)
STEMS = ACCOMPANIMENTS | _VOICES | _DRUMS | _INSTRUMENTS
STEMS |= {"vocals", "music", "effects", "noise", "restored", "bleed"}
Part = tuple[str, ...]
_NO_INSTRUMENT: tuple[Part, ...] = (("bleed",),)  # leaked out of an accompaniment, which has it no more
_TERM = re.compile(r"([+-]?)([^+-]+)")


@dataclass(frozen=True)
class _Held:
    """The sound of a stem.

    Attributes:
        plus: its parts; none if it is a rest.
        minus: what was subtracted.
        rest: True if it is everything but `minus`.
        strange: True if a rest holds stems of unknown names, too, and not only known ones.
    """

    plus: tuple[Part, ...]
    minus: tuple[Part, ...] = ()
    rest: bool = False
    strange: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """Sort key: single stems, wholes before their parts; then rests; then sums, the longest first."""
        if self.rest:
            return 1, len(self.minus)
        if len(self.plus) == 1 and not self.minus:
            return 0, len(self.plus[0])
        return 2, -len(self.plus)

    def has(self, part: Part) -> bool:
        """Return whether a rest holds a part."""
        known = part[0] in _INSTRUMENTS or part[0] in _PARTS
        return (self.strange or known) and not _within(part, self.minus)


def derived(sums: Mapping[str, str | None]) -> set[str]:
    """Return the stems that begin muted, because stems that play hold some of their sound.

    Args:
        sums: name of each stem of a result, and the sum in its tag, None if unknown.
    """
    held = {name: _held(name, total, sums) for name, total in sums.items()}
    playing, silent = list[_Held](), set[str]()
    for name in sorted(held, key=lambda name: held[name].order):
        if any(_overlap(held[name], other) for other in playing):
            silent.add(name)
        else:
            playing.append(held[name])
    return silent


def is_voice(name: str, total: str | None) -> bool:
    """Return whether a stem is a voice or a sum with one.

    Args:
        name: of the stem.
        total: the sum in its tag, None if unknown.
    """
    return any(part[0] == "vocals" for part in _held(name, total, ()).plus)


def is_stem_name(name: str, others: Iterable[str]) -> bool:
    """Return whether a file of this canonical name is a stem; `no_X` is one if X is.

    Args:
        name: of the file.
        others: names of all files in the folder, which may be the X.
    """
    without = name.removeprefix("no_")
    return name in STEMS or without.split(".")[0] in STEMS or (without != name and without in others)


def _held(name: str, total: str | None, names: Iterable[str]) -> _Held:
    """Return what a stem holds, which depends on the other names only if its tag doesn't tell."""
    terms = _TERM.findall(total or name) if total else [("", name)]
    plus = [canonical(term) for sign, term in terms if sign != "-"]
    minus = tuple(_part(canonical(term)) for sign, term in terms if sign == "-")
    if total and "mix" in plus:
        return _Held((), minus, rest=True, strange=True)
    if len(plus) == 1 and not minus and (left_out := _left_out(plus[0])):
        # The parts beside X are those of a whole: `no_X` is the rest of it, whatever they are called.
        beside = not total and plus[0].startswith("no_") and left_out in names
        return _Held((), (_part(left_out), *_NO_INSTRUMENT), rest=True, strange=beside)
    return _Held(tuple(_part(term) for term in plus), minus)


def _left_out(name: str) -> str | None:
    """Return what an accompaniment lacks: X for `no_X`; None for the name of another stem."""
    if name in ACCOMPANIMENTS:
        return "vocals"
    return name.removeprefix("no_") if name.startswith("no_") else None


def _part(name: str) -> Part:
    first, *more = name.split(".")
    whole = next((whole for whole, parts in _PARTS.items() if first in parts), None)
    return (first, *more) if whole is None else (whole, first, *more)


def _within(part: Part, wholes: Iterable[Part]) -> bool:
    """Return whether a part is one of some stems, or a part of one."""
    return any(part[: len(whole)] == whole for whole in wholes)


def _overlap(one: _Held, other: _Held) -> bool:
    if one.rest and other.rest:
        return True
    if one.rest or other.rest:
        rest, stem = (one, other) if one.rest else (other, one)
        return any(rest.has(part) for part in stem.plus)
    mine = [part for part in one.plus if not _within(part, other.minus)]
    others = [part for part in other.plus if not _within(part, one.minus)]
    return any(_within(a, [b]) or _within(b, [a]) for a in mine for b in others)

"""Stems that are sums of other stems of their track, by their names and by their samples.

Such a file (accompaniment, no_vocals, a bus of drums and bass) must not be added to anything beside them.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

import numpy as np
import numpy.typing as npt

from stemsplit.audio.channels import convert_channels
from stemsplit.datasets.names import KNOWN_STEMS, MIXTURE, left_out_by

Array = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]

# A stem equals a sum if what is left of it is 30 dB below it, in energy; every gain must be as near to 1.
TOLERANCE = 1e-3
# Below this it's a combination of others whatever the gains: music is never that by chance.
EXACT = 1e-5
# What is 60 dB below a track's loudest stem counts as silent.
SILENT = 1e-6
# Stems that are always each other's complements; whoever gives these alone isn't suspected.
_SOURCES = frozenset({"drums", "bass", "other", "vocals"})

_WINDOWS, _WINDOW_S = 6, 0.5  # that are looked at first
_VALUES = 1 << 22  # of all stems in memory, when all of a track is looked at


class Audio(Protocol):
    """Any range of a stem."""

    @property
    def frames(self) -> int:
        """Length in samples."""
        ...

    def read(self, start: int = 0, frames: int | None = None) -> Array:
        """Samples from `start` on, zeros where there are none, [C, frames]."""
        ...

    def blocks(self, size: int) -> Iterator[Array]:
        """All samples in order, [C, size] each, the last one shorter."""
        ...

    @property
    def seeks(self) -> bool:
        """True if `read` decodes no more than it returns."""
        ...


@dataclass(frozen=True)
class Sum:
    """A stem that holds other stems of its track.

    Attributes:
        name: of the stem.
        parts: the stems that it holds.
        reason: what it is, as the end of a sentence.
    """

    name: str
    parts: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Found:
    """Sums and doubts found in a track's samples.

    Attributes:
        sums: stems that are sums of others.
        doubts: what is wrong with other stems, without a way to tell which is right; a sentence each.
    """

    sums: tuple[Sum, ...] = ()
    doubts: tuple[str, ...] = ()


def listed(names: Collection[str]) -> str:
    """Return names as a person would list them: `bass, drums and other`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def left_out(sums: Iterable[Sum], wanted: Collection[str]) -> dict[str, str]:
    """Return the stems that must not be used, and why.

    Args:
        sums: of a track.
        wanted: names that have a meaning of their own. A sum is used in place of its parts if only it is
            wanted, and left out otherwise.
    """
    out: dict[str, str] = {}
    for one in sums:
        parts = [part for part in one.parts if part not in out]
        if parts and one.name in wanted and not set(parts) & set(wanted):
            out |= dict.fromkeys(parts, f"{one.name} holds it")
        else:
            out[one.name] = one.reason
    return out


def by_name(stems: Iterable[str]) -> tuple[Sum, ...]:
    """Find the sums that say so in their names; what lacks every other stem is the rest, and no sum.

    >>> [one.name for one in by_name(["vocals", "bass", "no_vocals"])], by_name(["vocals", "no_vocals"])
    (['no_vocals'], ())
    """
    names = sorted(stems)
    sources = [name for name in names if left_out_by(name, names) is None]
    sums = []
    for name in names:
        if (lacking := left_out_by(name, names)) is None:
            continue
        if parts := tuple(stem for stem in sources if stem not in lacking):
            sums.append(Sum(name, parts, f"by its name it holds {listed(parts)}"))
        else:
            sources.append(name)
    return tuple(sums)


# ---------------------------------------------------------------- samples


def by_samples(stems: Mapping[str, Audio], mixture: Audio | None, sample_rate: int) -> Found:
    """Find the stems that equal sums of others, or the mixture without some of them.

    A few windows are looked at; all of the track only if there is something in them, or if reading windows
    would take decoding all of it.

    Args:
        stems: whose names say nothing about sums, of one rate.
        mixture: of the track, if there is one.
        sample_rate: in Hz.

    Raises:
        InputError: a file can't be read.
    """
    if len(stems) < 2 or stems.keys() <= _SOURCES:
        return Found()
    names, audio = list(stems), [*stems.values(), *([mixture] if mixture else [])]
    frames = max(one.frames for one in audio)
    window = round(_WINDOW_S * sample_rate)
    if frames > 2 * _WINDOWS * window and all(one.seeks for one in audio):
        starts = [frames * (2 * i + 1) // (2 * _WINDOWS) - window // 2 for i in range(_WINDOWS)]
        first = _gram([one.read(start, window) for one in audio] for start in starts)
        silent = [name for i, name in enumerate(names) if not first[i, i] and name not in KNOWN_STEMS]
        if not silent and relations(names, first) == Found():
            return Found()
    if frames <= 4 * len(audio):  # as many equations as unknowns have always a solution
        return Found()
    size = max(1, _VALUES // len(audio))
    nothing = np.zeros((1, 0), np.float32)
    pieces = zip_longest(*(one.blocks(size) for one in audio), fillvalue=nothing)
    return relations(names, _gram(pieces))


def _gram(pieces: Iterable[Sequence[Array]]) -> Matrix:
    """Return the sums of products of every two of n signals, [n, n].

    Args:
        pieces: of all signals, [C, any] each; shorter ones end in silence.
    """
    total: Matrix = np.zeros(())
    for piece in pieces:
        signals = np.zeros((len(piece), 2, max(one.shape[1] for one in piece)))
        for row, one in zip(signals, piece, strict=True):
            row[:, : one.shape[1]] = convert_channels(one, 2)
        flat = signals.reshape(len(piece), -1)  # [n, 2·frames]
        total = total + flat @ flat.T
    return total


def relations(names: Sequence[str], gram: Matrix) -> Found:
    """Find which stems are sums of which, in their products.

    Args:
        names: of n stems.
        gram: [n, n], or [n + 1, n + 1] with the mixture last.
    """
    energy = np.diag(gram)
    heard = [i for i in range(len(names)) if energy[i] > SILENT * energy.max(initial=0)]
    sums, doubts, basis = [], [], list[int]()
    # a sum is louder than its parts
    for i in sorted(heard, key=lambda i: float(energy[i])):
        gains, left = _fit(gram, basis, i)
        parts = [k for k, gain in zip(basis, gains, strict=True) if gain > 0.5]
        plain = left < TOLERANCE and _near(gram, basis, gains, i, {k: 1.0 for k in parts})
        if plain and len(parts) == 1:
            copy = _copy(names[i], names[parts[0]])
            if copy is None:
                doubts.append(f"{listed(sorted((names[parts[0]], names[i])))} hold the same audio")
            elif copy.name != names[i]:
                basis[basis.index(parts[0])] = i
            sums += [copy] if copy else []
        elif plain:
            sums.append(_sum(names, i, parts))
        elif left < EXACT and (within := _doubtful(names, basis, gains, i)):
            doubts.append(f"{listed(within)} hold each other's audio, and not as a plain sum")
        elif left >= EXACT:
            basis.append(i)
    if len(gram) > len(names):
        sums += _of_mixture(names, gram, basis)
    return Found(tuple(sums), tuple(doubts))


def _fit(gram: Matrix, basis: Sequence[int], i: int) -> tuple[Matrix, float]:
    """Return the gains at which other signals make up signal i, and the share of its energy that is left."""
    if not basis:
        return np.zeros(0), 1.0
    scale = np.sqrt(np.diag(gram))
    chosen = list(basis)
    correlation = gram / np.outer(scale, scale).clip(1e-300)
    gains = np.linalg.lstsq(correlation[np.ix_(chosen, chosen)], correlation[chosen, i], rcond=None)[0]
    return gains * scale[i] / scale[chosen], float(1 - gains @ correlation[chosen, i])


def _near(gram: Matrix, basis: Sequence[int], gains: Matrix, i: int, ideal: Mapping[int, float]) -> bool:
    """Return whether every gain is so near to its ideal (0 if not given) that signal i hides the rest."""
    scale = np.sqrt(np.diag(gram))
    off = [abs(gain - ideal.get(k, 0.0)) * scale[k] for k, gain in zip(basis, gains, strict=True)]
    return bool(max(off, default=0.0) < np.sqrt(TOLERANCE) * scale[i])


def _sum(names: Sequence[str], i: int, parts: Iterable[int]) -> Sum:
    found = tuple(sorted(names[k] for k in parts))
    return Sum(names[i], found, f"its samples are the sum of {listed(found)}")


def _copy(one: str, other: str) -> Sum | None:
    """Return the one of two equal stems with an unknown name; None if both are known, or neither."""
    known = [name in KNOWN_STEMS for name in (one, other)]
    if known[0] == known[1]:
        return None
    name, kept = (other, one) if known[0] else (one, other)
    return Sum(name, (kept,), f"its samples are those of {kept}")


def _doubtful(names: Sequence[str], basis: Sequence[int], gains: Matrix, i: int) -> list[str]:
    """Stem i and those that make it up at odd gains; none where all of them have known names."""
    heard = [names[k] for k, gain in zip(basis, gains, strict=True) if abs(gain) > np.sqrt(TOLERANCE)]
    within = sorted([names[i], *heard])
    return [] if KNOWN_STEMS.issuperset(within) else within


def _of_mixture(names: Sequence[str], gram: Matrix, basis: Sequence[int]) -> Iterator[Sum]:
    """Stems of unknown names that are the mixture without some stems, and hold the others."""
    mixture = len(names)
    for i in basis:
        if names[i] in KNOWN_STEMS:
            continue
        others = [k for k in basis if k != i] + [mixture]
        gains, left = _fit(gram, others, i)
        lacking = [k for k, gain in zip(others, gains, strict=True) if gain < -0.5]
        held = [k for k in others if k not in (*lacking, mixture)]
        ideal = {mixture: 1.0, **dict.fromkeys(lacking, -1.0)}
        if left < TOLERANCE and held and _near(gram, others, gains, i, ideal) and _holds(gram, i, held):
            without = f" without {listed([names[k] for k in lacking])}" if lacking else ""
            parts = tuple(sorted(names[k] for k in held))
            yield Sum(names[i], parts, f"its samples are the {MIXTURE}{without}, so it holds {listed(parts)}")


def _holds(gram: Matrix, i: int, held: Sequence[int]) -> bool:
    """Return whether other stems are heard in i, rather than missing in the mixture."""
    energy = float(gram[np.ix_(held, held)].sum())
    return energy > TOLERANCE * gram[i, i] and float(gram[i, held].sum()) > 0.5 * energy

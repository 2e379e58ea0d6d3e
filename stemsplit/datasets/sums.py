"""Find stems that are sums of other stems of their track, by their names and by their samples.

Such a file (accompaniment, no_vocals, a bus of drums and bass) must not be added to the stems that it holds,
or they would be counted twice. `Track.without_sums` leaves it out.

By samples: with the Gram matrix G[i, j] = Σ x_i·x_j, signal i is fitted by least squares as Σ_k g_k·x_k. It
is a plain sum if nearly no energy remains and every gain g_k is near 0 or 1.
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

# A stem equals a sum if the residual has less than this share of its energy (−30 dB). The energy of an error
# in a gain must stay below it too.
TOLERANCE = 1e-3
# With a residual below this share, a stem is a combination of others at some gains: music never is by chance.
EXACT = 1e-5
# A stem with less than this share of the energy of the track's loudest stem (−60 dB) counts as silent.
SILENT = 1e-6
# The four stems of MUSDB18. They are each other's complements, so a track of only these is not examined.
_SOURCES = frozenset({"drums", "bass", "other", "vocals"})

_WINDOWS, _WINDOW_S = 6, 0.5  # number and length of the windows that are examined first
_VALUES = 1 << 22  # frames of all stems together in memory while the whole track is examined


class Audio(Protocol):
    """A stem of which any range can be read."""

    @property
    def frames(self) -> int:
        """Length in samples."""
        ...

    def read(self, start: int = 0, frames: int | None = None) -> Array:
        """Return the samples from `start` on, [C, frames]; zeros outside the audio."""
        ...

    def blocks(self, size: int) -> Iterator[Array]:
        """Yield all samples in order, [C, size] each, the last one shorter."""
        ...

    @property
    def seeks(self) -> bool:
        """True if `read` decodes no more than it returns."""
        ...


@dataclass(frozen=True)
class Sum:
    """A stem that is the sum of other stems of its track.

    Attributes:
        name: the stem.
        parts: the stems that it holds.
        reason: why it is taken for a sum, as the end of a sentence.
    """

    name: str
    parts: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Relations:
    """Sums and doubts found in a track's samples.

    Attributes:
        sums: stems that are sums of others.
        doubts: stems that hold each other's audio, without a way to tell which is right; a sentence each.
    """

    sums: tuple[Sum, ...] = ()
    doubts: tuple[str, ...] = ()


def listed(names: Collection[str]) -> str:
    """Return names as a person would list them: `bass, drums and other`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def left_out(sums: Iterable[Sum], wanted: Collection[str]) -> dict[str, str]:
    """Return the stems that must not be used, each with the reason.

    Args:
        sums: the sums of a track.
        wanted: names that the caller asks for. A sum is used in place of its parts if it is wanted and they
            aren't; otherwise it is left out.
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
    """Return the stems whose names say that they are sums.

    A stem that by its name lacks all other stems (`no_vocals` beside `vocals` only) is the rest, not a sum.

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


def by_samples(stems: Mapping[str, Audio], mixture: Audio | None, sample_rate: int) -> Relations:
    """Return the stems that equal sums of others, or the mixture without some of them.

    A few windows are examined first. The whole track follows only if they show something, or if its files
    can't be read from the middle.

    Args:
        stems: stems of one rate whose names don't say that they are sums.
        mixture: the track's mixture, if there is one.
        sample_rate: in Hz.

    Raises:
        InputError: a file can't be read.
    """
    if len(stems) < 2 or stems.keys() <= _SOURCES:
        return Relations()
    names, audio = list(stems), [*stems.values(), *([mixture] if mixture else [])]
    frames = max(one.frames for one in audio)
    window = round(_WINDOW_S * sample_rate)
    if frames > 2 * _WINDOWS * window and all(one.seeks for one in audio):
        starts = [frames * (2 * i + 1) // (2 * _WINDOWS) - window // 2 for i in range(_WINDOWS)]
        first = _gram([one.read(start, window) for one in audio] for start in starts)
        silent = [name for i, name in enumerate(names) if not first[i, i] and name not in KNOWN_STEMS]
        if not silent and relations(names, first) == Relations():
            return Relations()
    if frames <= 4 * len(audio):  # with so few equations a least-squares fit can be exact by chance
        return Relations()
    size = max(1, _VALUES // len(audio))
    nothing = np.zeros((1, 0), np.float32)
    pieces = zip_longest(*(one.blocks(size) for one in audio), fillvalue=nothing)
    return relations(names, _gram(pieces))


def _gram(pieces: Iterable[Sequence[Array]]) -> Matrix:
    """Return the Gram matrix of n signals, G[i, j] = Σ x_i·x_j over channels and samples, [n, n].

    Args:
        pieces: consecutive pieces of all n signals, [C, any] each; shorter ones end in silence.
    """
    total: Matrix = np.zeros(())
    for piece in pieces:
        signals = np.zeros((len(piece), 2, max(one.shape[1] for one in piece)))  # [n, 2, frames]
        for row, one in zip(signals, piece, strict=True):
            row[:, : one.shape[1]] = convert_channels(one, 2)
        flat = signals.reshape(len(piece), -1)  # [n, 2·frames]
        total = total + flat @ flat.T
    return total


def relations(names: Sequence[str], gram: Matrix) -> Relations:
    """Return which stems are sums of others, from their Gram matrix.

    Args:
        names: the names of n stems.
        gram: [n, n], or [n + 1, n + 1] with the mixture last.
    """
    energy = np.diag(gram)
    audible = [i for i in range(len(names)) if energy[i] > SILENT * energy.max(initial=0)]
    sums, doubts, basis = [], [], list[int]()
    # From soft to loud, because a sum is louder than its parts. `basis` holds the stems that aren't sums.
    for i in sorted(audible, key=lambda i: float(energy[i])):
        gains, residual = _fit(gram, basis, i)
        parts = [k for k, gain in zip(basis, gains, strict=True) if gain > 0.5]
        plain = residual < TOLERANCE and _gains_match(gram, basis, gains, i, {k: 1.0 for k in parts})
        if plain and len(parts) == 1:
            copy = _copy(names[i], names[parts[0]])
            if copy is None:
                doubts.append(f"{listed(sorted((names[parts[0]], names[i])))} hold the same audio")
            elif copy.name != names[i]:
                basis[basis.index(parts[0])] = i
            sums += [copy] if copy else []
        elif plain:
            sums.append(_sum(names, i, parts))
        elif residual < EXACT and (within := _doubtful(names, basis, gains, i)):
            doubts.append(f"{listed(within)} hold each other's audio, and not as a plain sum")
        elif residual >= EXACT:
            basis.append(i)
    if len(gram) > len(names):
        sums += _of_mixture(names, gram, basis)
    return Relations(tuple(sums), tuple(doubts))


def _fit(gram: Matrix, basis: Sequence[int], i: int) -> tuple[Matrix, float]:
    """Fit signal i by the signals of `basis`; return their gains, and the residual's share of its energy.

    Signals are scaled to unit energy first, so that soft ones don't make the system ill-conditioned.
    """
    if not basis:
        return np.zeros(0), 1.0
    scale = np.sqrt(np.diag(gram))
    chosen = list(basis)
    correlation = gram / np.outer(scale, scale).clip(1e-300)
    gains = np.linalg.lstsq(correlation[np.ix_(chosen, chosen)], correlation[chosen, i], rcond=None)[0]
    return gains * scale[i] / scale[chosen], float(1 - gains @ correlation[chosen, i])


def _gains_match(
    gram: Matrix, basis: Sequence[int], gains: Matrix, i: int, ideal: Mapping[int, float]
) -> bool:
    """Tell whether the gains are near their ideals (0 if not given): |g_k − ideal_k|²·E_k < TOLERANCE·E_i."""
    scale = np.sqrt(np.diag(gram))
    errors = [abs(gain - ideal.get(k, 0.0)) * scale[k] for k, gain in zip(basis, gains, strict=True)]
    return bool(max(errors, default=0.0) < np.sqrt(TOLERANCE) * scale[i])


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
    """Return stem i and the stems that it combines at odd gains; none if all of them have known names."""
    audible = [names[k] for k, gain in zip(basis, gains, strict=True) if abs(gain) > np.sqrt(TOLERANCE)]
    within = sorted([names[i], *audible])
    return [] if KNOWN_STEMS.issuperset(within) else within


def _of_mixture(names: Sequence[str], gram: Matrix, basis: Sequence[int]) -> Iterator[Sum]:
    """Yield the stems of unknown names that equal the mixture without some stems, and so hold the others."""
    mixture = len(names)
    for i in basis:
        if names[i] in KNOWN_STEMS:
            continue
        others = [k for k in basis if k != i] + [mixture]
        gains, residual = _fit(gram, others, i)
        lacking = [k for k, gain in zip(others, gains, strict=True) if gain < -0.5]
        held = [k for k in others if k not in (*lacking, mixture)]
        ideal = {mixture: 1.0, **dict.fromkeys(lacking, -1.0)}
        if (
            residual < TOLERANCE
            and held
            and _gains_match(gram, others, gains, i, ideal)
            and _holds(gram, i, held)
        ):
            without = f" without {listed([names[k] for k in lacking])}" if lacking else ""
            parts = tuple(sorted(names[k] for k in held))
            yield Sum(names[i], parts, f"its samples are the {MIXTURE}{without}, so it holds {listed(parts)}")


def _holds(gram: Matrix, i: int, held: Sequence[int]) -> bool:
    """Tell whether signal i holds the stems `held`, rather than that the mixture lacks them too."""
    energy = float(gram[np.ix_(held, held)].sum())
    return energy > TOLERANCE * gram[i, i] and float(gram[i, held].sum()) > 0.5 * energy

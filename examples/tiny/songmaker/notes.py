"""Notes, the parts of instruments, and songs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

DRUM_CHANNEL = 9
STEMS = ("drums", "bass", "other", "vocals")
KICKS = (35, 36)  # General MIDI percussion keys


@dataclass(frozen=True)
class Note:
    """A note; times in seconds, pitch and velocity as in MIDI (0 to 127, middle C is 60; 1 to 127)."""

    start_s: float
    length_s: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """Notes of one instrument.

    Attributes:
        stem: drums, bass, other or vocals.
        program: General MIDI program (0 to 127); for drums, the kit.
        notes: in any order; drums use the General MIDI percussion keys.
    """

    stem: str
    program: int
    notes: tuple[Note, ...]

    def within(self, start_s: float, end_s: float) -> "Part":
        """Return the notes that begin in [start_s, end_s), moved so that start_s is zero."""
        kept = (
            replace(n, start_s=n.start_s - start_s, length_s=min(n.length_s, end_s - n.start_s))
            for n in self.notes
            if start_s <= n.start_s < end_s
        )
        return replace(self, notes=tuple(kept))

    def stretched(self, factor: float) -> "Part":
        """Return the part with all times multiplied by `factor`."""
        notes = (replace(n, start_s=n.start_s * factor, length_s=n.length_s * factor) for n in self.notes)
        return replace(self, notes=tuple(notes))

    def accented(self, power: float) -> "Part":
        """Return the part with velocities v → 127·(v/127)^power; above 1, soft notes get softer."""
        notes = (replace(n, velocity=max(1, round(127 * (n.velocity / 127) ** power))) for n in self.notes)
        return replace(self, notes=tuple(notes))

    def only(self, pitches: Sequence[int]) -> "Part":
        """Return the notes of some pitches."""
        return replace(self, notes=tuple(n for n in self.notes if n.pitch in pitches))

    def legato(self) -> "Part":
        """Return the part with every note held until the next one begins."""
        notes = sorted(self.notes, key=lambda n: n.start_s)
        held = (
            replace(n, length_s=max(n.length_s, after.start_s - n.start_s)) for n, after in pairwise(notes)
        )
        return replace(self, notes=(*held, *notes[-1:]))

    def transposed(self, semitones: int) -> "Part":
        """Return the part in another key; drums stay as they are."""
        if self.stem == "drums":
            return self
        notes = (replace(n, pitch=min(max(n.pitch + semitones, 0), 127)) for n in self.notes)
        return replace(self, notes=tuple(notes))


@dataclass(frozen=True)
class Song:
    """Parts of a song and its length."""

    name: str
    duration_s: float
    parts: tuple[Part, ...]

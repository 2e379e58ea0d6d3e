"""Songs from a seed: a key, a tempo and a style; bass lines, chords, melodies and drums over progressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from songmaker import midi, styles
from songmaker.notes import DRUM_CHANNEL, Note, Part, Song

Rng = np.random.Generator
T = TypeVar("T")
_STEPS = 16
_BASS_STEPS = {"R": 0, "F": 4, "T": 2, "S": 6, "O": 7}
_PLAYED = "#xRFTSOA"


@dataclass(frozen=True)
class Frame:
    """Time, key and chords, which all parts of a song share.

    Attributes:
        step_s: a sixteenth note in seconds. tonic: pitch class. scale: seven semitones above it.
        chords: one degree per bar. swing: delay of every second step, as a fraction of a step.
    """

    step_s: float
    tonic: int
    scale: tuple[int, ...]
    chords: tuple[int, ...]
    swing: float

    def time_s(self, step: int) -> float:
        """Return the time at which the step begins."""
        return (step + (self.swing if step % 2 else 0.0)) * self.step_s

    def pitch(self, degree: int, low: int) -> int:
        """The MIDI pitch of a degree of the scale, its octave counted from the tonic at or above `low`."""
        base = low + (self.tonic - low) % 12
        return base + 12 * (degree // 7) + self.scale[degree % 7]


def pick(rng: Rng, among: Sequence[T]) -> T:
    """One of them."""
    return among[int(rng.integers(len(among)))]


def _steps(pattern: str) -> Iterator[tuple[int, int, str]]:
    """(step, length in steps, symbol) of what a pattern plays."""
    for at, symbol in enumerate(pattern):
        if symbol in _PLAYED:
            held = len(pattern) - at - 1 - len(pattern[at + 1 :].lstrip("-"))
            yield at, 1 + held, symbol


def _note(frame: Frame, step: int, steps: int, pitch: int, velocity: int, rng: Rng) -> Note:
    """A note with a human's timing (a few milliseconds) and touch."""
    start_s = max(0.0, frame.time_s(step) + rng.normal(0, 0.004))
    touch = int(np.clip(velocity + rng.normal(0, 7), 20, 127))
    return Note(start_s, steps * frame.step_s * rng.uniform(0.8, 0.98), int(np.clip(pitch, 12, 115)), touch)


def bass_line(frame: Frame, style: styles.Style, rng: Rng) -> tuple[Note, ...]:
    """Root, fifth, octave … of each bar's chord in one or two of the style's patterns."""
    patterns, low = [pick(rng, style.bass_patterns) for _ in range(2)], int(rng.integers(26, 34))
    notes = []
    for bar, chord in enumerate(frame.chords):
        following = frame.chords[(bar + 1) % len(frame.chords)]
        for at, steps, symbol in _steps(patterns[bar % 4 == 3]):
            if symbol == "A":
                pitch = frame.pitch(following, low) - int(rng.integers(1, 3))
            else:
                pitch = frame.pitch(chord + _BASS_STEPS[symbol], low)
            notes.append(_note(frame, bar * _STEPS + at, steps, pitch, 95, rng))
    return tuple(notes)


def _voicing(frame: Frame, chord: int, low: int, rng: Rng, power: bool) -> list[int]:
    """The chord's pitches: root, fifth and octave for distorted guitars, else a triad or a seventh chord."""
    if power:
        return [frame.pitch(chord + d, low) for d in (0, 4, 7)]
    degrees = (0, 2, 4, 6) if rng.random() < 0.3 else (0, 2, 4)
    pitches = [frame.pitch(chord + d, low) for d in degrees]
    return [p - 12 if p > low + 14 else p for p in pitches]


def chord_part(frame: Frame, style: styles.Style, program: int, rng: Rng) -> tuple[Note, ...]:
    """Chords in a pattern of the style: struck, strummed or as an arpeggio."""
    pattern, power = pick(rng, style.chord_patterns), program in (29, 30)
    low = int(rng.integers(38, 44) if power else rng.integers(48, 62))
    arpeggio, strum_s = rng.random() < 0.2, (0.012 if 24 <= program <= 31 else 0.0)
    notes = []
    for bar, chord in enumerate(frame.chords):
        voicing = _voicing(frame, chord, low, rng, power)
        for count, (at, steps, _) in enumerate(_steps(pattern)):
            chosen = [voicing[count % len(voicing)]] if arpeggio else voicing
            for string, pitch in enumerate(chosen):
                note = _note(frame, bar * _STEPS + at, steps, pitch, 80, rng)
                notes.append(Note(note.start_s + string * strum_s, note.length_s, pitch, note.velocity))
    return tuple(notes)


def melody(frame: Frame, low: int, rng: Rng) -> tuple[Note, ...]:
    """A walk on the scale that lands on tones of the chord at the beginning of each bar."""
    rhythms, degree = [pick(rng, styles.MELODY_RHYTHMS) for _ in range(2)], int(rng.integers(0, 7))
    notes = []
    for bar, chord in enumerate(frame.chords):
        for at, steps, _ in _steps(rhythms[bar % 2]):
            step = int(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]))
            degree = chord + 2 * int(rng.integers(0, 3)) if at == 0 else degree + step
            degree = int(np.clip(degree, -3, 12))
            notes.append(_note(frame, bar * _STEPS + at, steps, frame.pitch(degree, low), 90, rng))
    return tuple(notes)


def beat(frame: Frame, style: styles.Style, rng: Rng) -> tuple[Note, ...]:
    """A bar of drums repeated, with a fill and a crash now and then."""
    pattern, notes = pick(rng, style.beats), []
    for bar in range(len(frame.chords)):
        first = bar * _STEPS
        fill = bar % 4 == 3 and rng.random() < 0.6
        for key, steps in pattern.items():
            for at, symbol in enumerate(steps[: 12 if fill else 16]):
                if symbol != ".":
                    notes.append(_note(frame, first + at, 1, key, 110 if symbol == "#" else 70, rng))
        if fill:
            keys = pick(rng, ((38, 38, 38, 38), (50, 48, 45, 43), (38, 48, 43, 36), (38, 38, 43, 43)))
            notes += [_note(frame, first + 12 + i, 1, key, 105, rng) for i, key in enumerate(keys)]
        if bar % 4 == 0 and rng.random() < 0.5:
            notes.append(_note(frame, first, 8, 49, 105, rng))
    return tuple(notes)


def take(path: Path, beats_s: float, duration_s: float, rng: Rng) -> tuple[Note, ...]:
    """A person's drumming, brought to the song's tempo and repeated to its length.

    Args:
        path: a MIDI file whose name holds the tempo as `_<bpm>_`.
        beats_s: the song's seconds per beat.
        duration_s: of the song.
        rng: chooses where to begin.
    """
    notes = [n for ns in midi.read_channels(path).values() for n in ns]
    own_bpm = next((int(w) for w in path.stem.split("_") if w.isdigit() and int(w) > 40), 120)
    part = Part("drums", 0, tuple(notes)).stretched(beats_s * own_bpm / 60)
    end_s = max((n.start_s for n in part.notes), default=0.0)
    bar_s = 4 * beats_s
    bars = max(1, int(end_s / bar_s))
    first_s = int(rng.integers(bars)) * bar_s if bars > 4 else 0.0
    looped = part.within(first_s, max(bars * bar_s, first_s + bar_s))
    length_s = max(bars * bar_s - first_s, bar_s)
    repeats = int(np.ceil(duration_s / length_s))
    shifted = (
        Note(n.start_s + i * length_s, n.length_s, n.pitch, n.velocity)
        for i in range(repeats)
        for n in looped.notes
    )
    return tuple(n for n in shifted if n.start_s < duration_s)


def _resting(part: Part, section_s: float, sections: int, rng: Rng, rest: float) -> Part:
    """The part without the sections in which it rests (each with probability `rest`)."""
    silent = {i for i in range(sections) if rng.random() < rest}
    return Part(
        part.stem, part.program, tuple(n for n in part.notes if int(n.start_s / section_s) not in silent)
    )


def _frame(style: styles.Style, duration_s: float, rng: Rng) -> Frame:
    tempo = rng.uniform(*style.tempo)
    step_s = 60 / tempo / 4
    bars = int(np.ceil(duration_s / (step_s * _STEPS)))
    progressions = [pick(rng, styles.PROGRESSIONS) for _ in range(2)]
    chords = [c for i in range(bars // 4 + 1) for c in progressions[(i // 2) % 2]]
    swing = float(rng.choice([0, 0, 0, 0.15, 0.33]))
    return Frame(step_s, int(rng.integers(12)), pick(rng, styles.SCALES), tuple(chords[:bars]), swing)


def compose(name: str, duration_s: float, takes: Sequence[Path], rng: Rng) -> Song:
    """A song of drums, bass, two to four other parts and a melody to sing.

    Args:
        name: of the song.
        duration_s: its length in seconds.
        takes: MIDI files of human drumming; may be empty.
        rng: decides everything.
    """
    style = styles.STYLES[pick(rng, sorted(styles.STYLES))]
    frame = _frame(style, duration_s, rng)
    fitting = [p for p in takes if any(word in p.name for word in style.takes)]
    if fitting and rng.random() < 0.65:
        drums = take(pick(rng, fitting), 4 * frame.step_s, duration_s, rng)
    else:
        drums = beat(frame, style, rng)
    parts = [Part("drums", pick(rng, style.kits), drums)]
    parts.append(Part("bass", pick(rng, style.basses), bass_line(frame, style, rng)))
    for _ in range(int(rng.integers(1, 4))):
        program = pick(rng, style.chords)
        parts.append(Part("other", program, chord_part(frame, style, program, rng)))
    lead = Part("other", pick(rng, style.leads), melody(frame, int(rng.integers(55, 70)), rng))
    sung = Part("vocals", 0, melody(frame, int(rng.integers(45, 62)), rng))
    section_s = 4 * _STEPS * frame.step_s
    sections = len(frame.chords) // 4 + 1
    parts = [_resting(p, section_s, sections, rng, 0.12) for p in parts]
    parts += [_resting(lead, section_s, sections, rng, 0.55), _resting(sung, section_s, sections, rng, 0.25)]
    return Song(name, duration_s, tuple(p.within(0, duration_s) for p in parts))


def _stem_of(channel: int, program: int) -> str | None:
    """Return the stem of a General MIDI instrument; None for choirs, pitched percussion and sound effects."""
    if channel == DRUM_CHANNEL:
        return "drums"
    if 32 <= program < 40:
        return "bass"
    return None if program >= 112 or program in (52, 53, 54) else "other"


def arrange(path: Path, name: str, duration_s: float, rng: Rng) -> Song:
    """A part of somebody's General MIDI song in another key and at another tempo, to which one can sing.

    Raises:
        InputError: the file is no MIDI file.
    """
    parts = []
    for (channel, program), notes in sorted(midi.read_channels(path).items()):
        stem = _stem_of(channel, program)
        if stem is not None and notes:
            parts.append(Part(stem, program, tuple(notes)))
    factor, semitones = rng.uniform(0.85, 1.2), int(rng.integers(-5, 6))
    parts = [p.stretched(factor).transposed(semitones) for p in parts]
    end_s = max((n.start_s for p in parts for n in p.notes), default=0.0)
    start_s = rng.uniform(0, max(0.0, end_s - duration_s))
    frame = _frame(styles.STYLES["rock"], duration_s, rng)
    sung = Part("vocals", 0, melody(frame, int(rng.integers(45, 62)), rng)).within(0, duration_s)
    cut = [p.within(start_s, start_s + duration_s) for p in parts]
    return Song(name, duration_s, tuple(p for p in (*cut, sung) if p.notes))

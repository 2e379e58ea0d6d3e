"""Composition from a seed: key, tempo and style; bass lines, chords, melodies and drums over progressions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from songmaker import midi, styles
from songmaker.notes import DRUM_CHANNEL, Note, Part, Song

Rng = np.random.Generator
T = TypeVar("T")
_STEPS = 16  # sixteenth notes per bar
_BASS_DEGREES = {"R": 0, "F": 4, "T": 2, "S": 6, "O": 7}  # degree of the scale above the chord's root
_PLAYED = "#xRFTSOA"  # symbols of `styles` that begin a note


@dataclass(frozen=True)
class ChordChart:
    """Tempo, key and chords of a song, shared by all of its parts.

    Attributes:
        step_s: a sixteenth note in seconds. tonic: pitch class. scale: seven degrees in semitones above it.
        chords: root of each bar's chord, as a degree. swing: delay of every second step, in steps.
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
        """Return the MIDI pitch of a degree of the scale; degree 0 is the lowest tonic from `low` on."""
        base = low + (self.tonic - low) % 12
        return base + 12 * (degree // 7) + self.scale[degree % 7]


def pick(rng: Rng, among: Sequence[T]) -> T:
    """Return a random element."""
    return among[int(rng.integers(len(among)))]


def _steps(pattern: str) -> Iterator[tuple[int, int, str]]:
    """Yield (step, length in steps, symbol) of every note of a pattern."""
    for at, symbol in enumerate(pattern):
        if symbol in _PLAYED:
            held = len(pattern) - at - 1 - len(pattern[at + 1 :].lstrip("-"))
            yield at, 1 + held, symbol


def _note(chart: ChordChart, step: int, steps: int, pitch: int, velocity: int, rng: Rng) -> Note:
    """Return a note with the timing and touch of a human player, normally distributed."""
    start_s = max(0.0, chart.time_s(step) + rng.normal(0, 0.004))
    touch = int(np.clip(velocity + rng.normal(0, 7), 20, 127))
    return Note(start_s, steps * chart.step_s * rng.uniform(0.8, 0.98), int(np.clip(pitch, 12, 115)), touch)


def bass_line(chart: ChordChart, style: styles.Style, rng: Rng) -> tuple[Note, ...]:
    """Return a bass line over the chords, in one or two of the style's patterns."""
    patterns, low = [pick(rng, style.bass_patterns) for _ in range(2)], int(rng.integers(26, 34))
    notes = []
    for bar, chord in enumerate(chart.chords):
        following = chart.chords[(bar + 1) % len(chart.chords)]
        for at, steps, symbol in _steps(patterns[bar % 4 == 3]):
            if symbol == "A":  # approach the next root from a semitone or two below
                pitch = chart.pitch(following, low) - int(rng.integers(1, 3))
            else:
                pitch = chart.pitch(chord + _BASS_DEGREES[symbol], low)
            notes.append(_note(chart, bar * _STEPS + at, steps, pitch, 95, rng))
    return tuple(notes)


def _voicing(chart: ChordChart, chord: int, low: int, rng: Rng, power: bool) -> list[int]:
    """Return the pitches of a chord: a power chord (root, fifth, octave), a triad or a seventh chord."""
    if power:
        return [chart.pitch(chord + d, low) for d in (0, 4, 7)]
    degrees = (0, 2, 4, 6) if rng.random() < 0.3 else (0, 2, 4)
    pitches = [chart.pitch(chord + d, low) for d in degrees]
    return [p - 12 if p > low + 14 else p for p in pitches]


def chord_part(chart: ChordChart, style: styles.Style, program: int, rng: Rng) -> tuple[Note, ...]:
    """Return chords in one of the style's patterns: struck, strummed or as an arpeggio."""
    pattern, power = pick(rng, style.chord_patterns), program in (29, 30)  # overdriven, distorted guitar
    deep = power or rng.random() < 0.35  # as a left hand plays
    low = int(rng.integers(36, 44) if deep else rng.integers(48, 62))
    arpeggio, strum_s = rng.random() < 0.2, (0.012 if 24 <= program <= 31 else 0.0)  # guitars are strummed
    notes = []
    for bar, chord in enumerate(chart.chords):
        voicing = _voicing(chart, chord, low, rng, power)
        for count, (at, steps, _) in enumerate(_steps(pattern)):
            chosen = [voicing[count % len(voicing)]] if arpeggio else voicing
            for string, pitch in enumerate(chosen):
                note = _note(chart, bar * _STEPS + at, steps, pitch, 80, rng)
                notes.append(Note(note.start_s + string * strum_s, note.length_s, pitch, note.velocity))
    return tuple(notes)


def melody(chart: ChordChart, low: int, rng: Rng) -> tuple[Note, ...]:
    """Return a random walk on the scale that begins every bar on a tone of the chord."""
    rhythms, degree = [pick(rng, styles.MELODY_RHYTHMS) for _ in range(2)], int(rng.integers(0, 7))
    notes = []
    for bar, chord in enumerate(chart.chords):
        for at, steps, _ in _steps(rhythms[bar % 2]):
            step = int(rng.choice([-3, -2, -1, -1, 0, 1, 1, 2, 3]))
            degree = chord + 2 * int(rng.integers(0, 3)) if at == 0 else degree + step
            degree = int(np.clip(degree, -3, 12))
            notes.append(_note(chart, bar * _STEPS + at, steps, chart.pitch(degree, low), 90, rng))
    return tuple(notes)


def beat(chart: ChordChart, style: styles.Style, rng: Rng) -> tuple[Note, ...]:
    """Return a repeated bar of drums, with a fill or a crash in some bars."""
    pattern, notes = pick(rng, style.beats), []
    for bar in range(len(chart.chords)):
        first = bar * _STEPS
        fill = bar % 4 == 3 and rng.random() < 0.6
        for key, steps in pattern.items():
            for at, symbol in enumerate(steps[: 12 if fill else 16]):
                if symbol != ".":
                    notes.append(_note(chart, first + at, 1, key, 110 if symbol == "#" else 70, rng))
        if fill:
            keys = pick(rng, ((38, 38, 38, 38), (50, 48, 45, 43), (38, 48, 43, 36), (38, 38, 43, 43)))
            notes += [_note(chart, first + 12 + i, 1, key, 105, rng) for i, key in enumerate(keys)]
        if bar % 4 == 0 and rng.random() < 0.5:
            notes.append(_note(chart, first, 8, 49, 105, rng))
    return tuple(notes)


def drum_take(path: Path, beats_s: float, duration_s: float, rng: Rng) -> tuple[Note, ...]:
    """Return a drummer's take at the song's tempo, repeated to the song's length.

    Args:
        path: MIDI file whose name contains the tempo as `_<bpm>_`.
        beats_s: seconds per beat of the song.
        duration_s: length of the song.
        rng: chooses the bar to begin with.
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


def _with_rests(part: Part, section_s: float, sections: int, rng: Rng, rest: float) -> Part:
    """Return the part with some sections silenced, each with probability `rest`."""
    silent = {i for i in range(sections) if rng.random() < rest}
    return Part(
        part.stem, part.program, tuple(n for n in part.notes if int(n.start_s / section_s) not in silent)
    )


def _chord_chart(style: styles.Style, duration_s: float, rng: Rng) -> ChordChart:
    """Return a random tempo, key and chord progression in a style."""
    tempo = rng.uniform(*style.tempo)
    step_s = 60 / tempo / 4
    bars = int(np.ceil(duration_s / (step_s * _STEPS)))
    progressions = [pick(rng, styles.PROGRESSIONS) for _ in range(2)]
    chords = [c for i in range(bars // 4 + 1) for c in progressions[(i // 2) % 2]]
    swing = float(rng.choice([0, 0, 0, 0.15, 0.33]))
    return ChordChart(step_s, int(rng.integers(12)), pick(rng, styles.SCALES), tuple(chords[:bars]), swing)


def compose(name: str, duration_s: float, takes: Sequence[Path], rng: Rng) -> Song:
    """Compose a song of drums, bass, two to four other parts, and a melody for the voice.

    Args:
        name: of the song.
        duration_s: length in seconds.
        takes: MIDI files of drummers; may be empty.
        rng: source of all randomness.
    """
    style = styles.STYLES[pick(rng, sorted(styles.STYLES))]
    chart = _chord_chart(style, duration_s, rng)
    fitting = [p for p in takes if any(word in p.name for word in style.takes)]
    if fitting and rng.random() < 0.65:
        drums = drum_take(pick(rng, fitting), 4 * chart.step_s, duration_s, rng)
    else:
        drums = beat(chart, style, rng)
    parts = [Part("drums", pick(rng, style.kits), drums)]
    bass = Part("bass", pick(rng, style.basses), bass_line(chart, style, rng))
    parts.append(bass.legato() if rng.random() < 0.25 else bass)
    for _ in range(int(rng.integers(1, 4))):
        program = pick(rng, style.chords)
        parts.append(Part("other", program, chord_part(chart, style, program, rng)))
    lead = Part("other", pick(rng, style.leads), melody(chart, int(rng.integers(55, 70)), rng))
    sung = Part("vocals", 0, melody(chart, int(rng.integers(45, 62)), rng))
    if rng.random() < 0.25:
        low_line = melody(chart, int(rng.integers(40, 50)), rng)
        parts.append(Part("other", pick(rng, styles.LOW_LEADS), low_line))
    section_s = 4 * _STEPS * chart.step_s
    sections = len(chart.chords) // 4 + 1
    parts = [_with_rests(p, section_s, sections, rng, 0.12) for p in parts]
    parts += [
        _with_rests(lead, section_s, sections, rng, 0.55),
        _with_rests(sung, section_s, sections, rng, 0.25),
    ]
    return Song(name, duration_s, tuple(p.within(0, duration_s) for p in parts))


def _stem_of(channel: int, program: int) -> str | None:
    """Return the stem of a General MIDI instrument; None for choirs, pitched percussion and sound effects."""
    if channel == DRUM_CHANNEL:
        return "drums"
    if 32 <= program < 40:
        return "bass"
    return None if program >= 112 or program in (52, 53, 54) else "other"


def arrange(path: Path, name: str, duration_s: float, rng: Rng) -> Song:
    """Return an excerpt of a General MIDI song in another key and tempo, with a melody for the voice.

    Raises:
        InputError: the file isn't a MIDI file.
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
    chart = _chord_chart(styles.STYLES["rock"], duration_s, rng)
    sung = Part("vocals", 0, melody(chart, int(rng.integers(45, 62)), rng)).within(0, duration_s)
    cut = [p.within(start_s, start_s + duration_s) for p in parts]
    return Song(name, duration_s, tuple(p for p in (*cut, sung) if p.notes))

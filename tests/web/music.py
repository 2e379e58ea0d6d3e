"""A short song in four stems of sines and noise, for the browser tests and the picture in the README."""

from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

Audio = NDArray[np.float64]
RATE = 44100
BEAT_S = 0.5
CHORDS = ((57, 60, 64), (53, 57, 60), (48, 52, 55), (55, 59, 62))
MELODY = (69, 72, 71, 67, 69, 64, 65, 67)


def hz(note: float) -> float:
    """Return the frequency of a MIDI note."""
    return float(440 * 2 ** ((note - 69) / 12))


def song(bars: int = 16) -> dict[str, Audio]:
    """Return stems [2, T] of a song of some bars of four beats."""
    length = round(bars * 4 * BEAT_S * RATE)
    stems = {name: np.zeros((2, length)) for name in ("drums", "bass", "other", "vocals")}
    generator = np.random.default_rng(3)
    for beat in range(bars * 4):
        bar, at = beat // 4, beat * BEAT_S
        chord = CHORDS[bar % len(CHORDS)]
        if bar >= 2:
            _add(stems["drums"], at, _kick() if beat % 2 == 0 else _snare(generator), (1, 1))
            for half in (0, 0.5):
                _add(stems["drums"], at + half * BEAT_S, _hat(generator), (0.5, 0.8))
        if bar >= 1:
            _add(stems["bass"], at, _tone(hz(chord[0] - 24), 0.45, 0.28, (1, 0.4, 0.2)), (1, 1))
        if beat % 4 == 0:
            for index, note in enumerate(chord):
                _add(
                    stems["other"],
                    at,
                    _tone(hz(note), 1.9, 0.06, (1, 0.5, 0.3, 0.2)),
                    (1 - 0.2 * index, 0.6 + 0.2 * index),
                )
        if bar % 8 >= 4 and beat % 2 == 0:
            note = MELODY[(beat // 2) % len(MELODY)]
            _add(stems["vocals"], at, _voice(hz(note), 0.9), (1, 0.95))
    return {name: np.round(audio * 2**23) / 2**23 for name, audio in stems.items()}


def write(folder: Path, name: str = "Demo song", bars: int = 16) -> dict[str, Audio]:
    """Write the stems to `stems/<name>/`, and the song beside `stems/`; return the stems."""
    stems = song(bars)
    (folder / "stems" / name).mkdir(parents=True, exist_ok=True)
    for stem, audio in stems.items():
        soundfile.write(folder / "stems" / name / f"{stem}.wav", audio.T, RATE, subtype="PCM_24")
    soundfile.write(folder / f"{name}.wav", sum(stems.values()).T, RATE, subtype="PCM_24")  # type: ignore[union-attr]
    return stems


def _add(stem: Audio, at_s: float, sound: Audio, sides: tuple[float, float]) -> None:
    start = round(at_s * RATE)
    sound = sound[: max(0, stem.shape[1] - start)]
    stem[:, start : start + len(sound)] += np.array(sides)[:, None] * sound


def _time(seconds: float) -> Audio:
    return np.arange(round(seconds * RATE)) / RATE


def _tone(frequency: float, seconds: float, level: float, partials: tuple[float, ...]) -> Audio:
    time = _time(seconds)
    waves = (part * np.sin(2 * np.pi * frequency * (i + 1) * time) for i, part in enumerate(partials))
    fade = np.minimum(1, time / 0.01) * np.minimum(1, (seconds - time) / 0.05) * np.exp(-time / seconds)
    return level * fade * np.sum(list(waves), axis=0)


def _voice(frequency: float, seconds: float) -> Audio:
    time = _time(seconds)
    vibrato = 0.006 * np.sin(2 * np.pi * 5.5 * time) * np.minimum(1, time / 0.3)
    phase = 2 * np.pi * frequency * np.cumsum(1 + vibrato) / RATE
    waves = (np.sin(k * phase) / k**1.2 * (1.5 if 500 < k * frequency < 1200 else 0.6) for k in range(1, 9))
    fade = np.minimum(1, time / 0.06) * np.minimum(1, (seconds - time) / 0.15)
    return 0.14 * fade * np.sum(list(waves), axis=0)


def _kick() -> Audio:
    time = _time(0.22)
    return 0.5 * np.exp(-time * 18) * np.sin(2 * np.pi * (50 * time + 4 * (1 - np.exp(-time * 30))))


def _snare(generator: np.random.Generator) -> Audio:
    time = _time(0.2)
    return np.exp(-time * 22) * (
        0.22 * generator.standard_normal(len(time)) + 0.15 * np.sin(2 * np.pi * 190 * time)
    )


def _hat(generator: np.random.Generator) -> Audio:
    time = _time(0.06)
    noise = np.diff(generator.standard_normal(len(time) + 1))
    return 0.06 * np.exp(-time * 70) * noise

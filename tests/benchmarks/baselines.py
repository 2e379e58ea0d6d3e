"""Score the separators without weights on songs that are made here, and write baselines.json.

    python -m tests.benchmarks.baselines

Each song has drums, a bass line and chords that repeat every two bars, and a voice that doesn't; tempo, key
and the sounds of the instruments differ from song to song. They are far simpler than music: the scores say
what each method can do where its assumptions hold.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from stemsplit import evaluate

Audio = NDArray[np.float64]

FILE = Path(__file__).with_suffix(".json")
RATE = 44_100
SONGS, BARS = 6, 8
MODELS = ("classic", "repet", "repet-sim", "nmf")
ORACLES = ("irm", "mixphase")


def song(number: int) -> dict[str, Audio]:
    """Return the stems of a song, [samples, 2] each."""
    random = np.random.default_rng(number)
    beat = int(RATE * 60 / random.integers(90, 130))
    loop, samples = 8 * beat, 4 * BARS * beat
    root = 110 * 2 ** (random.integers(-3, 4) / 12)
    repeats = -(-samples // loop)
    parts = {
        "drums": drums(random, beat),
        "bass": bass(random, beat, root / 2),
        "other": chords(random, beat, root),
    }
    stems = {name: np.tile(part, (repeats, 1))[:samples] for name, part in parts.items()}
    return stems | {"vocals": voice(random, samples, 2 * root)}


class Instrument:
    """An instrument with notes of its own loudness over time and partials.

    Args:
        random: draws them.
        harmonics: least number of partials, of which there are up to twice as many.
        decay: highest rate of decay, in 1/s.
    """

    def __init__(self, random: np.random.Generator, harmonics: int, decay: float) -> None:
        self.partials = range(1, random.integers(harmonics, 2 * harmonics + 1) + 1)
        self.slope = random.uniform(0.8, 1.6)
        self.decay = random.uniform(0.2, 1) * decay

    def play(self, hz: list[float], length: int) -> Audio:
        """Return notes of one length, one after the other: [samples]."""
        time = np.arange(length) / RATE
        ends = np.minimum(1, 200 * time) * np.minimum(1, 50 * (length / RATE - time))
        shape = np.exp(-self.decay * time) * ends
        waves = [sum(np.sin(2 * np.pi * k * f * time) / k**self.slope for k in self.partials) for f in hz]
        return np.concatenate([shape * wave for wave in waves])


def placed(mono: Audio, pan: float, level: float) -> Audio:
    """Return a sound at a place between left (0) and right (1): [samples, 2]."""
    angle = pan * np.pi / 2
    return level * mono[:, None] * np.array([np.cos(angle), np.sin(angle)]) * np.sqrt(2)


def drums(random: np.random.Generator, beat: int) -> Audio:
    """Return eight beats of kick, snare and hi-hat."""
    time = np.arange(beat // 2) / RATE
    kick = np.sin(2 * np.pi * (50 * time + 4 * (1 - np.exp(-30 * time)))) * np.exp(-12 * time)
    snare = 0.6 * random.standard_normal(len(time)) * np.exp(-random.uniform(12, 30) * time)
    hat = 0.2 * np.diff(random.standard_normal(len(time) + 1)) * np.exp(-random.uniform(30, 90) * time)
    track = np.zeros(8 * beat)
    for half in range(16):
        hit = hat + (kick if half % 4 == 0 else snare if half % 4 == 2 else 0)
        track[half * (beat // 2) : half * (beat // 2) + len(time)] += hit
    return placed(track, 0.5, 0.3)


def bass(random: np.random.Generator, beat: int, root: float) -> Audio:
    """Return eight beats of a bass line."""
    steps = random.choice([0, 3, 5, 7], 8)
    line = Instrument(random, 3, 3.0).play([root * 2 ** (step / 12) for step in steps], beat)
    return placed(line, 0.5, 0.2)


def chords(random: np.random.Generator, beat: int, root: float) -> Audio:
    """Return eight beats of two chords, whose notes are at different places."""
    intervals = zip((0, 4, 7), (5, 9, 12), (0.15, 0.5, 0.85), strict=True)
    keys = Instrument(random, 4, 1.0)
    tracks = [
        placed(keys.play([root * 2 ** (first / 12), root * 2 ** (second / 12)], 4 * beat), pan, 0.08)
        for first, second, pan in intervals
    ]
    return np.sum(tracks, axis=0)


def voice(random: np.random.Generator, samples: int, root: float) -> Audio:
    """Return a melody with vibrato and pauses, in which nothing comes twice."""
    pitch, level = np.zeros(samples), np.zeros(samples)
    at = 0
    while at < samples:
        length = int(RATE * random.uniform(0.2, 0.9))
        pitch[at : at + length] = root * 2 ** (random.integers(0, 13) / 12 + random.uniform(-0.02, 0.02))
        level[at : at + length] = random.choice([0, 1, 1, 1]) * random.uniform(0.5, 1)
        at += length
    smooth = np.hanning(2001) / 1000
    level, pitch = np.convolve(level, smooth, "same"), np.convolve(pitch, smooth, "same")
    vibrato = 1 + 0.01 * np.sin(2 * np.pi * 5.5 * np.arange(samples) / RATE)
    phase = 2 * np.pi * np.cumsum(pitch * vibrato) / RATE
    slope = random.uniform(1, 1.6)
    tone = sum(np.sin(k * phase) / k**slope for k in range(1, 9))
    return placed(level * tone, 0.5, 0.12)


def main() -> None:
    """Make the songs, score the models on them, and write all songs' scores by model and stem."""
    with tempfile.TemporaryDirectory() as folder:
        for number in range(SONGS):
            place = Path(folder) / f"song_{number}"
            place.mkdir()
            for name, audio in song(number).items():
                soundfile.write(place / f"{name}.wav", audio, RATE, "FLOAT")
        scores = evaluate(folder, MODELS, oracles=ORACLES, metrics=["usdr"], bss=False, fresh=True)
    found: dict[str, dict[str, list[float]]] = {}
    for row in scores.track_rows():
        found.setdefault(row.method, {}).setdefault(row.stem, []).append(round(row.metrics["usdr"], 2))
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

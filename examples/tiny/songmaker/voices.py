"""Vocals of a song: recorded singing and speech, cut into phrases, changed in pitch, and arranged anew."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from songmaker.compose import pick
from songmaker.effects import RATE, Audio, Rng, level, stereo
from songmaker.notes import Note, Part

_HOP = RATE // 50
_WINDOW = 2048  # samples in which a voice's pitch is found
_SHORTEST, _LONGEST = RATE // 400, RATE // 70  # period of a speaker's voice in samples


def phrases(audio: Audio, quiet_db: float = -38, gap_s: float = 0.25, longest_s: float = 10) -> list[Audio]:
    """Cut a recording at its pauses.

    Args:
        audio: [C, T].
        quiet_db: level of a pause, relative to the loudest 20 ms.
        gap_s: shortest pause.
        longest_s: length at which a phrase is cut without a pause.

    Returns:
        [C, n] each, at least 0.3 s.
    """
    power = np.add.reduceat(np.square(audio).mean(0), np.arange(0, audio.shape[1], _HOP))
    sounding = power > power.max(initial=0) * 10 ** (quiet_db / 10)
    found, start, last = [], None, 0
    for i, sounds in enumerate(sounding):
        if start is not None and ((i - last) * 0.02 > gap_s or (i - start) * 0.02 > longest_s):
            found.append((start, last + 1))
            start = None
        if sounds:
            start, last = (i if start is None else start), i
    if start is not None:
        found.append((start, last + 1))
    return [audio[:, a * _HOP : b * _HOP] for a, b in found if (b - a) * 0.02 >= 0.3]


def pitch_shifted(audio: Audio, semitones: float, tempo: float) -> Audio:
    """Change pitch and tempo independently, [C, about T / tempo]."""
    from python_stretch import Signalsmith

    stretch = Signalsmith.Stretch()
    stretch.preset(audio.shape[0], RATE)
    stretch.setTransposeSemitones(semitones)
    stretch.setTimeFactor(tempo)
    return np.asarray(stretch.process(np.ascontiguousarray(audio)), np.float32)


def varispeed(audio: Audio, factor: float) -> Audio:
    """Change pitch, tempo and formants together, as a tape does that runs faster by `factor`."""
    at = np.arange(0, max(audio.shape[1] - 1, 0), factor)
    return np.stack([np.interp(at, np.arange(audio.shape[1]), c) for c in audio]).astype(np.float32)


def lay_out(lines: Sequence[Audio], duration_s: float, rng: Rng) -> Audio:
    """Join random phrases with pauses, at about equal loudness, [2, T]."""
    out = np.zeros((2, int(duration_s * RATE)), np.float32)
    at = int(rng.uniform(0, 3) * RATE)
    while at < out.shape[1] and lines:
        line = level(pick(rng, lines), -20 + rng.normal(0, 1.5))[:, : out.shape[1] - at]
        out[:, at : at + line.shape[1]] += line
        at += line.shape[1] + int(
            RATE * (rng.uniform(2, 6) if rng.random() < 0.12 else rng.uniform(0.03, 0.7))
        )
    return out


def randomised(lines: Sequence[Audio], rng: Rng) -> list[Audio]:
    """Change pitch, tempo and formants of all phrases alike, so that the singer sounds like another."""
    factor, semitones, tempo = 2 ** (rng.normal(0, 1.8) / 12), rng.normal(0, 2.0), rng.uniform(0.85, 1.2)
    spun = [varispeed(line, factor) for line in lines]
    return [pitch_shifted(line, semitones, tempo) for line in spun] if rng.random() < 0.5 else spun


def harmonised(audio: Audio, rng: Rng) -> Audio:
    """Add a quieter second voice a third, fourth, fifth or octave away, to one side."""
    second = pitch_shifted(audio, float(rng.choice([-12, -5, 3, 4, 5, 7])), 1.0)[:, : audio.shape[1]].mean(0)
    second = np.pad(second, (0, audio.shape[1] - len(second)))
    return audio + np.float32(rng.uniform(0.2, 0.6)) * stereo(second, rng.uniform(-0.8, 0.8))


def double_tracked(audio: Audio, rng: Rng) -> Audio:
    """Add a second take in the middle: a little later and out of tune."""
    late, cents = int(rng.uniform(0.008, 0.04) * RATE), rng.normal(0, 15)
    take = pitch_shifted(audio, cents / 100, 1.0).mean(0)  # [T]
    take = np.pad(take, (late, max(0, audio.shape[1] - late - len(take))))[: audio.shape[1]]
    return audio + np.float32(rng.uniform(0.3, 1)) * stereo(take, 0.0)


def pitch_hz(mono: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return a speaker's pitch every 20 ms, from 70 to 400 Hz, by autocorrelation; 0 where there is none."""
    padded = np.pad(mono, (0, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[: len(mono) : _HOP]  # [blocks, n]
    spectra = np.abs(np.fft.rfft(frames * np.hanning(_WINDOW), 2 * _WINDOW)) ** 2
    correlation = np.fft.irfft(spectra)  # [blocks, 2n]
    found = correlation[:, _SHORTEST:_LONGEST]
    voiced = found.max(1) > 0.4 * correlation[:, 0]
    return np.where(voiced, RATE / (_SHORTEST + found.argmax(1)), 0)


def sung(words: Sequence[Audio], part: Part, duration_s: float, rng: Rng) -> Audio:
    """Turn speech into singing: every note of a part gets the next word, at its pitch and length, [2, T]."""
    out = np.zeros((2, int(duration_s * RATE)), np.float32)
    first, depth = int(rng.integers(max(1, len(words)))), rng.uniform(0, 0.015)
    for i, note in enumerate(part.notes if words else ()):
        at = int(note.start_s * RATE)
        sound = _sung_word(words[(first + i) % len(words)], note, depth)[:, : out.shape[1] - at]
        out[:, at : at + sound.shape[1]] += sound
    return out


def _sung_word(word: Audio, note: Note, vibrato: float) -> Audio:
    """Return a word with a steady pitch, that of the note in the octave nearest to the voice, [2, T]."""
    hz, tempo = pitch_hz(word.mean(0)), word.shape[1] / RATE / note.length_s
    (voiced,) = hz.nonzero()
    if not voiced.size:
        return word[:, :0]
    time, own_hz = np.arange(word.shape[1]), float(np.median(hz[voiced]))
    wave = 1 + vibrato * np.sin(2 * np.pi * 5.5 * time / RATE / tempo)
    speed = (
        np.interp(time, voiced * _HOP + _WINDOW // 2, np.clip(own_hz / hz[voiced], 0.7, 1.4)) * wave
    )  # [T]
    until = np.cumsum(1 / speed)  # when each sample is heard
    at = np.interp(np.arange(int(until[-1])), until, time)
    steady = np.stack([np.interp(at, time, channel) for channel in word]).astype(np.float32)  # [2, T]
    semitones = note.pitch - 69 - 12 * np.log2(own_hz / 440)
    sound = level(pitch_shifted(steady, (semitones + 6) % 12 - 6, tempo), -26 + 6 * note.velocity / 127)
    fade = np.clip((sound.shape[1] - np.arange(sound.shape[1])) / (0.02 * RATE), 0, 1)
    return np.asarray(sound * fade, np.float32)

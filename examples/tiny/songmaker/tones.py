"""Synthesisers: plucked and held tones, an electronic drum kit, and a voice with formants.

They need no sample and no SoundFont, so songs can be made anywhere.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from songmaker.effects import RATE, Rng
from songmaker.notes import Note, Part

Mono = NDArray[np.float32]
Curve = NDArray[np.floating[Any]]
_TABLE = 2048
# first three formants in Hz of the sung vowels a e i o u and of a schwa
_VOWELS = (
    (800, 1200, 2700),
    (480, 1900, 2600),
    (300, 2200, 3000),
    (480, 900, 2600),
    (330, 750, 2500),
    (550, 1500, 2500),
)


def frequency_hz(pitch: float) -> float:
    """Return the frequency of a MIDI pitch in equal temperament; pitch 69 is 440 Hz."""
    return float(440 * 2 ** ((pitch - 69) / 12))


def _wavetable(hz: float, rolloff: float, odd_only: bool, rng: Rng) -> Mono:
    """Return one period with harmonics up to 16 kHz of amplitude k^−rolloff and random phase, [_TABLE]."""
    harmonics = np.arange(1, min(_TABLE // 2 - 1, max(2, int(16000 / hz))))
    amplitude = harmonics**-rolloff * (harmonics % 2 if odd_only else 1)
    spectrum = np.zeros(_TABLE // 2 + 1, complex)
    spectrum[harmonics] = amplitude * np.exp(2j * np.pi * rng.random(len(harmonics)))
    table = np.fft.irfft(spectrum)
    return np.asarray(table / np.abs(table).max(), np.float32)


def _envelope(samples: int, held: int, attack_s: float, decay_s: float) -> Mono:
    """Return a rise, an exponential decay, and a linear release of 60 ms after `held` samples, [T]."""
    time = np.arange(samples) / RATE
    release = np.clip(1 - (time - held / RATE) / 0.06, 0, 1)
    return np.asarray(np.minimum(time / attack_s, 1) * np.exp(-time / decay_s) * release, np.float32)


class Tone:
    """Subtractive synthesiser: a bright wavetable that fades into a dark one.

    Its sound is random for each part: brightness, attack, decay, vibrato, detuned second oscillator.
    """

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.rolloffs = rng.uniform(0.6, 1.4), rng.uniform(1.6, 3.0)
        self.odd = rng.random() < 0.35
        self.attack_s = float(rng.choice([0.003, 0.006, 0.03, 0.15]))
        self.decay_s = float(rng.choice([0.25, 0.6, 1.5, 20.0]))
        self.bright_s = float(rng.choice([0.05, 0.15, 0.5, 5.0]))
        self.vibrato = float(rng.choice([0.0, 0.0, 0.003, 0.006]))
        self.detune = float(rng.choice([0.0, 0.003, 0.008, 0.012]))

    def play(self, note: Note) -> Mono:
        """Return one note, [T]."""
        held = int(note.length_s * RATE)
        samples = held + int(0.06 * RATE)
        hz, time = frequency_hz(note.pitch), np.arange(samples) / RATE
        tables = [_wavetable(hz, rolloff, self.odd, self.rng) for rolloff in self.rolloffs]
        bend = 1 + self.vibrato * np.sin(2 * np.pi * 5.5 * time)
        phase = np.cumsum(hz * bend / RATE)
        bright = np.exp(-time / self.bright_s)
        sound = np.zeros(samples)
        for tune in {1.0, 1.0 + self.detune}:
            at = (phase * tune * _TABLE).astype(np.int64) % _TABLE
            sound += bright * tables[0][at] + (1 - bright) * tables[1][at]
        loudness = (note.velocity / 127) ** 1.5
        shape = _envelope(samples, held, self.attack_s, self.decay_s)
        return np.asarray(sound * loudness * shape, np.float32)


class Drums:
    """Electronic drum kit: sine sweeps for drums, filtered noise for the rest."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.kick_hz, self.kick_s = rng.uniform(38, 75), 10 ** rng.uniform(-1.2, -0.25)
        self.snare_hz, self.snare_s = rng.uniform(160, 240), rng.uniform(0.05, 0.16)
        self.hat_s = rng.uniform(0.02, 0.06)

    def _sweep(self, from_hz: float, to_hz: float, decay_s: float) -> Mono:
        time = np.arange(int(5 * decay_s * RATE)) / RATE
        hz = to_hz + (from_hz - to_hz) * np.exp(-time / 0.02)
        return np.asarray(np.sin(2 * np.pi * np.cumsum(hz) / RATE) * np.exp(-time / decay_s), np.float32)

    def _noise(self, decay_s: float, order: int) -> Mono:
        """Return decaying noise, differentiated `order` times (+6 dB per octave each), [T]."""
        noise = self.rng.standard_normal(int(5 * decay_s * RATE) + order)
        sharp = np.diff(noise, order) / 2**order
        return np.asarray(sharp * np.exp(-np.arange(len(sharp)) / RATE / decay_s), np.float32)

    def play(self, note: Note) -> Mono:
        """Return one hit, [T]."""
        loudness = np.float32((note.velocity / 127) ** 1.5)
        if note.pitch in (35, 36):
            return loudness * self._sweep(180, self.kick_hz, self.kick_s)
        if note.pitch in (37, 38, 39, 40):
            rattle, head = self._noise(self.snare_s, 1), self._sweep(2 * self.snare_hz, self.snare_hz, 0.06)
            rattle[: len(head)] += 0.7 * head[: len(rattle)]
            return loudness * rattle
        if 41 <= note.pitch <= 50 and note.pitch not in (42, 44, 46, 49):
            hz = 60 + (note.pitch - 40) * 12
            return loudness * self._sweep(2 * hz, hz, 0.15)
        ring_s = {46: 0.15, 49: 0.7, 57: 0.7, 52: 0.6, 55: 0.4, 51: 0.25, 59: 0.25, 53: 0.3}
        return np.float32(0.4) * loudness * self._noise(ring_s.get(note.pitch, self.hat_s), 3)


class Boom:
    """Bass of an 808: a tuned kick with a long tail that plays a line."""

    def __init__(self, rng: Rng) -> None:
        self.decay_s = 10 ** rng.uniform(-0.6, 0.3)
        self.sweep, self.sweep_s = rng.uniform(0.5, 5), 10 ** rng.uniform(-2.0, -1.2)

    def play(self, note: Note) -> Mono:
        """Return one note, [T]."""
        held = int(note.length_s * RATE)
        samples = held + int(0.06 * RATE)
        time = np.arange(samples) / RATE
        hz = frequency_hz(note.pitch) * (1 + self.sweep * np.exp(-time / self.sweep_s))
        tone = np.sin(2 * np.pi * np.cumsum(hz) / RATE) * (note.velocity / 127) ** 1.5
        return np.asarray(tone * _envelope(samples, held, 0.002, self.decay_s), np.float32)


def _formant_gains(hz: Curve, vowel: tuple[int, int, int], size: float) -> Curve:
    """Return the gains of resonances at a vowel's formants, scaled in frequency by `size`, like `hz`."""
    gains = np.full_like(hz, 0.01)
    for formant, width, strength in zip(vowel, (80, 110, 150), (1.0, 0.5, 0.25), strict=True):
        centre = formant * size
        gains += strength / (1 + ((hz - centre) / width) ** 2)
    return gains


class Singer:
    """Singing voice: a glottal tone with vibrato, glides and breath, filtered by a random vowel per note."""

    def __init__(self, rng: Rng) -> None:
        self.rng = rng
        self.size, self.breath = rng.uniform(0.9, 1.25), 10 ** rng.uniform(-2.3, -0.6)
        self.rolloff, self.vibrato = rng.uniform(0.5, 1.5), rng.uniform(0.002, 0.012)

    def _pitch_hz(self, note: Note, samples: int) -> Curve:
        time = np.arange(samples) / RATE
        glide = self.rng.uniform(-2, 1) * np.exp(-time / 0.06)
        wander = np.interp(time, np.arange(0, time[-1] + 0.1, 0.05), self._jitter(time[-1]))
        onset = np.clip((time - 0.2) / 0.4, 0, 1)
        vibrato = self.vibrato * onset * np.sin(2 * np.pi * self.rng.uniform(4.8, 6.3) * time)
        bent: Curve = frequency_hz(note.pitch) * 2 ** ((glide + wander) / 12) * (1 + vibrato)
        return bent

    def _jitter(self, length_s: float) -> Curve:
        return self.rng.normal(0, 0.12, len(np.arange(0, length_s + 0.1, 0.05)))

    def play(self, note: Note) -> Mono:
        """Return one syllable, [T]."""
        held = max(int(note.length_s * RATE), RATE // 10)
        samples = held + int(0.06 * RATE)
        hz = self._pitch_hz(note, samples)
        table = _wavetable(frequency_hz(note.pitch), self.rolloff, False, self.rng)
        tone = table[(np.cumsum(hz / RATE) * _TABLE).astype(np.int64) % _TABLE]
        source = tone + self.breath * self.rng.standard_normal(samples)
        vowel = _VOWELS[int(self.rng.integers(len(_VOWELS)))]
        gains = _formant_gains(np.fft.rfftfreq(samples, 1 / RATE), vowel, self.size)
        sung = np.fft.irfft(np.fft.rfft(source) * gains, samples) * _envelope(samples, held, 0.04, 6.0)
        return np.asarray(self._with_consonant(sung) * (note.velocity / 127) ** 1.5, np.float32)

    def _with_consonant(self, sung: Curve) -> Curve:
        """Put a hiss of 30 to 90 ms before two of three syllables."""
        if self.rng.random() < 0.33:
            return sung
        samples = int(self.rng.uniform(0.03, 0.09) * RATE)
        hiss = np.diff(self.rng.standard_normal(samples + 1)) * np.hanning(samples)
        return np.concatenate([hiss * np.abs(sung).max() * self.rng.uniform(0.05, 0.25), sung])


class Player(Protocol):
    """Synthesiser that plays one note at a time."""

    def play(self, note: Note) -> Mono:
        """Return one note, [T]."""
        ...


def _player(stem: str, rng: Rng) -> Player:
    return Drums(rng) if stem == "drums" else Singer(rng) if stem == "vocals" else Tone(rng)


def play(part: Part, duration_s: float, rng: Rng, player: Player | None = None) -> Mono:
    """Render a part with a synthesiser, by default a random one for its stem, [T]."""
    player = player or _player(part.stem, rng)
    out = np.zeros(int(duration_s * RATE), np.float32)
    for note in part.notes:
        at = int(note.start_s * RATE)
        sound = player.play(note)[: len(out) - at]
        out[at : at + len(sound)] += sound
    return out

"""Sampler: parts played with recorded notes and drum hits, which are recognised by their file names."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr

from songmaker.compose import pick
from songmaker.effects import RATE, Audio, Rng
from songmaker.notes import Note, Part
from stemsplit.listing import visible_files

_NOTE = re.compile(r"(?:^|_)([A-Ga-g])([b#]?)(-?\d)(?=v\d|_|$)")
_STEPS = {"c": 0, "d": 2, "e": 4, "f": 5, "g": 7, "a": 9, "b": 11}
# pattern of a file's and its folder's name → percussion keys that the file can play
_DRUMS: tuple[tuple[str, tuple[int, ...]], ...] = (
    (r"kdrum|/bd_|kick|drum_bass|heavy_kick|/ks_|soft_kick", (35, 36)),
    (r"snare(?!_brush)|/sn_|/sd_|top_sn|oh_sn|/ss_|/sc_", (38, 40)),
    (r"rim|stick|snap|wood|/se_", (37,)),
    (r"clap|/cp_", (39,)),
    (r"hihatclosed|/hh_|hat_|cymbal_closed|/hc_|/hf_|cymbal_pedal", (42, 44)),
    (r"hihatopen|/oh_1|/ho_|cymbal_open", (46,)),
    (r"tom4|/lt_|tom_lo|/tl_|tom3", (41, 43, 45)),
    (r"tom1|tom2|/ht_|/mt_|tom_hi|tom_mid|/th_|tabla|conga|hand_drum", (47, 48, 50)),
    (r"crash|/cr_|cymbal_hard|china|splash", (49, 52, 55, 57)),
    (r"ride|/rd_|cymbal_soft", (51, 53, 59)),
    (r"shaker|/sh_|tambourine|/tb_|cowbell|/cb_|perc", (54, 56, 69, 70, 82)),
)


@lru_cache(maxsize=2000)
def read(path: Path) -> Audio:
    """Return a sound file as [2, T] at `RATE`; mono is copied to both channels."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    if rate != RATE:
        audio = soxr.resample(audio, rate, RATE)
    return np.ascontiguousarray(
        np.broadcast_to(audio.T, (2, len(audio))) if audio.shape[1] == 1 else audio.T[:2]
    )


def sound_files(folder: Path) -> list[Path]:
    """Return all sound files below a folder, sorted."""
    found = visible_files(folder) if folder.is_dir() else []
    return [p for p in found if p.suffix in (".ogg", ".wav", ".flac")]


def fundamental_hz(mono: Audio) -> float:
    """Return the fundamental frequency of a note, from 30 to 1000 Hz: the maximum of its autocorrelation."""
    cut = mono[int(0.1 * RATE) : int(0.4 * RATE)] if len(mono) > 0.5 * RATE else mono
    spectrum = np.abs(np.fft.rfft(cut, 2 * len(cut))) ** 2
    correlation = np.fft.irfft(spectrum)
    shortest, longest = RATE // 1000, min(RATE // 30, len(cut) - 1)
    return RATE / (shortest + float(np.argmax(correlation[shortest:longest])))


def _named_pitch(path: Path) -> int | None:
    """Return the MIDI pitch in a file's name; the numbering of octaves differs between libraries."""
    found = _NOTE.search(path.stem)
    if found is None:
        return None
    shift = {"b": -1, "#": 1, "": 0}[found[2]]
    return 12 * (int(found[3]) + 1) + _STEPS[found[1].lower()] + shift


def _sounding_pitch(path: Path) -> int | None:
    """Return the pitch class in the file's name, in the octave that the recording has."""
    named = _named_pitch(path)
    if named is None:
        return None
    heard = 69 + 12 * np.log2(fundamental_hz(read(path).mean(0)) / 440)
    return named + 12 * round((float(heard) - named) / 12)


@dataclass
class Instrument:
    """Recorded notes of one instrument, by pitch."""

    sounds: dict[int, list[Path]] = field(default_factory=dict)

    def play(self, note: Note, rng: Rng) -> Audio:
        """Play the nearest recorded pitch, resampled to the note's pitch, with a release of 0.1 s, [2, T]."""
        nearest = min(self.sounds, key=lambda p: (abs(p - note.pitch), p))
        sound = _repitched(pick(rng, self.sounds[nearest]), note.pitch - nearest)
        held = max(1, int(note.length_s * RATE))
        released = sound[:, : held + RATE // 10].copy()
        tail = released.shape[1] - held
        if tail > 0:
            released[:, held:] *= np.linspace(1, 0, tail, dtype=np.float32)
        return released * np.float32(note.velocity / 127)


@lru_cache(maxsize=3000)
def _repitched(path: Path, semitones: int) -> Audio:
    """Return a sound resampled by some semitones and scaled to a peak of 0.3, [2, T]."""
    sound = read(path)
    at = np.arange(0, sound.shape[1] - 1, 2 ** (semitones / 12))
    moved = np.stack([np.interp(at, np.arange(sound.shape[1]), channel) for channel in sound])  # [2, T]
    return (moved * (0.3 / max(float(np.abs(moved).max()), 1e-4))).astype(np.float32)


@dataclass
class Kit:
    """Recorded drum hits, by percussion key."""

    sounds: dict[int, list[Path]] = field(default_factory=dict)

    def chosen(self, rng: Rng) -> "Kit":
        """Return a kit with one to three random sounds per key."""
        kit = {}
        for key, paths in sorted(self.sounds.items()):
            start = int(rng.integers(len(paths)))
            kit[key] = [paths[(start + i) % len(paths)] for i in range(int(rng.integers(1, 4)))]
        return Kit(kit)

    def play(self, note: Note, rng: Rng) -> Audio:
        """Return a hit, [2, T]; a key that the kit doesn't have is silent."""
        if note.pitch not in self.sounds:
            return np.zeros((2, 0), np.float32)
        sound = _repitched(pick(rng, self.sounds[note.pitch]), 0)
        loudness = np.float32((note.velocity / 127) ** 1.5 * _BALANCE.get(note.pitch, 1.0))
        return sound * loudness


# relative loudness of percussion keys
_BALANCE = {
    42: 0.35,
    44: 0.25,
    46: 0.4,
    49: 0.6,
    57: 0.6,
    51: 0.35,
    53: 0.35,
    59: 0.35,
    54: 0.3,
    70: 0.3,
    82: 0.3,
}


def find_kit(folders: Sequence[Path]) -> Kit:
    """Collect the drum hits in some folders."""
    sounds: dict[int, list[Path]] = {}
    for path in (p for folder in folders for p in sound_files(folder)):
        name = f"/{path.parent.name}/{path.name}".lower()
        keys = next((keys for pattern, keys in _DRUMS if re.search(pattern, name)), ())
        for key in () if "loop" in name or "groove" in name else keys:
            sounds.setdefault(key, []).append(path)
    return Kit(sounds)


def find_instrument(folder: Path, prefix: str = "") -> Instrument | None:
    """Collect the notes in a folder with a prefix; return None if there are fewer than four pitches."""
    sounds: dict[int, list[Path]] = {}
    for path in sound_files(folder):
        pitch = _sounding_pitch(path) if path.name.startswith(prefix) and "release" not in path.name else None
        if pitch is not None:
            sounds.setdefault(pitch, []).append(path)
    return Instrument(sounds) if len(sounds) >= 4 else None


def play(part: Part, duration_s: float, sound: Callable[[Note, Rng], Audio], rng: Rng) -> Audio:
    """Render a part with the `play` of an instrument or a kit, [2, T]."""
    out = np.zeros((2, int(duration_s * RATE)), np.float32)
    for note in part.notes:
        at = int(note.start_s * RATE)
        played = sound(note, rng)[:, : out.shape[1] - at]
        out[:, at : at + played.shape[1]] += played
    return out

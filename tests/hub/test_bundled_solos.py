"""Solos of the bundled model: what plays alone stays in its stem, but for failures in the card."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from songmaker.effects import RATE, level, stereo
from songmaker.notes import STEMS
from stemsplit.core.stream import separate_array
from stemsplit.evaluation.metrics import energy
from stemsplit.hub import registry
from stemsplit.hub.load import load_model
from stemsplit.models.network import Network

CARD = (Path(registry.__file__).parent / "bundled/tiny.md").read_text(encoding="utf-8")
LINE = (0, 0, 3, 5, 0, 0, 7, 5, 0, 0, 3, 5, 8, 7, 5, 3)  # semitones above the lowest note
Curve = np.ndarray


@pytest.fixture(scope="module")
def tiny() -> Network:
    return load_model("tiny", offline=True)


def saw(hz: float, time: Curve, rolloff: float) -> Curve:
    """Return harmonics up to 8 kHz with amplitudes k^−rolloff, [T]."""
    harmonics = np.arange(1, int(8000 / hz) + 1)
    return np.asarray(sum(k**-rolloff * np.sin(2 * np.pi * k * hz * time) for k in harmonics))


def line(low_hz: float, play: Callable[[float, Curve], Curve]) -> Curve:
    """Return eight seconds of `LINE`, a note every half second, [T]; notes fade out within 10 ms."""
    time = np.arange(RATE // 2) / RATE
    fade = np.minimum(1, (0.5 - time) / 0.01)
    return np.concatenate([play(low_hz * 2 ** (step / 12), time) * fade for step in LINE])


def kick(hz: float, time: Curve, decay_s: float) -> Curve:
    """Return a sine that falls from 4·hz to hz within some 20 ms and decays, [T]."""
    phase = 2 * np.pi * np.cumsum(hz * (1 + 3 * np.exp(-time / 0.02))) / RATE
    return np.asarray(np.sin(phase) * np.exp(-time / decay_s))


def hit(decay_s: float) -> Curve:
    """Return half a second of decaying white noise, [T]."""
    noise = np.random.default_rng(0).standard_normal(RATE // 2)
    return np.asarray(0.5 * noise * np.exp(-np.arange(RATE // 2) / RATE / decay_s))


def beat() -> Curve:
    """Return eight seconds of kick and snare in turn, with hi-hats between them, [T]."""
    time = np.arange(RATE // 2) / RATE
    hat = np.roll(hit(0.02), RATE // 4)
    return np.concatenate([kick(50, time, 0.1) + hat, hit(0.08) + hat] * 8)


def chord(hz: float, time: Curve) -> Curve:
    """Return a major triad on hz that decays slowly, [T]."""
    return np.asarray(sum(saw(hz * ratio, time, 1.5) for ratio in (1, 1.26, 1.5)) * np.exp(-time / 0.6))


SOLOS: dict[str, tuple[str, Callable[[], Curve]]] = {
    "plucked bass": ("bass", lambda: line(41.2, lambda hz, t: saw(hz, t, 1.5) * np.exp(-t / 0.4))),
    "held bass": ("bass", lambda: line(41.2, lambda hz, t: saw(hz, t, 2.0) * np.minimum(1, t / 0.02))),
    "bright bass": ("bass", lambda: line(41.2, lambda hz, t: saw(hz, t, 0.9) * np.exp(-t / 0.4))),
    "kick": ("drums", lambda: line(50, lambda hz, t: kick(50, t, 0.1))),
    "beat": ("drums", beat),
    "808": ("bass", lambda: line(41.2, lambda hz, t: kick(hz, t, 0.4))),
    "chords": ("other", lambda: line(220, chord)),
    "synthesiser line": ("other", lambda: line(330, lambda hz, t: saw(hz, t, 1.0) * np.exp(-t / 0.6))),
    "low synthesiser": ("other", lambda: line(110, lambda hz, t: saw(hz, t, 1.0) * np.exp(-t / 0.6))),
}


def leaks_db(network: Network, name: str) -> dict[str, float]:
    """Return the energy of every stem that should be silent in dB relative to the solo."""
    stem, play = SOLOS[name]
    solo = torch.from_numpy(level(stereo(play().astype(np.float32), 0.0), -20))  # [2, T]
    found: Tensor = 10 * torch.log10(energy(separate_array(network, solo)) / energy(solo))  # [S]
    return {s: found[i].item() for i, s in enumerate(STEMS) if s != stem}


def card_rows() -> dict[str, tuple[str, float]]:
    """Return the stem that gets most of each solo wrongly, and its level in dB, as the card has them."""
    rows = re.findall(r"^\| (.*?) \| \w+ \| (\w+) \| −([\d.]+) \|$", CARD, re.MULTILINE)
    return {name: (stem, -float(level)) for name, stem, level in rows}


@pytest.mark.parametrize("name", SOLOS)
def test_a_solo_stays_in_its_stem_unless_the_card_says_otherwise(tiny: Network, name: str) -> None:
    leaked_db = leaks_db(tiny, name)
    stem = max(leaked_db, key=lambda s: leaked_db[s])
    told, told_db = card_rows()[name]
    assert (leaked_db[stem] < -15) == (told_db < -15), leaked_db
    if told_db >= -15:
        assert stem == told and leaked_db[stem] == pytest.approx(told_db, abs=0.5)


def test_most_solos_stay_in_their_stems() -> None:
    assert sum(level < -15 for _, level in card_rows().values()) > len(SOLOS) / 2

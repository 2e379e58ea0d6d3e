"""Small multitracks in which every sample tells its song, stem and position."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 1000
STEMS = ("drums", "bass", "other", "vocals")

WriteSongs = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def code(song: int, stem: int, position: int) -> int:
    """Return the sample of `counting_songs` at a position; integers up to 2²⁴ are exact in float32."""
    return 1_000_000 * song + 100_000 * stem + position + 1


@pytest.fixture
def counting_songs(tmp_path: Path) -> WriteSongs:
    """Write songs of some lengths; sample n of stem s of song k is `code(k, s, n)`, negated on the right."""

    def write(*lengths: int, stems: tuple[str, ...] = STEMS, folder: str = "songs", first: int = 0) -> Path:
        for number, length in enumerate(lengths, first):
            place = tmp_path / folder / f"{number:02}"
            place.mkdir(parents=True)
            for stem in stems:
                values = np.array([code(number, STEMS.index(stem), n) for n in range(length)], np.float32)
                samples = np.stack([values, -values], axis=1)
                soundfile.write(place / f"{stem}.wav", samples, RATE, subtype="FLOAT")
        return tmp_path / folder

    return write


@pytest.fixture
def write_songs(tmp_path: Path) -> WriteSongs:
    """Write songs from arrays [C, T]: `write({"song": {"drums": array}}, rate=…, folder=…)`."""

    def write(songs: Mapping[str, Mapping[str, np.ndarray]], rate: int = RATE, folder: str = "songs") -> Path:
        for name, stems in songs.items():
            place = tmp_path / folder / name
            place.mkdir(parents=True)
            for stem, audio in stems.items():
                soundfile.write(place / f"{stem}.wav", audio.T, rate, subtype="FLOAT")
        return tmp_path / folder

    return write


def synthetic(song: int, seconds: float, rate: int) -> dict[str, np.ndarray]:
    """Return four stems [C, T] that a network can learn to separate."""
    time = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(song).standard_normal((2, len(time)))
    pitch = 1 + song % 3
    mono = {
        "bass": 0.3 * np.sin(2 * np.pi * 60 * pitch * time),
        "other": 0.2 * np.sin(2 * np.pi * 500 * pitch * time + np.sin(time)),
        "vocals": 0.2 * np.sign(np.sin(2 * np.pi * 200 * time + 3 * np.sin(2 * np.pi * 5 * time))),
    }
    stems = {name: np.stack([audio, 0.8 * audio]) for name, audio in mono.items()}
    stems["drums"] = 0.3 * noise * (np.sin(2 * np.pi * 2 * time) > 0.9)
    return {name: audio.astype(np.float32) for name, audio in stems.items()}


# the fastest networks: one with four stems, and one with a single stem and dropout
DEMUCS = """
  family: demucs
  arguments: {sources: [drums, bass, other, vocals], channels: 4, depth: 2, lstm_layers: 0, dconv_mode: 0,
              resample: false, samplerate: 1000, segment: 0.5}"""
MASK = """
  family: mask_transformer
  arguments: {n_fft: 64, hop: 32, window_trim: 1, heads: 3, hidden: 16, segment_samples: 500,
              sample_rate: 1000}"""


@pytest.fixture
def tiny_config(write_songs: WriteSongs, tmp_path: Path) -> Callable[..., str]:
    """Return a configuration that trains for a few seconds: `tiny_config(DEMUCS, "fit.epochs: …")`."""

    def make(model: str = DEMUCS, extra: str = "") -> str:
        if not (tmp_path / "songs").exists():
            write_songs({str(k): synthetic(k, 3, RATE) for k in range(3)})
        return f"""\
folder: {tmp_path}/run
model:{model}
data:
  train: [{{path: {tmp_path}/songs, exclude: ["2"]}}]
  valid: [{{path: {tmp_path}/songs, only: ["2"]}}]
  stems: [drums, bass, other, vocals]
  segment_s: 0.5
  remix: 1
  workers: 0
optim: {{lr: 3e-3, clip: 5}}
fit: {{epochs: 2, steps_per_epoch: 4, batch_size: 4, checkpoint_steps: 2, device: cpu}}
{extra}
"""

    return make

"""Small multitracks whose every sample says where it comes from."""

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
    """What `counting_songs` hold at a place; whole numbers up to 2²⁴ are exact in float32."""
    return 1_000_000 * song + 100_000 * stem + position + 1


@pytest.fixture
def counting_songs(tmp_path: Path) -> WriteSongs:
    """Writes songs of the given lengths; sample n of stem s of song k is `code(k, s, n)`, right negative."""

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
    """Writes songs from arrays [C, T]: `write({"song": {"drums": array}}, rate=…, folder=…)`."""

    def write(songs: Mapping[str, Mapping[str, np.ndarray]], rate: int = RATE, folder: str = "songs") -> Path:
        for name, stems in songs.items():
            place = tmp_path / folder / name
            place.mkdir(parents=True)
            for stem, audio in stems.items():
                soundfile.write(place / f"{stem}.wav", audio.T, rate, subtype="FLOAT")
        return tmp_path / folder

    return write

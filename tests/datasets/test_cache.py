"""The cache of decoded audio when the disk is full or writing is interrupted."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stemsplit.datasets.cache import Array, MeasurementCache, readable
from stemsplit.datasets.tracks import Source, find_tracks
from tests.datasets.conftest import Write

RATE = 1000


@pytest.fixture
def source(tmp_path: Path, write: Write) -> Source:
    write("songs/song/drums.wav", 90 * RATE, rate=RATE)
    (track,) = find_tracks(tmp_path / "songs")
    return track.stems["drums"]


def test_decoded_audio_equals_the_source(source: Source, tmp_path: Path) -> None:
    decoded = readable(source, tmp_path / "cache")
    assert decoded is not source and decoded.frames == source.frames
    np.testing.assert_array_equal(decoded.read(), source.read())
    np.testing.assert_array_equal(decoded.read(-5, 70 * RATE), source.read(-5, 70 * RATE))


def test_a_full_disk_raises_an_error(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def until_full(audio: Source, rate: int) -> Iterator[Array]:
        yield audio.read(0, 60 * rate)
        (part,) = (tmp_path / "cache").iterdir()
        sizes.append(part.stat().st_size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("stemsplit.datasets.cache.pieces", until_full)
    with pytest.raises(OSError, match="No space left"):
        readable(source, tmp_path / "cache")
    assert sizes[0] <= 60 * RATE * 2 * 4 + 128  # no more of the file is there than was written
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_interrupt_leaves_no_part(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        readable(source, tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        MeasurementCache(tmp_path / "cache").remember("key", lambda: 1)
    assert list((tmp_path / "cache").iterdir()) == []


def test_measuring_works_without_a_writable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert MeasurementCache(tmp_path / "file" / "cache").remember("key", lambda: 1) == 1

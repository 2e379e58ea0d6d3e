"""Caches for training: decoded audio as NumPy files, and measurements of audio in a JSON file.

Keys are digests of the files' paths, sizes and times, so a later run starts at once and a changed file is
read again. `training.library` reads its songs through them.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from stemsplit.datasets.tracks import Source
from stemsplit.files import replacing, write_whole

Array = npt.NDArray[np.float32]

_PIECE_S = 60  # seconds of audio in memory while a track is decoded


class Readable(Protocol):
    """Audio of which any range can be read."""

    @property
    def frames(self) -> int:
        """Length in samples."""
        ...

    def read(self, start: int = 0, frames: int | None = None) -> Array:
        """Return the samples from `start` on, [C, frames]; zeros outside the audio."""
        ...


@dataclass(frozen=True)
class Decoded:
    """Decoded audio in a file of the cache.

    Attributes:
        path: the NumPy file, float32 [T, C].
        frames: T, its length in samples.
    """

    path: Path
    frames: int

    def read(self, start: int = 0, frames: int | None = None) -> Array:
        """Return the samples from `start` on, [C, frames]; zeros outside the audio."""
        stored = np.load(self.path, mmap_mode="r")  # [T, C]
        frames = max(0, self.frames - start) if frames is None else frames
        begin, end = max(0, start), min(start + frames, self.frames)
        samples = np.zeros((frames, stored.shape[1]), np.float32)  # [frames, C]
        if begin < end:
            samples[begin - start : end - start] = stored[begin:end]
        return samples.T  # [C, frames]


class MeasurementCache:
    """Measurements of audio (statistics, salient positions) in a JSON file, by the audio's identity.

    Args:
        folder: the folder of the JSON file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "training.json"
        self.known: dict[str, Any] = self._load()

    def remember(self, key: str, measure: Callable[[], Any]) -> Any:
        """Return the value stored under `key`, or measure it and store it."""
        if key not in self.known:
            value = measure()
            # Read the file again: another process may have added values in the meantime.
            self.known = {**self._load(), **self.known, key: value}
            # If the folder can't be written, the next run measures again.
            with suppress(OSError):
                write_whole(self.path, json.dumps(self.known))
        return self.known[key]

    def _load(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def identity(source: Source) -> str:
    """Return a digest of a source: paths, sizes, times and lengths of its files, its rate and channels."""
    described = repr(([part.facts() for part in source.parts], source.sample_rate, source.channels))
    return blake2b(described.encode(), digest_size=16).hexdigest()


def readable(source: Source, cache: Path | None) -> Readable:
    """Return the decoded copy of a source in the folder `cache`, made if missing; without a cache the source.

    Raises:
        InputError: a file can't be read.
        OSError: the decoded copy can't be written.
    """
    if cache is None:
        return source
    path = cache / f"{identity(source)}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as stored:
            _store(source, stored)
    return Decoded(path, source.frames)


def _store(source: Source, file: BinaryIO) -> None:
    """Write a source as a NumPy file, float32 [T, C], piece by piece.

    Plain writes and no memory map: on a full disk a write raises OSError, a mapped page kills the process.
    """
    shape = (source.frames, source.channels)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for piece in pieces(source, source.sample_rate):
        file.write(piece.T.astype("<f4").tobytes())  # [n, C]


def pieces(audio: Readable, sample_rate: int) -> Iterator[Array]:
    """Yield consecutive pieces of some audio, [C, n] each, of one minute."""
    for start in range(0, audio.frames, _PIECE_S * sample_rate):
        yield audio.read(start, min(_PIECE_S * sample_rate, audio.frames - start))

"""What is decoded or measured once: audio as plain arrays on disk, and numbers in a notebook.

Both are kept by the identity of the files: the next run starts at once, a changed file is read anew.
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

_PIECE_S = 60  # of audio in memory while a track is decoded


class Readable(Protocol):
    """Any range of some audio."""

    @property
    def frames(self) -> int:
        """Length in samples."""
        ...

    def read(self, start: int = 0, frames: int | None = None) -> Array:
        """Samples from `start` on, zeros where there are none, [C, frames]."""
        ...


@dataclass(frozen=True)
class Decoded:
    """Audio that lies decoded in a file [T, C] of the cache.

    Attributes:
        path: of the NumPy file.
        frames: its length.
    """

    path: Path
    frames: int

    def read(self, start: int = 0, frames: int | None = None) -> Array:
        """Samples from `start` on, zeros where there are none, [C, frames]."""
        stored = np.load(self.path, mmap_mode="r")
        frames = max(0, self.frames - start) if frames is None else frames
        begin, end = max(0, start), min(start + frames, self.frames)
        samples = np.zeros((frames, stored.shape[1]), np.float32)
        if begin < end:
            samples[begin - start : end - start] = stored[begin:end]
        return samples.T


class Notebook:
    """Numbers that were measured of audio, by the audio's identity, in a JSON file.

    Args:
        folder: of the file.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "training.json"
        self.known: dict[str, Any] = self._load()

    def remember(self, key: str, measure: Callable[[], Any]) -> Any:
        """What is known under `key`; measured, and written down, if nothing is."""
        if key not in self.known:
            value = measure()
            self.known = {**self._load(), **self.known, key: value}
            # a folder that can't be written only means that it's measured again
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
    """Names what a source reads: its files with their sizes, times and lengths, its rate and channels."""
    described = repr(([part.facts() for part in source.parts], source.sample_rate, source.channels))
    return blake2b(described.encode(), digest_size=16).hexdigest()


def readable(source: Source, cache: Path | None) -> Readable:
    """The source, or its decoded file in the folder `cache`, which is written if it isn't there."""
    if cache is None:
        return source
    path = cache / f"{identity(source)}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, part.open("wb") as stored:
            _store(source, stored)
    return Decoded(path, source.frames)


def _store(source: Source, file: BinaryIO) -> None:
    """Write all of some audio as a NumPy file [T, C]; through a mapping a full disk would end the process."""
    shape = (source.frames, source.channels)
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for piece in pieces(source, source.sample_rate):
        file.write(piece.T.astype("<f4").tobytes())


def pieces(audio: Readable, sample_rate: int) -> Iterator[Array]:
    """All of some audio, [C, n] at a time."""
    for start in range(0, audio.frames, _PIECE_S * sample_rate):
        yield audio.read(start, min(_PIECE_S * sample_rate, audio.frames - start))

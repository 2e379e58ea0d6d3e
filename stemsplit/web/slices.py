"""Ranges of samples of audio files, for playing them block by block.

A file of which ranges are read one after the other stays open, so that formats that can only be decoded from
their beginning aren't decoded again for every block.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.decoding import Array
from stemsplit.audio.reader import AudioInfo, Reader, open_audio, probe
from stemsplit.errors import InputError

BLOCK = 1 << 14  # samples
MOST_OPEN = 16  # files


@dataclass
class _Open:
    """A file that is being read.

    Attributes:
        reader: its reader.
        blocks: what the reader hasn't given yet.
        position: the sample that comes next.
        left: samples [C, n] that were decoded but not asked for yet.
        fresh: True until the first block is read.
    """

    reader: Reader
    blocks: Iterator[Array]
    position: int
    left: Array
    fresh: bool = True


class Slices:
    """Reader of ranges of samples; may be called from several threads at once."""

    def __init__(self) -> None:
        self._idle: OrderedDict[tuple[Path, int, int], _Open] = OrderedDict()
        self._infos: OrderedDict[tuple[Path, int], AudioInfo] = OrderedDict()
        self._lock = threading.Lock()

    def info(self, path: Path) -> AudioInfo:
        """Return the description of a file's audio, which is remembered while the file doesn't change.

        Raises:
            InputError: it can't be read as audio.
        """
        key = path, _version(path)
        with self._lock:
            if key in self._infos:
                return self._infos[key]
        found = probe(path, name=path.name)
        if found.frames is None:
            found = replace(found, frames=_count(path))
        with self._lock:
            self._infos[key] = found
            if len(self._infos) > 1000:
                self._infos.popitem(last=False)
        return found

    def blocks(self, path: Path, start: int, frames: int, size: int = BLOCK) -> Iterator[Array]:
        """Yield `frames` samples from `start` on in blocks [1 or 2, size]; fewer where the file ends.

        More than two channels are mixed down to stereo.

        Raises:
            InputError: the file can't be read.
        """
        while frames > 0 and (block := self._block(path, start, min(size, frames))).shape[1]:
            start, frames = start + block.shape[1], frames - block.shape[1]
            yield block if block.shape[0] <= 2 else convert_channels(block, 2, self.info(path).layout)

    def _block(self, path: Path, start: int, frames: int) -> Array:
        """Return up to `frames` samples; the open file goes back at once, so a slow client holds none."""
        entry = self._take(path, start)
        try:
            block = _read(entry, frames).copy()  # not a view, which would hold all that was decoded with it
        except BaseException:
            entry.reader.close()
            raise
        self._give_back(path, entry)
        return block

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            while self._idle:
                self._idle.popitem()[1].reader.close()

    def _take(self, path: Path, start: int) -> _Open:
        with self._lock:
            entry = self._idle.pop((path, _version(path), start), None)
        if entry is not None:
            return entry
        reader = open_audio(path, start_s=start / self.info(path).sample_rate, name=path.name)
        return _Open(reader, reader.blocks(BLOCK), start, np.zeros((reader.channels, 0), np.float32))

    def _give_back(self, path: Path, entry: _Open) -> None:
        key = path, _version(path), entry.position
        with self._lock:
            spare = [self._idle.pop(key)] if key in self._idle else []
            self._idle[key] = entry
            while len(self._idle) > MOST_OPEN:
                spare.append(self._idle.popitem(last=False)[1])
        for one in spare:
            one.reader.close()


def _count(path: Path) -> int:
    """Return the length of a file that doesn't declare it, by decoding it."""
    with open_audio(path, name=path.name) as reader:
        return sum(block.shape[1] for block in reader.blocks())


def _read(entry: _Open, frames: int) -> Array:
    """Return up to `frames` samples [C, n]; none at the end of the file."""
    if not entry.left.shape[1]:
        entry.left = _next(entry)
    block, entry.left = entry.left[:, :frames], entry.left[:, frames:]
    entry.position += block.shape[1]
    return block


def _next(entry: _Open) -> Array:
    fresh, entry.fresh = entry.fresh, False
    try:
        return next(entry.blocks, entry.left)
    except InputError:
        if fresh and entry.position:  # the file ends before this sample, although it declares more
            return entry.left
        raise


def _version(path: Path) -> int:
    try:
        status = path.stat()
    except OSError:
        return 0
    return hash((status.st_mtime_ns, status.st_size, status.st_ino))

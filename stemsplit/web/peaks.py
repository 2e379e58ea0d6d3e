"""Waveforms: least and greatest samples of buckets, computed once per file and kept in the user's cache."""

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stemsplit import folders
from stemsplit.audio.decoding import Array
from stemsplit.audio.reader import open_audio
from stemsplit.errors import StemsplitError
from stemsplit.files import write_whole
from stemsplit.web.slices import Slices

FIRST_BUCKET = 256  # samples
MOST_BUCKETS = 1 << 16  # the buckets double when there are more, so that memory doesn't grow with the length
FULL_SCALE = 32767  # of the least and greatest samples; louder ones are shown as this
MOST_IN_MEMORY = 48  # files, 0.5 MB each at most
MOST_CACHED = 1000  # files
CACHE_VERSION = 1

Levels = NDArray[np.int16]


@dataclass(frozen=True)
class View:
    """The waveform of a range.

    Attributes:
        lows, highs: least and greatest sample of each column over all channels, ±32767 being full scale.
        done: samples of the file that are known so far.
        complete: whether the file is known to its end.
        peak: greatest magnitude so far, 1 being full scale.
        error: the reason why the file can't be read to its end, or None.
    """

    lows: Levels
    highs: Levels
    done: int
    complete: bool
    peak: float
    error: str | None = None


class Overview:
    """The waveform of one file, which grows block by block while others read it."""

    def __init__(self) -> None:
        self.bucket, self.count, self.frames, self.peak = FIRST_BUCKET, 0, 0, 0.0
        self.complete = False
        self.error: str | None = None
        self._levels: Levels = np.zeros((2, MOST_BUCKETS), np.int16)  # [least and greatest, buckets]
        self._rest: Array = np.zeros((2, 0), np.float32)  # extremes of samples that fill no bucket yet
        self._lock = threading.Lock()

    def push(self, block: Array) -> None:
        """Add the next samples [C, n]."""
        extremes = np.stack([block.min(axis=0), block.max(axis=0)])  # [2, n]
        with self._lock:
            self.frames += block.shape[1]
            self._rest = np.concatenate([self._rest, extremes], axis=1)
            self._store(self._rest.shape[1] // self.bucket)

    def finish(self, error: str | None = None) -> None:
        """Note that there are no more samples, because of an error if one is given."""
        with self._lock:
            if self._rest.shape[1]:
                missing = self.bucket - self._rest.shape[1] % self.bucket
                self._rest = np.pad(self._rest, ((0, 0), (0, missing % self.bucket)), mode="edge")
                self._store(self._rest.shape[1] // self.bucket)
            self.complete, self.error = True, error

    def _store(self, count: int) -> None:
        while self.count + count > MOST_BUCKETS:
            self._halve()
            count = self._rest.shape[1] // self.bucket
        whole = self._rest[:, : count * self.bucket].reshape(2, count, self.bucket)  # [2, count, bucket]
        place = slice(self.count, self.count + count)
        lows, highs = whole[0].min(axis=1), whole[1].max(axis=1)  # [count]
        self.peak = max(self.peak, float(-lows.min(initial=0)), float(highs.max(initial=0)))
        self._levels[0, place], self._levels[1, place] = _scaled(lows), _scaled(highs)
        self.count += count
        self._rest = self._rest[:, count * self.bucket :]

    def _halve(self) -> None:
        """Join the buckets in pairs; a last one without a partner goes back to the samples that wait."""
        pairs, odd = divmod(self.count, 2)
        if odd:
            last = np.repeat(self._levels[:, self.count - 1 : self.count], self.bucket, axis=1) / FULL_SCALE
            self._rest = np.concatenate([last.astype(np.float32), self._rest], axis=1)
        both = self._levels[:, : 2 * pairs].reshape(2, pairs, 2)  # [2, pairs, 2]
        self._levels[0, :pairs], self._levels[1, :pairs] = both[0].min(axis=1), both[1].max(axis=1)
        self.count, self.bucket = pairs, 2 * self.bucket

    def view(self, start: int, frames: int, width: int) -> View:
        """Return the known columns of a range, which may be fewer than `width` at the end."""
        with self._lock:
            edges = (start + np.arange(width + 1) * frames // width) // self.bucket  # [width + 1]
            known = int(np.searchsorted(edges[:-1], self.count))
            lows = np.zeros(known, np.int16)
            highs = np.zeros(known, np.int16)
            if known:
                ends = np.minimum(np.maximum(edges[1 : known + 1], edges[:known] + 1), self.count)  # [known]
                bounds = np.stack([edges[:known], ends], axis=1).ravel()  # [2 known]
                padded = np.concatenate([self._levels[:, : self.count], self._levels[:, :1]], axis=1)
                lows = np.minimum.reduceat(padded[0], bounds)[::2]
                highs = np.maximum.reduceat(padded[1], bounds)[::2]
            return View(lows, highs, self.frames, self.complete, self.peak, self.error)

    def as_bytes(self) -> bytes:
        """Return a complete overview as the content of a file."""
        stream = io.BytesIO()
        facts = np.array([CACHE_VERSION, self.bucket, self.frames], np.int64)
        np.savez(stream, facts=facts, peak=np.float64(self.peak), levels=self._levels[:, : self.count])
        return stream.getvalue()

    @classmethod
    def from_file(cls, path: Path) -> "Overview | None":
        """Return the overview in a file, None if there is none or it isn't valid."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                version, bucket, frames = map(int, stored["facts"])
                levels: Any = stored["levels"]
                if version != CACHE_VERSION or levels.dtype != np.int16 or levels.shape[1] > MOST_BUCKETS:
                    return None
                found = cls()
                found.bucket, found.frames, found.count = bucket, frames, levels.shape[1]
                found.peak, found.complete = float(stored["peak"]), True
                found._levels[:, : found.count] = levels
                return found
        except Exception:  # whatever is wrong with a cached file, it is computed again
            return None


def _scaled(values: Array) -> Levels:
    return np.clip(np.rint(values * FULL_SCALE), -FULL_SCALE, FULL_SCALE).astype(np.int16)


class Waveforms:
    """The overviews of all files; one thread computes them, the one that was asked for last first."""

    def __init__(self, slices: Slices) -> None:
        self._slices = slices
        self._known: OrderedDict[str, Overview] = OrderedDict()
        self._waiting: OrderedDict[str, tuple[Path, Overview]] = OrderedDict()
        self._lock = threading.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="waveforms")
        self._closed = threading.Event()

    def overview(self, path: Path) -> Overview:
        """Return the overview of a file, which is being computed if it isn't known."""
        key = _key(path)
        with self._lock:
            if key in self._known:
                self._known.move_to_end(key)
                if key in self._waiting:
                    self._waiting.move_to_end(key)
                return self._known[key]
            found = Overview.from_file(_cached(key))
            if found is None:
                found = Overview()
                self._waiting[key] = path, found
                self._worker.submit(self._compute)
            self._known[key] = found
            while len(self._known) > MOST_IN_MEMORY:
                self._known.popitem(last=False)
            return found

    def view(self, path: Path, start: int, frames: int, width: int) -> View:
        """Return the waveform of a range in `width` columns, from the samples themselves if it is short.

        Raises:
            InputError: the file can't be read.
        """
        overview = self.overview(path)
        if frames < width * overview.bucket and frames <= 8 * FIRST_BUCKET * width:
            fine = Overview()
            fine.bucket = max(1, frames // width)
            for block in self._slices.blocks(path, start, frames):
                fine.push(block)
            fine.finish()
            near = fine.view(0, frames, width)
            return View(near.lows, near.highs, overview.frames, overview.complete, overview.peak)
        return overview.view(start, frames, width)

    def close(self) -> None:
        """Stop computing."""
        self._closed.set()
        self._worker.shutdown(cancel_futures=True)

    def _compute(self) -> None:
        with self._lock:
            key, (path, overview) = self._waiting.popitem()
        try:
            for block in self._samples(path):
                if self._closed.is_set():
                    return
                overview.push(block)
        except StemsplitError as error:
            overview.finish(error.reason)
            return
        except Exception as error:
            overview.finish(str(error))
            return
        overview.finish()
        with suppress(OSError):  # a full or read-only disk costs only time
            write_whole(_cached(key), overview.as_bytes())
            _prune(_cached(key).parent)

    def _samples(self, path: Path) -> Iterator[Array]:
        with open_audio(path, name=path.name) as reader:
            yield from reader.blocks()


def _key(path: Path) -> str:
    status = path.stat()
    facts = f"{CACHE_VERSION}\0{path}\0{status.st_size}\0{status.st_mtime_ns}"
    return sha256(facts.encode(errors="surrogateescape")).hexdigest()[:32]


def _cached(key: str) -> Path:
    return folders.cache_folder() / "waveforms" / f"{key}.npz"


def _prune(folder: Path) -> None:
    """Remove the oldest files if there are too many."""
    files = sorted(folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
    for path in files[:-MOST_CACHED]:
        path.unlink(missing_ok=True)

"""Cache of the lengths, rates and levels of audio files, so that a file is decoded once to be measured.

Entries are keyed by path, stream, size and modification time. `datasets.tracks` opens tracks through it.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from stemsplit.audio.reader import open_audio, probe
from stemsplit.datasets.layouts import Location
from stemsplit.files import write_whole
from stemsplit.folders import cache_folder

VERSION = 2
# Containers in which the position of a sample can be computed, and FLAC, which can be searched.
_SEEKABLE = {"wav", "wavex", "rf64", "w64", "aiff", "caf", "flac"}


@dataclass(frozen=True)
class FileInfo:
    """Length, rate, channels and level of an audio file.

    Attributes:
        frames: its length in samples, exactly as many as decoding gives.
        sample_rate: in Hz.
        channels: the number of channels.
        rms: the root mean square over all samples and channels, full scale 1; None if not measured yet.
        seeks: True if a range can be read without decoding what comes before it.
    """

    frames: int
    sample_rate: int
    channels: int
    rms: float | None = None
    seeks: bool = False


class MetadataCache:
    """Cache of `FileInfo` on disk.

    A damaged or outdated cache file is ignored. Several processes may share one: each adds its entries to
    those that the file has when it saves.

    Args:
        path: the cache file; None is `metadata.json` in the user's cache folder.
    """

    def __init__(self, path: str | Path | None = None) -> None:
        self.path = cache_folder() / "metadata.json" if path is None else Path(path)
        self._known = self._load()
        self._new: dict[str, dict[str, Any]] = {}

    def info(self, where: Location) -> FileInfo:
        """Return length, rate and channels of a file; decode it if its header gives no exact length.

        Raises:
            InputError: the file can't be read as audio.
        """
        key, entry = self._find(where)
        if entry is None:
            declared = probe(where.path, stream=where.stream)
            if declared.frames is None or declared.estimated:
                return self._store(key, _scan(where))
            return self._store(
                key,
                FileInfo(
                    declared.frames,
                    declared.sample_rate,
                    declared.channels,
                    seeks=declared.container in _SEEKABLE,
                ),
            )
        return entry

    def with_rms(self, where: Location) -> FileInfo:
        """Return the same with the RMS; the file is decoded the first time.

        Raises:
            InputError: the file can't be read as audio.
        """
        key, entry = self._find(where)
        return entry if entry and entry.rms is not None else self._store(key, _scan(where))

    def remember(self, key: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the JSON-ready value stored under `key`, or measure it and store it."""
        if (known := self._new.get(key) or self._known.get(key)) is None:
            known = self._new[key] = measure()
        return known

    def save(self) -> None:
        """Write the new entries; a cache folder that can't be written is ignored."""
        if not self._new:
            return
        try:
            files = self._load() | self._new
            write_whole(self.path, json.dumps({"version": VERSION, "files": files}))
        except OSError:
            return
        self._known, self._new = files, {}

    def _load(self) -> dict[str, dict[str, Any]]:
        try:
            data = json.loads(self.path.read_text(encoding="utf-8"))
            return dict(data["files"]) if data["version"] == VERSION else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _find(self, where: Location) -> tuple[str, FileInfo | None]:
        try:
            stat = where.path.stat()
        except OSError:  # reading the file will raise the error with its reason
            return "", None
        stream = "" if where.stream is None else f"#{where.stream}"
        key = f"{where.path.resolve()}{stream}|{stat.st_size}|{stat.st_mtime_ns}"
        entry = self._new.get(key) or self._known.get(key)
        return key, FileInfo(**entry) if entry else None

    def _store(self, key: str, info: FileInfo) -> FileInfo:
        self._new[key] = asdict(info)
        return info


def count_frames(where: Location) -> int:
    """Return the length of a file in samples, by decoding it.

    Raises:
        InputError: the file can't be read as audio.
    """
    return _scan(where).frames


def _scan(where: Location) -> FileInfo:
    """Decode a whole file; return its length and its RMS, √(Σx² / (T·C))."""
    frames, power = 0, 0.0
    with open_audio(where.path, stream=where.stream) as reader:
        for block in reader.blocks():
            frames += block.shape[1]
            power += float(np.square(block, dtype=np.float64).sum())
        info = FileInfo(frames, reader.sample_rate, reader.channels)
    return replace(info, rms=float(np.sqrt(power / max(1, frames * info.channels))))

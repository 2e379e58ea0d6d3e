"""Mixes that were rendered for a download, and ZIP files of stems that are made while they are sent."""

import shutil
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from secrets import token_hex
from threading import Lock
from typing import Any

from stemsplit.settings import OutputSettings
from stemsplit.web.answers import ApiError
from stemsplit.web.mixing import Lane, render

MOST_KEPT = 8  # mixes that can be downloaded again
_PIECE = 1 << 18  # bytes


class Exports:
    """The mixes that were rendered; they are removed when the server ends."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="stemsplit-mix-"))
        self._known: OrderedDict[str, Path] = OrderedDict()
        self._lock = Lock()

    def make(
        self, lanes: Sequence[Lane], settings: OutputSettings, name: str, stopped: Callable[[], bool]
    ) -> dict[str, Any]:
        """Render a mix, and return its id, name, size in bytes and common gain; errors as in `render`."""
        id = token_hex(9)
        target = self._folder / id / name
        try:
            gain_db = render(lanes, target, settings, stopped)
        except BaseException:
            shutil.rmtree(target.parent, ignore_errors=True)
            raise
        with self._lock:
            self._known[id] = target
            old = [self._known.popitem(last=False)[1] for _ in range(len(self._known) - MOST_KEPT)]
        for path in old:
            shutil.rmtree(path.parent, ignore_errors=True)
        return {"id": id, "name": name, "bytes": target.stat().st_size, "gain_db": gain_db}

    def get(self, id: str) -> Path:
        """Return the file of a mix.

        Raises:
            ApiError: there is none with this id (404).
        """
        with self._lock:
            if id not in self._known:
                raise ApiError(404, "no such mix")
            return self._known[id]

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self._folder, ignore_errors=True)


class _Pieces:
    """A file that can only be written; what is written waits until it is taken."""

    def __init__(self) -> None:
        self._waiting: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._waiting.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Do nothing: there is nothing behind it."""

    def take(self) -> bytes:
        data = b"".join(self._waiting)
        self._waiting.clear()
        return data


def zipped(files: Sequence[tuple[str, Path]]) -> Iterator[bytes]:
    """Yield the bytes of a ZIP file of some files, stored as they are, in bounded memory.

    Args:
        files: names in the ZIP file, and files.
    """
    out = _Pieces()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # type: ignore[call-overload]
        for name, path in files:
            entry = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while piece := source.read(_PIECE):
                    target.write(piece)
                    yield out.take()
            yield out.take()
    yield out.take()

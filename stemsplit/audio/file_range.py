"""A stretch of a file as a file of its own, for libraries that read open files."""

import io
import os
from pathlib import Path


class FileRange(io.RawIOBase):
    """The bytes from `start` to `end` of a file, read-only and seekable.

    Args:
        path: the file.
        start: the first byte.
        end: the byte after the last one.
    """

    def __init__(self, path: Path, start: int, end: int) -> None:
        self._file = io.BufferedReader(io.FileIO(path), 1 << 16)
        self._start, self._length = start, end - start
        self._position = 0

    def readable(self) -> bool:
        """Return True: it can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: it can be sought."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte, counted from the start, the position or the end of the stretch."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position within the stretch."""
        return self._position

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Fill `buffer` as far as the stretch goes; return the number of bytes."""
        wanted = max(0, min(len(buffer), self._length - self._position))
        self._file.seek(self._start + self._position)
        count = self._file.readinto(memoryview(buffer)[:wanted])
        self._position += count
        return count

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

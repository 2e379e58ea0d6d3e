"""An input file, opened once for all that read it: each library reads a view with a position of its own."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stemsplit.audio.decoding import AGAIN
from stemsplit.errors import InputError


class InputFile:
    """A file that is open for reading, by one thread at a time; a context manager.

    Attributes:
        path: the file.
        name: what errors call it.
        file: its bytes; every reader seeks before it reads, because the views read it too.
        size: its length in bytes when it was opened.

    Args:
        path: the file.
        name: what errors call it; None for its path.

    Raises:
        InputError: there is no such file, or it is empty, can't be opened, or is none.
    """

    def __init__(self, path: str | Path, name: str | Path | None = None) -> None:
        self.path = Path(path)
        self.name = self.path if name is None else Path(name)
        self.file = _open(self.path, self.name)
        self.size = os.fstat(self.file.fileno()).st_size
        if not self.size:
            self.close()
            raise InputError(self.name, "is empty (0 bytes)", hint=AGAIN)

    def view(self, start: int = 0, end: int | None = None) -> "FileRange":
        """Return the bytes from `start` to `end`, None for the file's end, as a file of its own."""
        whole = not start and end is None
        return FileRange(self.file, start, self.size if end is None else end, self.path if whole else None)

    def close(self) -> None:
        """Close the file; no view can be read any more."""
        self.file.close()

    def __enter__(self) -> "InputFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def opened(source: "str | Path | InputFile", name: str | Path | None = None) -> Iterator[InputFile]:
    """Open a file for the `with` block; one that is open already stays so."""
    if isinstance(source, InputFile):
        yield source
        return
    with InputFile(source, name) as file:
        yield file


class FileRange(io.RawIOBase):
    """A stretch of an open file as a file of its own, read-only and seekable; closing it closes nothing else.

    No library passes an `OSError` on from a file object: to them a failed read is the file's end.

    Attributes:
        failure: why a read failed, None as long as none did.

    Args:
        file: the file.
        start: the first byte.
        end: the byte after the last one.
        path: of the whole file; FFmpeg takes its suffix as a hint.
    """

    def __init__(self, file: io.BufferedReader, start: int, end: int, path: Path | None = None) -> None:
        self._file = file
        self._start, self._length = start, end - start
        self._position = 0
        self.failure: OSError | None = None
        if path is not None:
            self.name = f"file:{path}"

    def part(self, start: int, end: int) -> "FileRange":
        """Return the bytes from `start` to `end` of it as a file of their own."""
        return FileRange(self._file, self._start + start, self._start + end)

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
        wanted = min(len(buffer), self._length - self._position)
        if wanted <= 0:  # a damaged file may lead to where no file reaches
            return 0
        try:
            self._file.seek(self._start + self._position)
            count = self._file.readinto(memoryview(buffer)[:wanted])
        except OSError as error:
            self.failure = error
            return 0
        self._position += count
        return count


def _open(path: Path, name: Path) -> io.BufferedReader:
    """Open a file; say in one line why it can't be, before any library says it in its own way."""
    with _explained(name):
        kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise InputError(name, "is a folder")
    if not stat.S_ISREG(kind):
        raise InputError(name, "is no regular file", hint="a pipe is read once: give it as - on stdin")
    with _explained(name):
        return path.open("rb")


@contextmanager
def _explained(name: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(name, "no such file") from None
    except PermissionError:
        raise InputError(name, "no permission to read it", hint="its owner can allow it: chmod +r") from None
    except (OSError, ValueError) as error:
        raise InputError(name, getattr(error, "strerror", None) or str(error)) from None

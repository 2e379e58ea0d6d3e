"""An input file that is opened only once: each library reads it through a view with its own position."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from stemsplit.audio.decoding import GET_AGAIN_HINT
from stemsplit.errors import InputError
from stemsplit.urls import Place, Url, open_file

_MAX_OFFSET = (1 << 63) - 1


class InputFile:
    """An input file that is open for reading by one thread at a time; a context manager.

    Attributes:
        path: the file.
        name: its name in errors.
        file: the open file; seek before each read, because the views move its position.
        size: its length in bytes when it was opened.

    Args:
        path: the file.
        name: its name in errors, None for the path.

    Raises:
        InputError: the file doesn't exist, is empty, isn't a regular file, or can't be opened.
    """

    def __init__(self, path: str | Path, name: str | Path | None = None) -> None:
        self.path = Path(path)
        self.name = self.path if name is None else Path(name)
        self.file = _open(self.path, self.name)
        self.size = os.fstat(self.file.fileno()).st_size
        if not self.size:
            self.close()
            raise InputError(self.name, "is empty (0 bytes)", hint=GET_AGAIN_HINT)

    def view(self, start: int = 0, end: int | None = None) -> "FileRange":
        """Return the bytes from `start` to `end` (None: the end of the file) as a file of its own."""
        whole = not start and end is None
        return FileRange(self.file, start, self.size if end is None else end, self.path if whole else None)

    def close(self) -> None:
        """Close the file; no view can be read any more."""
        self.file.close()

    def __enter__(self) -> "InputFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RemoteFile(InputFile):
    """A file at an address, of which small ranges are read, such as its tags.

    Args:
        url: the address.

    Raises:
        InputError: it can't be opened.
    """

    def __init__(self, url: Url) -> None:
        self.path = self.name = Path(url.name)
        self.file = cast(io.BufferedReader, open_file(url))
        self.size = self.file.seek(0, os.SEEK_END)


@contextmanager
def opened(source: "str | Place | InputFile", name: str | Path | None = None) -> Iterator[InputFile]:
    """Open a file for the `with` block; leave an `InputFile` open after it."""
    if isinstance(source, InputFile):
        yield source
        return
    if isinstance(source, Url):
        with RemoteFile(source) as file:
            yield file
        return
    with InputFile(source, name) as file:
        yield file


class FileRange(io.RawIOBase):
    """A byte range of an open file as a read-only, seekable file; closing it leaves the file open.

    libsndfile and FFmpeg don't pass on an `OSError` of a file object, but take it for the end of the file, so
    it is kept in `failure`.

    Attributes:
        failure: the error of a read that failed, None if none did.

    Args:
        file: the file.
        start: the first byte.
        end: the byte after the last one.
        path: path of the file if the range is all of it; FFmpeg takes the suffix as a hint.
    """

    def __init__(self, file: io.BufferedReader, start: int, end: int, path: Path | None = None) -> None:
        self._file = file
        self._start, self._length = start, end - start
        self._position = 0
        self.failure: OSError | None = None
        self.interruption: BaseException | None = None
        if path is not None:
            self.name = f"file:{path}"

    def part(self, start: int, end: int) -> "FileRange":
        """Return the bytes from `start` to `end` of this range as a range of its own."""
        return FileRange(self._file, self._start + start, self._start + end)

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True: `seek` works."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a byte, counted from the range's start, the position or its end; return the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        # The sizes of streamed W64 lead libsndfile far outside the file, where lseek fails and does not move.
        if 0 <= base + offset <= _MAX_OFFSET:
            self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position within the range."""
        return self._position

    def readinto(self, buffer: "bytearray | memoryview") -> int:  # type: ignore[override]
        """Read into `buffer`, at most to the end of the range; return the number of bytes."""
        wanted = min(len(buffer), self._length - self._position)
        if wanted <= 0:  # a damaged file may lead to where no file reaches
            return 0
        if self.interruption is not None:
            return 0
        try:
            self._file.seek(self._start + self._position)
            count = self._file.readinto(memoryview(buffer)[:wanted])
            self._position += count
        except OSError as error:
            self.failure = error
            return 0  # the end of the file, for the library
        except BaseException as error:  # Ctrl-C: libsndfile's callback would swallow it
            self.interruption = error
            return 0
        return count

    def raise_interruption(self) -> None:
        """Raise what a signal handler has raised while a library was reading."""
        if self.interruption is not None:
            error, self.interruption = self.interruption, None
            raise error


def _open(path: Path, name: Path) -> io.BufferedReader:
    """Open a file, or raise one clear error before each library words it in its own way."""
    with _input_errors(name):
        kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise InputError(name, "is a folder")
    if not stat.S_ISREG(kind):
        raise InputError(name, "is not a regular file", hint="a pipe is read once: give it as - on stdin")
    with _input_errors(name):
        return path.open("rb")


@contextmanager
def _input_errors(name: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise InputError(name, "no such file") from None
    except PermissionError:
        raise InputError(name, "no permission to read it", hint="its owner can allow it: chmod +r") from None
    except (OSError, ValueError) as error:
        raise InputError(name, getattr(error, "strerror", None) or str(error)) from None

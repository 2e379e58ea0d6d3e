"""What can be read only once (stdin, a named pipe, `<(…)`), copied to a file that can be read again."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stemsplit.audio.sink import write_error
from stemsplit.errors import InputError

_CHUNK = 1 << 20


def is_pipe(path: str | Path) -> bool:
    """Whether a path names something to be read once, front to back: a pipe, a socket or a terminal."""
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind)


@contextmanager
def spool(source: BinaryIO | str | Path, name: str | Path = "stdin") -> Iterator[Path]:
    """A temporary copy of a stream, removed at the end of the `with` block.

    Args:
        source: an open binary stream, which is read to its end and not closed, or the path of a pipe.
        name: what errors call it; its suffix is kept.

    Raises:
        InputError: the stream can't be read, or nothing comes.
        ResourceError: the disk of the temporary folder is full.
    """
    copy = Path(_new_file(name))
    try:
        if isinstance(source, str | Path):
            with _open_pipe(Path(source), name) as stream:
                _copy(stream, copy, name)
        else:
            _copy(source, copy, name)
        yield copy
    finally:
        with suppress(OSError):
            copy.unlink()


def _new_file(name: str | Path) -> str:
    try:
        handle, path = tempfile.mkstemp(prefix="stemsplit-", suffix=Path(name).suffix)
    except OSError as error:
        raise write_error(Path(tempfile.gettempdir()), error) from None
    os.close(handle)
    return path


def _open_pipe(path: Path, name: str | Path) -> BinaryIO:
    try:
        return path.open("rb", buffering=0)
    except OSError as error:
        raise InputError(name, f"can't be read ({error.strerror or error})") from None


def _copy(stream: BinaryIO, path: Path, name: str | Path) -> None:
    count = 0
    try:
        with path.open("wb") as copy:
            while chunk := _read(stream, name):
                count += len(chunk)
                copy.write(chunk)
    except OSError as error:
        raise write_error(path, error) from None
    if not count:
        raise InputError(name, "is empty (0 bytes)", hint="see whether the program before it failed")


def _read(stream: BinaryIO, name: str | Path) -> bytes:
    try:
        return stream.read(_CHUNK) or b""
    except (OSError, ValueError) as error:
        raise InputError(name, f"can't be read ({error})") from None

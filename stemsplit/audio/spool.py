"""Temporary copies of streams that can be read only once: stdin, a named pipe, `<(…)`."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stemsplit.audio.decode_av import open_container
from stemsplit.audio.decode_sndfile import recognise
from stemsplit.audio.input_file import InputFile
from stemsplit.errors import InputError, ResourceError
from stemsplit.files import is_full, write_error

_CHUNK = 1 << 20
# After this many bytes a stream must be recognised as audio; FFmpeg itself probes at most 5 MB
_PROBE_BYTES = 16 << 20
# Files that can't be recognised by their first bytes: an MP4's index may come last, WTV's directory may be
# anywhere, and an ID3 tag may hold pictures of any size
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"}
_OPEN_ENDED = (b"ID3", b"\xb7\xd8\x00\x20\x37\x49\xda\x11")
# Space to leave free on the disk of the temporary folder: a share of the disk, at most this many bytes, and
# never more than the copy itself takes
_RESERVED_SHARE, _MAX_RESERVED_BYTES = 0.05, 256 << 20


def is_pipe(path: str | Path) -> bool:
    """Return whether a path can be read only once: a pipe, a socket or a character device."""
    try:
        kind = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or stat.S_ISCHR(kind)


@contextmanager
def spool(source: BinaryIO | str | Path, name: str | Path = "stdin") -> Iterator[Path]:
    """Copy a stream to a temporary file, removed at the end of the `with` block.

    Args:
        source: an open binary stream, which is read to its end but not closed, or the path of a pipe.
        name: the stream's name in errors; the copy keeps its suffix.

    Raises:
        InputError: the stream can't be read, is empty, or isn't audio.
        ResourceError: the disk of the temporary folder is nearly full.
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
                if not count:
                    _refuse_device(stream, name)
                copy.write(chunk)
                count += len(chunk)
                if count - len(chunk) < _PROBE_BYTES <= count:
                    copy.flush()
                    _require_audio(path, name)
                _require_room(path.parent, name, count)
    except OSError as error:
        if is_full(error):
            raise _no_room(path.parent, name, count) from None
        raise write_error(path, error) from None
    if not count:
        raise InputError(name, "is empty (0 bytes)", hint="see whether the program before it failed")


def _refuse_device(stream: BinaryIO, name: str | Path) -> None:
    """Refuse devices that never end, such as /dev/zero; a terminal ends with its user's Ctrl-D."""
    try:
        handle = stream.fileno()
    except OSError:  # a stream without a file descriptor
        return
    if stat.S_ISCHR(os.fstat(handle).st_mode) and not os.isatty(handle):
        raise InputError(name, "is a device, neither a file nor a pipe")


def _require_audio(head: Path, name: str | Path) -> None:
    """Refuse a stream that doesn't begin like audio, because it may never end."""
    with InputFile(head, name) as file:
        magic = file.file.read(40)
        if magic[4:8] not in _MP4_BOXES and not magic.startswith(_OPEN_ENDED) and not recognise(magic):
            open_container(file.view(), file.name).close()


def _require_room(folder: Path, name: str | Path, count: int) -> None:
    disk = shutil.disk_usage(folder)
    # some network file systems report a size of 0
    if disk.total and disk.free < min(_RESERVED_SHARE * disk.total, _MAX_RESERVED_BYTES, count):
        raise _no_room(folder, name, count)


def _no_room(folder: Path, name: str | Path, count: int) -> ResourceError:
    return ResourceError(
        f"{name}: no space left in {folder} after {count / 1e6:.0f} MB",
        hint="a stream is kept there while it is worked on; TMPDIR names another folder",
    )


def _read(stream: BinaryIO, name: str | Path) -> bytes:
    try:
        return stream.read(_CHUNK) or b""
    except (OSError, ValueError) as error:
        raise InputError(name, f"can't be read ({error})") from None

"""Take files out of archives: tar (perhaps compressed by gzip), zip and 7z.

| archive | files are read |
|---|---|
| tar, zip | into memory |
| 7z | from a copy on the disk, made once: it is slow to decompress, and has large networks |

No name in an archive is used as a path. Sizes are compared with limits before anything is decompressed, and
with what is there afterwards. Other files of the archive aren't unpacked.
"""

import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal

from stemsplit import files, folders
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub.compressed import opened
from stemsplit.hub.verified import digest_of_text

Kind = Literal["tar", "zip", "7z"]
Wanted = Callable[[str], bool]
Contents = Iterator[tuple[str, bytes | bytearray]]

MAGIC_7Z = b"7z\xbc\xaf\x27\x1c"
MOST_MEMBERS = 1_000  # of an archive
MOST_DATA = 4 << 30  # bytes of an archive's files; the largest network has 0.9 GB
MOST_PACKED = 100  # times the size of the archive; weights compress badly
MOST_HEADER_7Z = 1 << 16  # bytes of the list of files, which may be compressed itself
TOO_LARGE = "its archive is larger than that of any network"
BLOCK = 1 << 20


class BadArchive(StemsplitError):
    """An archive is damaged, too large, or doesn't have the file."""


def is_7z(path: Path) -> bool:
    """Return whether a file is a 7z archive."""
    with path.open("rb") as file:
        return file.read(len(MAGIC_7Z)) == MAGIC_7Z


def kind(path: Path) -> Kind | None:
    """Return the kind of an archive, None for another file; a zip may also be a checkpoint of PyTorch."""
    if is_7z(path):
        return "7z"
    if zipfile.is_zipfile(path):
        return "zip"
    try:
        with opened(path) as content, tarfile.open(fileobj=content, mode="r|") as archive:
            return "tar" if archive.next() is not None else None
    except (tarfile.TarError, OSError, EOFError, ValueError, zlib.error):
        return None


def within(member: str) -> Wanted:
    """Return a function that tells names in an archive: `member`, or a file in it, at any depth.

    `__MACOSX` has what a Mac adds to its archives, under the same names.
    """
    wanted = PurePosixPath(member).parts

    def found(name: str) -> bool:
        parts = PurePosixPath(name).parts
        places = range(len(parts) - len(wanted) + 1)
        return "__MACOSX" not in parts and any(parts[i : i + len(wanted)] == wanted for i in places)

    return found


def has(path: Path, wanted: Wanted) -> bool:
    """Return whether a zip archive has a file with a wanted name."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(map(wanted, archive.namelist()))
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return False


def contents(path: Path, wanted: Wanted) -> Contents:
    """Yield names and contents of the files in a tar or zip archive that have wanted names.

    Raises:
        BadArchive: it is damaged, too large, or no such archive.
    """
    readers = {"tar": _of_tar, "zip": _of_zip}
    try:
        reader = readers.get(kind(path) or "")
        if reader is None:
            raise BadArchive("not an archive that can be read")
        yield from reader(path, wanted, min(MOST_DATA, MOST_PACKED * path.stat().st_size))
    except (MemoryError, BadArchive):
        raise
    except Exception as error:  # a damaged archive can make its reader raise anything
        raise BadArchive(f"its archive is damaged ({_line(error)})") from error


def _of_tar(path: Path, wanted: Wanted, left: int) -> Contents:
    with opened(path) as file, tarfile.open(fileobj=file, mode="r|") as archive:
        for count, member in enumerate(archive):
            left -= member.size  # all of them are read, wanted or not
            if count >= MOST_MEMBERS or left < 0 or member.size < 0:
                raise BadArchive(TOO_LARGE)
            inside = archive.extractfile(member) if member.isreg() and wanted(member.name) else None
            if inside is None:
                continue
            content = inside.read(member.size)
            if len(content) < member.size:
                raise BadArchive("its archive is cut short")
            yield member.name, content


def _of_zip(path: Path, wanted: Wanted, left: int) -> Contents:
    with zipfile.ZipFile(path) as archive:
        inside = [info for info in archive.infolist() if not info.is_dir() and wanted(info.filename)]
        if len(inside) > MOST_MEMBERS or sum(info.file_size for info in inside) > left:
            raise BadArchive(TOO_LARGE)
        for info in inside:
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise BadArchive(f"its archive is compressed in an unusual way ({info.compress_type})")
            with archive.open(info) as file:
                content = _whole(file, info.file_size)
            if len(content) != info.file_size:
                raise BadArchive("its archive is damaged (a file of another size)")
            yield info.filename, content


def _whole(file: IO[bytes], size: int) -> bytearray:
    """Return the bytes of a file in an archive, at most one more than `size`, so that its end is checked."""
    content = bytearray()
    while part := file.read(min(BLOCK, size + 1 - len(content))):
        content += part
    return content


# ---------------------------------------------------------------- 7z


def unpacked(path: Path, member: str) -> Path:
    """Return the path of a copy of the file `member` of a 7z archive, made if there is no intact one.

    Raises:
        CheckpointError: the archive is damaged or too large, or doesn't have exactly one such file.
        ResourceError: the disk is full.
        OutputError: the copy can't be written.
        StemsplitError: the package py7zr isn't installed.
    """
    if not member:
        hint = "unpack it, and give the path of the checkpoint in it"
        raise CheckpointError(path, "a .7z archive, of which nothing says which file to take", hint=hint)
    require_reader("7z", path)
    import py7zr

    most = min(MOST_DATA, MOST_PACKED * path.stat().st_size)
    try:
        _require_small_header(path)
        with py7zr.SevenZipFile(path, max_extract_size=most) as archive:
            one = _only(archive.list(), within(member), member)
            if one.uncompressed > most:
                raise BadArchive(TOO_LARGE)
            name = re.sub(r"[^\w.-]|^\.+", "_", PurePosixPath(one.filename).name)[-100:]
            copy = folder_of(path) / f"{one.crc32 or 0:08x}" / name
            if not _is_intact(copy, one):
                _write(archive, one, copy)
            return copy
    except (MemoryError, CheckpointError):
        raise
    except BadArchive as error:
        raise CheckpointError(path, error.reason) from error
    except StemsplitError:
        raise
    except Exception as error:  # a damaged archive can make its reader raise anything
        if isinstance(error, OSError) and files.is_full(error):
            raise files.write_error(path, error) from error
        raise CheckpointError(path, f"its archive is damaged ({_line(error)})") from error


def require_reader(name: str, path: Path | str) -> None:
    """Refuse a 7z archive, by the end of its name, if the package that reads it isn't installed.

    Raises:
        StemsplitError: it isn't.
    """
    if not name.endswith("7z"):
        return
    try:
        import py7zr  # noqa: F401
    except ImportError as error:
        hint = "pip install 'stemsplit-cli[archives]'"
        raise StemsplitError(f"{path}: reading .7z archives needs py7zr", hint=hint) from error


def folder_of(path: Path) -> Path:
    """Return the folder of the copies from an archive: beside a download, for other files in the cache."""
    cache, path = folders.cache_folder().resolve(), path.resolve()
    if path.is_relative_to(cache):
        return path.parent / "unpacked"
    return cache / "unpacked" / digest_of_text(str(path))[:12]


def _require_small_header(path: Path) -> None:
    """Refuse a list of files that is too long, before py7zr decompresses it.

    The archive begins with its magic number, the version and a check value, in 12 bytes, then the place of
    the list and its size.
    """
    with path.open("rb") as file:
        start = file.read(28)
    if len(start) < 28 or int.from_bytes(start[20:], "little") > MOST_HEADER_7Z:
        raise BadArchive("its archive is cut short" if len(start) < 28 else TOO_LARGE)


def _only(inside: list[Any], wanted: Wanted, member: str) -> Any:
    found = [one for one in inside if one.is_file and wanted(one.filename)]
    if len(inside) > MOST_MEMBERS:
        raise BadArchive(TOO_LARGE)
    if len(found) != 1:
        raise BadArchive(f"its archive has {len(found)} files {member}, not one")
    return found[0]


def _is_intact(copy: Path, one: Any) -> bool:
    """Return whether a copy has the size and the check value that the archive states."""
    if not copy.is_file() or copy.stat().st_size != one.uncompressed:
        return False
    check = 0
    with copy.open("rb") as file:
        while block := file.read(BLOCK):
            check = zlib.crc32(block, check)
    return one.crc32 in (None, check)


class _Target:
    """Factory, as py7zr calls it, of the file that the only wanted member is written to."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def create(self, name: str) -> IO[bytes]:
        """Return the open file."""
        return self.file


def _write(archive: Any, one: Any, copy: Path) -> None:
    with files.os_errors(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(copy) as part:
        with part.open("wb") as file:
            archive.extract(targets=[one.filename], factory=_Target(file))
        if not _is_intact(part, one):
            raise BadArchive("its archive is damaged (a wrong check value)")


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:100] if lines else type(error).__name__

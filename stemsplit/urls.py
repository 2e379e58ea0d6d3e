"""Files at addresses that fsspec opens, such as `s3://bucket/song.wav`; needs the extra `s3`.

Credentials are the libraries' own: environment, configuration files, instance roles. No message has them.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias, TypeVar
from urllib.parse import unquote, urlsplit

from stemsplit.errors import InputError, OutputError, SettingsError, StemsplitError

ATTEMPTS = 3  # to read or write a file as a whole; libraries repeat single requests by themselves
PAUSE_S = 0.5  # before the second attempt, and twice as long before each further one
_BLOCK_BYTES = 1 << 18  # that are read at once where only tags are wanted
_PAGE = 1000  # keys that a bucket lists at a time
_FILE = "file://"
_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
# Stores that show an object only when it is complete, and that can't rename it
_ATOMIC = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "r2", "memory"}
_READ_ONLY = {"http", "https"}
Value = TypeVar("Value")


class Url(PurePosixPath):
    """Path of a file at an address; its text keeps the two slashes after the scheme."""

    def __str__(self) -> str:
        scheme, _, rest = super().__str__().partition(":/")
        return f"{scheme}://{rest}"

    @property
    def scheme(self) -> str:
        """Part before the colon, such as `s3`."""
        return self.parts[0].rstrip(":").lower()


Place: TypeAlias = Path | Url


def is_url(text: str) -> bool:
    """Return whether a text is an address and not the path of a file.

    >>> is_url("s3://bucket/a.wav"), is_url("C:/a.wav"), is_url("file:///a.wav")
    (True, False, False)
    """
    return bool(_SCHEME.match(text)) and not text.startswith(_FILE)


def place_of(text: str | Path) -> Place:
    """Return a text as an address or as the path of a file."""
    text = str(text)
    return Url(text) if is_url(text) else Path(text.removeprefix(_FILE))


def shown(url: str) -> str:
    """Return an address without what may be secret: user, password and query.

    >>> shown("https://me:pw@host/a.wav?key=1")
    'https://host/a.wav'
    """
    parts = urlsplit(url)
    if parts.scheme in _READ_ONLY:
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return re.sub(r"(?<=://)[^/@]*@", "", url)


def name_of(url: str) -> str:
    """Return the name of the file at an address.

    >>> name_of("https://host/My%20song.mp3?key=1")
    'My song.mp3'
    """
    path = urlsplit(url).path if is_web(url) else url
    name = path.rstrip("/").rpartition("/")[2]
    return unquote(name) if is_web(url) else name


def is_web(url: str) -> bool:
    """Return whether an address is a web page's, which can't be listed or written."""
    return url.partition("://")[0].lower() in _READ_ONLY


# ---------------------------------------------------------------- access


def _system(url: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it.

    Raises:
        StemsplitError: a library is missing.
        SettingsError: nothing opens such addresses.
    """
    scheme, extra = url.partition("://")[0], "pip install 'stemsplit-cli[s3]'"
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise StemsplitError(f"{scheme}:// needs fsspec", hint=extra) from None
    try:
        # listings that were made before another machine wrote would be wrong
        system, path = url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        needed, hint = ("s3fs", extra) if scheme.startswith("s3") else ("another library", _line(error))
        raise StemsplitError(f"{scheme}:// needs {needed}", hint=hint) from None
    except ValueError:
        raise SettingsError(f"{shown(url)}: nothing here opens {scheme}://") from None
    return system, str(path)


def _line(error: BaseException) -> str:
    """Return the first line of an exception's message without secrets, or its class."""
    text = (str(error).strip() or type(error).__name__).split("\n")[0]
    return re.sub(r"\?[^\s'\"]+", "?…", re.sub(r"(?<=://)[^/@\s]+@", "", text))


class _BrokenError(Exception):
    """A connection broke while a file was read."""


def _web_failure(error: Exception) -> Exception | None:
    """Return why a web server gave nothing: fsspec raises FileNotFoundError for whatever goes wrong."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return None
    web = type(cause).__module__.startswith("aiohttp") or isinstance(cause, TimeoutError)
    return cause if web and getattr(cause, "status", None) not in (404, 410) else None


def _reason(error: Exception) -> str:
    if isinstance(error, _BrokenError):
        return str(error)
    if (failure := _web_failure(error)) is not None:
        status = getattr(failure, "status", None)
        if status is not None:
            return f"the server answers {status} ({getattr(failure, 'message', '')})"
        return f"the server can't be reached ({getattr(failure, 'strerror', None) or _line(failure)})"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError) or type(error).__name__ == "NoCredentialsError":
        return "access denied: check the credentials that the library finds"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: {_line(error)}"


def _is_final(error: Exception) -> bool:
    """Return whether repeating a request can't help: there is no file, or no access to it."""
    if (failure := _web_failure(error)) is not None:
        return 400 <= getattr(failure, "status", 0) < 500
    final = (FileNotFoundError, PermissionError, FileExistsError, NotImplementedError, StemsplitError)
    return isinstance(error, final)


def _retried(work: Callable[[], Value]) -> Value:
    """Return the result of `work`, repeating it if a connection breaks."""
    for attempt in range(ATTEMPTS):
        try:
            return work()
        except Exception as error:  # every library has its own class for a connection that breaks
            if attempt + 1 == ATTEMPTS or _is_final(error):
                raise
            time.sleep(PAUSE_S * 2**attempt)
    raise AssertionError  # the loop ends by returning or raising


@contextmanager
def input_errors(url: str) -> Iterator[None]:
    """Turn any library's exceptions about reading an address into `InputError`."""
    try:
        yield
    except StemsplitError:
        raise
    except Exception as error:
        raise InputError(Url(shown(url)), _reason(error)) from None


@contextmanager
def output_errors(url: Url) -> Iterator[None]:
    """Turn any library's exceptions about writing an address into `OutputError`."""
    try:
        yield
    except StemsplitError:
        raise
    except Exception as error:
        raise OutputError(Url(shown(str(url))), f"can't be written ({_reason(error)})") from None


def exists(place: Place) -> bool:
    """Return whether there is a file or a folder.

    Raises:
        OutputError: the store doesn't answer.
    """
    if not isinstance(place, Url):
        return os.path.exists(place)
    with output_errors(place):
        system, path = _system(str(place))
        return bool(system.exists(path))


def open_file(place: Url) -> BinaryIO:
    """Open a file to be read in small ranges."""
    with input_errors(str(place)):
        system, path = _system(str(place))
        file: BinaryIO = system.open(path, "rb", block_size=_BLOCK_BYTES, cache_type="readahead")
        return file


def copy_to(url: str, copy: Callable[[BinaryIO], Value]) -> Value:
    """Call `copy` with the open file at an address, from the beginning again if the connection breaks.

    Args:
        url: the address.
        copy: reads the file to its end; the number of bytes is compared with the file's.

    Raises:
        InputError: it can't be read, or only in part.
    """
    with input_errors(url):
        system, path = _system(url)

        def once() -> Value:
            with system.open(path, "rb", cache_type="readahead") as file:
                counted = _Counted(file)
                result = copy(counted)  # type: ignore[arg-type]
                size = getattr(file, "size", None)
                if size is not None and counted.count != size:
                    raise _BrokenError(f"broke off after {counted.count} of {size} bytes")
                return result

        return _retried(once)


class _Counted:
    """Open file that counts the bytes that are read."""

    def __init__(self, file: Any) -> None:
        self._file, self.count = file, 0

    def read(self, size: int = -1) -> bytes:
        try:
            data: bytes = self._file.read(size)
        except Exception as error:  # not an error that the reader takes for one of the file's content
            raise _BrokenError(_reason(error)) from error
        self.count += len(data)
        return data

    def fileno(self) -> int:
        raise OSError("a file at an address has no descriptor")


def put(local: Path, target: Url) -> None:
    """Write a file to an address as a whole: nobody sees a part of it under the name.

    Raises:
        OutputError: it can't be written.
    """
    with output_errors(target):
        system, path = _system(str(target))
        if target.scheme in _ATOMIC:
            _retried(lambda: system.put_file(str(local), path))
            return
        part = path.rpartition("/")[0] + f"/.{target.name}.part"
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            _retried(lambda: system.put_file(str(local), part))
            system.mv(part, path)
        except BaseException:
            with suppress(Exception):
                system.rm_file(part)
            raise


def put_new(target: Url, content: bytes) -> bool:
    """Write a small file unless it exists; return whether it was written.

    Raises:
        OutputError: it can't be written.
    """
    with output_errors(target):
        system, path = _system(str(target))
        if target.scheme not in _ATOMIC:
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
        try:
            system.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except (NotImplementedError, ValueError):  # this store has no conditional writing
            system.pipe_file(path, content)
        return True


def put_small(target: Url, content: bytes) -> None:
    """Write a small file.

    Raises:
        OutputError: it can't be written.
    """
    with output_errors(target):
        system, path = _system(str(target))
        system.pipe_file(path, content)


def read_small(place: Url) -> bytes | None:
    """Return the content of a small file; None if it doesn't exist.

    Raises:
        OutputError: the store doesn't answer.
    """
    with output_errors(place):
        system, path = _system(str(place))
        try:
            content: bytes = system.cat_file(path)
            return content
        except FileNotFoundError:
            return None


def delete(place: Url) -> None:
    """Delete a file, ignoring failures."""
    with suppress(Exception):
        system, path = _system(str(place))
        system.rm_file(path)


def check_writable(folder: Url) -> None:
    """Check that files can be written below an address, by writing an empty one.

    Raises:
        OutputError: they can't.
        SettingsError: it's a web address.
    """
    if is_web(str(folder)):
        raise SettingsError(f"--output {shown(str(folder))}: can't be written", setting="--output")
    probe = folder / f".stemsplit-probe-{os.getpid()}-{time.time_ns()}"
    try:
        put_new(probe, b"")
    except OutputError as error:
        raise OutputError(folder, error.reason, hint=error.hint) from None
    delete(probe)


# ---------------------------------------------------------------- listings


def is_folder(url: str) -> bool:
    """Return whether files lie below an address.

    Raises:
        InputError: the store doesn't answer.
    """
    if is_web(url):
        return False
    with input_errors(url):
        system, path = _system(url)
        return bool(system.isdir(path))


def walk(url: str) -> Iterator[str]:
    """Yield the addresses of all files below an address, while it is being listed.

    Raises:
        InputError: it can't be listed.
    """
    with input_errors(url):
        system, path = _system(url)
        paths = _keys(system, path) if hasattr(system, "call_s3") else _walked(system, path)
        for found in paths:  # the path in the store may lack the address's host
            yield url.rstrip("/") + found.removeprefix(path.rstrip("/"))


def _keys(system: Any, path: str) -> Iterator[str]:
    """Yield the keys of a bucket below a prefix page by page: a million of them never are in memory."""
    bucket, _, prefix = path.partition("/")
    request = {"Bucket": bucket, "Prefix": f"{prefix}/" if prefix else "", "MaxKeys": _PAGE}
    while True:
        page = system.call_s3("list_objects_v2", **request)
        yield from (f"{bucket}/{one['Key']}" for one in page.get("Contents", ()) if one["Key"][-1] != "/")
        if not page.get("IsTruncated"):
            return
        request["ContinuationToken"] = page["NextContinuationToken"]


def _walked(system: Any, path: str) -> Iterator[str]:
    waiting = [path]
    while waiting:
        folder = waiting.pop()
        entries = sorted(system.ls(folder, detail=True), key=lambda one: one["name"])
        yield from (one["name"] for one in entries if one["type"] == "file")
        waiting += [one["name"] for one in reversed(entries) if one["type"] == "directory"]

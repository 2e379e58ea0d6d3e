"""Download one file over https, with resume and retries.

It uses the standard library's client, which respects the usual proxy variables.
"""

import errno
import http.client
import json
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.parse import quote, urlsplit

from stemsplit import __version__, files
from stemsplit.errors import DownloadError, OutputError, ResourceError

Report = Callable[[int, int | None], None]

TRIES = 5  # consecutive ones without a new byte
PAUSE_S = 0.5  # before the second try; doubled with every try
MAX_PAUSE_S = 8.0
TIMEOUT_S = 30.0  # without a byte
BLOCK = 1 << 18

TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
LOCAL_HOSTS = {"127.0.0.1", "localhost", "::1"}


class _Interrupted(Exception):
    """A try failed, but the next one may succeed.

    Args:
        reason: for the message if all tries fail.
        wait_s: time to wait before the next try, in seconds.
    """

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def transfer(url: str, part: Path, *, size: int | None, trusted: str | None, report: Report) -> bool:
    """Download `url` into the file `part`, resuming from the bytes that it has already.

    Args:
        url: an https URL, or an http URL on this machine or at `trusted`.
        part: the file, which may exist; it is kept after a failure, to be resumed.
        size: the expected length in bytes, None if unknown.
        trusted: a base URL that may use plain http.
        report: called with the bytes so far and the total; an exception from it ends the transfer.

    Returns:
        Whether the file was put together from several tries, so that its parts may not belong together.

    Raises:
        DownloadError: the URL is refused or doesn't exist, sends more than `size`, or all tries failed.
        ResourceError: the disk is full.
        OutputError: `part` can't be written.
    """
    require_secure(url, trusted)
    opener = urllib.request.build_opener(_Redirects(trusted))
    left, furthest, pause, resumed = TRIES, _length(part), PAUSE_S, False
    while True:
        resumed |= _length(part) > 0
        try:
            _attempt(opener, url, part, size, report)
        except _Interrupted as error:
            new = _length(part) > furthest
            furthest = max(furthest, _length(part))
            left, pause = (TRIES, PAUSE_S) if new else (left - 1, 2 * pause)
            if left <= 0:
                raise DownloadError(f"{url}: {error}", url=url) from error
            time.sleep(min(max(pause, error.wait_s), MAX_PAUSE_S))
        else:
            return resumed


def read_small(url: str, *, trusted: str | None = None, limit: int = 16 << 20) -> bytes:
    """Return what a URL sends, in one try.

    Args:
        url: an https URL, or an http URL on this machine or at `trusted`.
        trusted: a base URL that may use plain http.
        limit: the most bytes that are read.

    Raises:
        DownloadError: the URL is refused, fails or sends more.
    """
    require_secure(url, trusted)
    opener = urllib.request.build_opener(_Redirects(trusted))
    request = urllib.request.Request(_sendable(url), headers={"User-Agent": f"stemsplit/{__version__}"})
    try:
        with _connection(url), closing(opener.open(request, timeout=TIMEOUT_S)) as response:
            content = bytes(response.read(limit + 1))
    except urllib.error.HTTPError as error:
        with closing(error):
            raise DownloadError(f"{url}: HTTP {error.code} {error.reason}", url=url) from error
    except _Interrupted as error:
        raise DownloadError(f"{url}: {error}", url=url) from error
    if len(content) > limit:
        raise DownloadError(f"{url}: sent more than {limit >> 20} MB", url=url)
    return content


def require_secure(url: str, trusted: str | None = None, *, source: str | None = None) -> None:
    """Refuse a URL that isn't https, except for http on this machine or at `trusted`.

    Args:
        url: the URL.
        trusted: a base URL that the user configured.
        source: the URL that redirected to it; https must not redirect to http.

    Raises:
        DownloadError: the URL is refused.
    """
    try:
        to, base = urlsplit(url), urlsplit(trusted or "")
    except ValueError as error:
        raise DownloadError(f"{url}: not a valid URL ({error})", url=url) from error
    known = to.hostname in LOCAL_HOSTS or (to.scheme, to.netloc) == (base.scheme, base.netloc)
    downgraded = source is not None and urlsplit(source).scheme == "https"
    if to.scheme == "https" or (to.scheme == "http" and known and not downgraded):
        return
    how = f"{source}: redirects to {url}" if source else url
    raise DownloadError(f"{how}: refused, because only https is trusted", url=url)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows redirects to trusted URLs only."""

    def __init__(self, trusted: str | None) -> None:
        self.trusted = trusted

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        try:
            require_secure(newurl, self.trusted, source=req.full_url)
        except DownloadError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _attempt(
    opener: urllib.request.OpenerDirector, url: str, part: Path, size: int | None, report: Report
) -> None:
    have = _length(part)
    if size is not None and have >= size:
        if have == size:
            return
        part.unlink()
        have = 0
    request = urllib.request.Request(_sendable(url), headers=_headers(part, have))
    try:
        with _connection(url):
            response = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with closing(error):
            _handle_http_error(url, error, part, have)
        return
    with closing(response):
        with _disk(part):
            start = _start(response, part, have)
            total = _total(response, start)
            if size is not None and total not in (None, size):
                raise DownloadError(f"{url}: holds {total} bytes, not {size}: another file", url=url)
            total = size if total is None else total
            _save_validator(part, response)
        here = _receive(url, response, part, start, total, report)
    if total is not None and here < total:
        raise _Interrupted(f"the connection ended after {here} of {total} bytes")


def _sendable(url: str) -> str:
    """Return a URL with spaces and letters beyond ASCII escaped, as browsers do."""
    return re.sub("[^!-~]+", lambda found: quote(found[0]), url)


def _headers(part: Path, have: int) -> dict[str, str]:
    headers = {"User-Agent": f"stemsplit/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        with suppress(OSError, ValueError):
            kept = json.loads(_validator(part).read_text())
            if isinstance(kept, dict) and re.fullmatch("[ -~]+", str(kept.get("validator", ""))):
                headers["If-Range"] = str(kept["validator"])
    return headers


def _start(response: Any, part: Path, have: int) -> int:
    """Return the position in the file at which the response's bytes begin."""
    if response.status != 206:
        return 0
    place = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if place is None or int(place[1]) != have:
        part.unlink(missing_ok=True)
        raise _Interrupted("the server sent another range than asked for")
    return have


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if re.fullmatch("[0-9]+", length) else None


def _save_validator(part: Path, response: Any) -> None:
    """Save the server's validator of this version of the file, so that no other version is appended to it."""
    etag = response.headers.get("ETag")
    # a weak validator doesn't mean that the bytes are the same (RFC 9110 §13.1.5)
    strong = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if strong:
        _validator(part).write_text(json.dumps({"validator": strong}), encoding="utf-8")
    else:
        _validator(part).unlink(missing_ok=True)


def _receive(url: str, response: Any, part: Path, here: int, total: int | None, report: Report) -> int:
    # unbuffered, because a buffer that a full disk refused would be written again on closing
    with _disk(part):
        file: IO[bytes] = part.open("r+b" if here else "wb", buffering=0)
    with file:
        file.truncate(here)
        file.seek(here)
        report(here, total)
        while block := _read(url, response):
            if total is not None and here + len(block) > total:
                raise DownloadError(f"{url}: sends more than the {total} bytes of the file", url=url)
            _write(file, block, part)
            here += len(block)
            report(here, total)
    return here


def _read(url: str, response: Any) -> bytes:
    with _connection(url):
        return bytes(response.read1(BLOCK))


def _write(file: IO[bytes], block: bytes, part: Path) -> None:
    left = memoryview(block)
    with _disk(part):
        while left:
            left = left[file.write(left) :]


@contextmanager
def _connection(url: str) -> Iterator[None]:
    """Turn exceptions in the block into connection errors, except for HTTP error responses."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (ValueError, http.client.InvalidURL) as error:  # of this URL, or of a redirect's
        raise DownloadError(f"{url}: {error}", url=url) from error
    except (OSError, http.client.HTTPException) as error:
        _raise_connection_error(url, error)


@contextmanager
def _disk(part: Path) -> Iterator[None]:
    """Turn `OSError`s in the block into errors of this machine's disk."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if files.is_full(error) or error.errno == errno.EFBIG:
            raise ResourceError(f"{part}: {reason}", hint="free some disk space and repeat") from error
        raise OutputError(part, reason) from error


def _handle_http_error(url: str, error: urllib.error.HTTPError, part: Path, have: int) -> None:
    """Raise for an HTTP error response, unless it says that the file is complete."""
    if error.code == 416 and have:  # Range Not Satisfiable; its Content-Range states the full length
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink(missing_ok=True)
        raise _Interrupted("the server has no such range") from error
    reason = f"HTTP {error.code} {error.reason}"
    if error.code not in TRANSIENT:
        raise DownloadError(f"{url}: {reason}", url=url) from error
    after = error.headers.get("Retry-After", "")
    raise _Interrupted(reason, float(after) if re.fullmatch("[0-9]+", after) else 0.0) from error


def _raise_connection_error(url: str, error: OSError | http.client.HTTPException) -> NoReturn:
    """Raise for a failed connection: `_Interrupted` if another try may succeed, else `DownloadError`."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    reason = str(getattr(cause, "strerror", None) or cause or type(error).__name__)
    # a name that can't be resolved and an invalid certificate won't be better in a second
    if isinstance(cause, socket.gaierror | ssl.SSLCertVerificationError):
        raise DownloadError(f"{url}: {reason}", url=url) from error
    raise _Interrupted(reason) from error


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _length(part: Path) -> int:
    try:
        return part.stat().st_size
    except FileNotFoundError:
        return 0


def discard(part: Path) -> None:
    """Remove a part file and its validator."""
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def settle(part: Path, path: Path) -> None:
    """Rename a verified part file to its final name, flushed to the disk."""
    files.settle(part, path)
    _validator(part).unlink(missing_ok=True)

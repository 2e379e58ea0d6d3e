"""One file over HTTP: resumed where it stopped, repeated while that helps, over https only.

Uses the standard library's client, which honours the usual proxy variables.
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
from urllib.parse import urlsplit

from stemsplit import __version__, files
from stemsplit.errors import DownloadError, OutputError, ResourceError

Report = Callable[[int, int | None], None]

TRIES = 5  # in a row without a new byte
PAUSE_S = 0.5  # before the second try; doubles from try to try
LONGEST_PAUSE_S = 8.0
TIMEOUT_S = 30.0  # without a byte
BLOCK = 1 << 18

PASSING = {408, 425, 429, 500, 502, 503, 504}
LOCAL = {"127.0.0.1", "localhost", "::1"}


class _Interrupted(Exception):
    """This try failed, the next may not."""

    def __init__(self, reason: str, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


def transfer(url: str, part: Path, *, size: int | None, trusted: str | None, report: Report) -> None:
    """Complete the file `part` from `url`, keeping what it holds already.

    Args:
        url: https, or http on this machine or at `trusted`.
        part: may exist; stays for the next time when this one fails.
        size: the length that the file must have, None if unknown.
        trusted: a base address that may be reached over plain http.
        report: called with the bytes that are here and the total; what it raises ends the transfer.

    Raises:
        DownloadError: refused, not there, or given up after several tries.
        ResourceError: the disk is full.
        OutputError: `part` can't be written.
    """
    require_secure(url, trusted)
    opener = urllib.request.build_opener(_Redirects(trusted))
    left, furthest, pause = TRIES, _length(part), PAUSE_S
    while True:
        try:
            _attempt(opener, url, part, size, report)
        except _Interrupted as error:
            new = _length(part) > furthest
            furthest = max(furthest, _length(part))
            left, pause = (TRIES, PAUSE_S) if new else (left - 1, 2 * pause)
            if left <= 0:
                raise DownloadError(f"{url}: {error}", url=url) from error
            time.sleep(min(max(pause, error.wait_s), LONGEST_PAUSE_S))
        else:
            return


def require_secure(url: str, trusted: str | None = None, *, source: str | None = None) -> None:
    """Refuse an address that isn't https; plain http only on this machine or at `trusted`.

    Args:
        url: the address.
        trusted: a base address that the user configured.
        source: the address that redirected here; from https nothing but https may follow.

    Raises:
        DownloadError: the address is refused.
    """
    try:
        to, base = urlsplit(url), urlsplit(trusted or "")
    except ValueError as error:
        raise DownloadError(f"{url}: no address ({error})", url=url) from error
    known = to.hostname in LOCAL or (to.scheme, to.netloc) == (base.scheme, base.netloc)
    downgraded = source is not None and urlsplit(source).scheme == "https"
    if to.scheme == "https" or (to.scheme == "http" and known and not downgraded):
        return
    how = f"{source}: redirects to {url}" if source else url
    raise DownloadError(f"{how}: refused, because only https is trusted", url=url)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to trusted addresses only."""

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
    request = urllib.request.Request(url, headers=_headers(part, have))
    try:
        with _connection(url):
            response = opener.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with closing(error):
            _answered(url, error, part, have)
        return
    with closing(response):
        with _disk(part):
            start = _start(response, part, have)
            total = _total(response, start)
            if size is not None and total not in (None, size):
                raise DownloadError(f"{url}: holds {total} bytes, not {size}: another file", url=url)
            _remember(part, response)
        here = _receive(url, response, part, start, total, report)
    if total is not None and here < total:
        raise _Interrupted(f"the connection ended after {here} of {total} bytes")


def _headers(part: Path, have: int) -> dict[str, str]:
    headers = {"User-Agent": f"stemsplit/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        with suppress(OSError, ValueError):
            headers["If-Range"] = str(json.loads(_validator(part).read_text())["validator"])
    return headers


def _start(response: Any, part: Path, have: int) -> int:
    """Where the answer's bytes belong in the file."""
    if response.status != 206:
        return 0
    place = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if place is None or int(place[1]) != have:
        part.unlink(missing_ok=True)
        raise _Interrupted("the server sent another range than asked for")
    return have


def _total(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length", "")
    return start + int(length) if length.isdigit() else None


def _remember(part: Path, response: Any) -> None:
    """Keep what the server calls this version of the file, so that another version isn't appended to it."""
    etag = response.headers.get("ETag")
    # RFC 9110, 13.1.5: a weak validator doesn't say that the bytes are the same.
    strong = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if strong:
        _validator(part).write_text(json.dumps({"validator": strong}), encoding="utf-8")
    else:
        _validator(part).unlink(missing_ok=True)


def _receive(url: str, response: Any, part: Path, here: int, total: int | None, report: Report) -> int:
    # Without a buffer, which would be written once more on closing, when it can't be.
    with _disk(part):
        file: IO[bytes] = part.open("r+b" if here else "wb", buffering=0)
    with file:
        file.truncate(here)
        file.seek(here)
        report(here, total)
        while block := _read(url, response):
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
    """What fails in here is the connection, but for answers that are no success."""
    try:
        yield
    except urllib.error.HTTPError:
        raise
    except (ValueError, http.client.InvalidURL) as error:  # of an address, here or in a redirection
        raise DownloadError(f"{url}: {error}", url=url) from error
    except (OSError, http.client.HTTPException) as error:
        _broken(url, error)


@contextmanager
def _disk(part: Path) -> Iterator[None]:
    """What fails in here is this machine's disk."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        if files.is_full(error) or error.errno == errno.EFBIG:
            raise ResourceError(f"{part}: {reason}", hint="free some disk space and repeat") from error
        raise OutputError(part, reason) from error


def _answered(url: str, error: urllib.error.HTTPError, part: Path, have: int) -> None:
    """An answer that is no success: raises, unless it says that the file is complete."""
    if error.code == 416 and have:
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        part.unlink(missing_ok=True)
        raise _Interrupted("the server has no such range") from error
    reason = f"HTTP {error.code} {error.reason}"
    if error.code not in PASSING:
        raise DownloadError(f"{url}: {reason}", url=url) from error
    after = error.headers.get("Retry-After", "")
    raise _Interrupted(reason, float(after) if after.isdigit() else 0.0) from error


def _broken(url: str, error: OSError | http.client.HTTPException) -> NoReturn:
    """A connection that failed: says whether another try may help."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    reason = str(getattr(cause, "strerror", None) or cause or type(error).__name__)
    # A name that doesn't resolve and a certificate that doesn't hold won't do so in a second either.
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
    """Remove a part and what is remembered of it."""
    part.unlink(missing_ok=True)
    _validator(part).unlink(missing_ok=True)


def settle(part: Path, path: Path) -> None:
    """Give a verified part its final name, durably."""
    files.settle(part, path)
    _validator(part).unlink(missing_ok=True)

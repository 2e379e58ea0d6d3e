"""Files of the Hugging Face hub, through its own client and in its own cache.

Measured with huggingface_hub 2.4: a file that is cached at a pinned revision causes no request. The client
never compares a file with its hash, so the caller must.
"""

import io
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tqdm import tqdm

from stemsplit.errors import DownloadError, ResourceError, StemsplitError
from stemsplit.events import Callback, Download, emit
from stemsplit.files import is_full
from stemsplit.hub import verified
from stemsplit.hub.entries import HubFile

ENDPOINT = "https://huggingface.co"
CONNECT_S = 10.0


def endpoint() -> str:
    """Return the hub's address: `HF_ENDPOINT`, else the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT


def address(file: HubFile) -> str:
    """Return the URL of a file."""
    return f"{endpoint()}/{file.repo}/resolve/{file.revision}/{file.name}"


def cached(file: HubFile) -> Path | None:
    """Return the path of a file in the cache, None if it isn't there; open no connection."""
    # the client's own lookup takes 0.1 s longer, because it imports its HTTP library
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, "models--" + file.repo.replace("/", "--"))
    found = folder / "snapshots" / file.revision / file.name
    return found if found.is_file() else None


def download(file: HubFile, callback: Callback | None = None, *, again: bool = False) -> Path:
    """Download a file into the cache.

    Args:
        file: the file.
        callback: receives `Download` events and may cancel.
        again: download it although it is cached.

    Raises:
        DownloadError: the file doesn't exist, or the hub can't be reached.
        ResourceError: the disk is full.
        Cancelled: by the callback.
    """
    from huggingface_hub import hf_hub_download

    bar = _bar(file.name, callback)
    with _client_errors(address(file), bar):
        _check_reachable()
        path = hf_hub_download(
            file.repo,
            file.name,
            revision=file.revision,
            endpoint=endpoint(),
            force_download=again,
            tqdm_class=bar,
        )
    return Path(path)


def listing(repo: str, revision: str) -> dict[str, str | None]:
    """Return the names of a repository's files, each with its sha256 if the hub states one.

    Raises:
        DownloadError: there is no such repository or revision, or the hub can't be reached.
    """
    from huggingface_hub import HfApi

    with _client_errors(f"{endpoint()}/{repo}"):
        _check_reachable()
        info = HfApi(endpoint=endpoint()).model_info(repo, revision=revision, files_metadata=True)
    files = info.siblings or []
    return {file.rfilename: file.lfs.sha256 if file.lfs else None for file in files}


def metadata(url: str) -> Any:
    """Return what the hub's headers state about the file at a URL: etag, size and commit_hash.

    Raises:
        DownloadError: there is no such file, or the hub can't be reached.
    """
    from huggingface_hub import get_hf_file_metadata

    with _client_errors(url):
        _check_reachable(url)
        return get_hf_file_metadata(url)


def cached_snapshot(repo: str, revision: str) -> Path | None:
    """Return the folder of a revision in the cache, None if nothing is cached; open no connection."""
    from huggingface_hub import snapshot_download

    with suppress(Exception):  # LocalEntryNotFoundError, or what a malformed name raises
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    return None


def stated_hash(path: Path) -> verified.Hash | None:
    """Return the hash of a cached file, which the client makes the name of its blob; None if it isn't one."""
    name = path.resolve().name
    kind: Literal["sha256", "git"] = "sha256" if len(name) == 64 else "git"
    return verified.Hash(kind, name) if re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", name) else None


def _check_reachable(url: str | None = None) -> None:
    """Fail fast when offline, by opening a connection to the hub, or a URL's host, unless a proxy is used.

    The client itself retries for 23 s, even if the host's name can't be resolved.
    """
    parts = urlsplit(url or endpoint())
    host = parts.hostname or ""
    if not {parts.scheme, "all"} & getproxies().keys() or proxy_bypass(host):
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=CONNECT_S).close()


@contextmanager
def _client_errors(where: str, bar: Any = None) -> Iterator[None]:
    """Turn the client's exceptions into this package's errors, and keep its warnings off the terminal."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except StemsplitError:
        raise
    except Exception as error:  # the client's HTTP library, and so its exceptions, differ by version
        if bar is not None and bar.stopped is not None:
            raise bar.stopped from None
        if isinstance(error, OSError) and is_full(error):
            raise ResourceError(f"{where}: {error.strerror}", hint="free some disk space") from error
        raise DownloadError(f"{where}: {_line(error)}", url=where) from error
    finally:
        log.setLevel(level)
    if bar is not None and bar.stopped is not None:
        raise bar.stopped


def remove(path: Path) -> int:
    """Delete a cached file and the blob that it links to; return the number of bytes freed."""
    verified.forget(path)
    blob = path.resolve()
    size = blob.stat().st_size if blob.exists() else 0
    with suppress(FileNotFoundError):
        path.unlink()
    with suppress(FileNotFoundError):
        blob.unlink()
    return size


def _line(error: Exception) -> str:
    """Return an error in one line, for HTTP errors with the words of its class, such as "entry not found"."""
    if type(error).__name__ == "LocalEntryNotFoundError" and isinstance(error.__cause__, Exception):
        error = error.__cause__  # why the hub was of no use
    text = str(getattr(error, "strerror", None) or error).strip()
    line = re.split(r"\n|\. ", text or type(error).__name__)[0].rstrip(".")
    words = re.findall("[A-Z][a-z]+", type(error).__name__.removesuffix("Error"))
    return f"{line} ({' '.join(words).lower()})" if " Client Error" in line and words else line


def _bar(name: str, callback: Callback | None) -> Any:
    """Return a class of tqdm progress bars that emit events instead of drawing."""

    class Bar(tqdm):  # type: ignore[type-arg]
        stopped: Exception | None = None  # the exception that the callback raised

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= {"file": io.StringIO(), "disable": False, "mininterval": float("inf")}
            super().__init__(*args, **kwargs)
            self._report()

        def update(self, n: float | None = 1) -> bool | None:
            done = super().update(n)
            self._report()
            return done

        def _report(self) -> None:
            try:
                emit(callback, Download(name, int(self.n), None if self.total is None else int(self.total)))
            except Exception as error:
                # transfers outside Python swallow exceptions of the bar, so `_client_errors` raises it again
                Bar.stopped = error
                raise

    return Bar

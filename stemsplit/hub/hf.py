"""Files of the Hugging Face hub, through its own client and in its own cache.

Measured with huggingface_hub 2.4: a file cached at a pinned revision makes no request; its content is never
compared with its hash, so the caller does that.
"""

import io
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from tqdm import tqdm

from stemsplit.errors import DownloadError, ResourceError, StemsplitError
from stemsplit.events import Callback, Download, emit
from stemsplit.files import is_full
from stemsplit.hub import verified
from stemsplit.hub.registry import HubFile

ENDPOINT = "https://huggingface.co"
CONNECT_S = 10.0


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, else the public one."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT


def address(file: HubFile) -> str:
    """The URL of a file."""
    return f"{endpoint()}/{file.repo}/resolve/{file.revision}/{file.name}"


def cached(file: HubFile) -> Path | None:
    """Where the file of a commit lies in the cache, or None. Opens no connection."""
    # The client's own lookup imports its HTTP library: 0.1 s that a start with all at hand needn't take.
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, "models--" + file.repo.replace("/", "--"))
    found = folder / "snapshots" / file.revision / file.name
    return found if found.is_file() else None


def download(file: HubFile, callback: Callback | None = None, *, again: bool = False) -> Path:
    """Fetch a file into the cache.

    Args:
        file: which.
        callback: receives `Download` events and may cancel.
        again: although it's there.

    Raises:
        DownloadError: it isn't there or can't be reached.
        ResourceError: the disk is full.
        Cancelled: by the callback.
    """
    from huggingface_hub import hf_hub_download

    bar = _bar(file.name, callback)
    with _failing(address(file), bar):
        _knock()
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
    """The files of a repository, with the sha256 of those that the hub states one for.

    Raises:
        DownloadError: there is no such repository or revision, or the hub can't be reached.
    """
    from huggingface_hub import HfApi

    with _failing(f"{endpoint()}/{repo}"):
        _knock()
        info = HfApi(endpoint=endpoint()).model_info(repo, revision=revision, files_metadata=True)
    files = info.siblings or []
    return {file.rfilename: file.lfs.sha256 if file.lfs else None for file in files}


def cached_snapshot(repo: str, revision: str) -> Path | None:
    """The folder of what is cached of a revision, None if nothing is. Opens no connection."""
    from huggingface_hub import snapshot_download

    with suppress(Exception):  # LocalEntryNotFoundError, or what a malformed name raises
        return Path(snapshot_download(repo, revision=revision, local_files_only=True))
    return None


def _knock() -> None:
    """Open and close a connection to the hub, where no proxy stands between.

    The client repeats for 23 s what can't succeed, such as resolving a name without a network.
    """
    parts = urlsplit(endpoint())
    host = parts.hostname or ""
    if not {parts.scheme, "all"} & getproxies().keys() or proxy_bypass(host):
        port = parts.port or (80 if parts.scheme == "http" else 443)
        socket.create_connection((host, port), timeout=CONNECT_S).close()


@contextmanager
def _failing(where: str, bar: Any = None) -> Iterator[None]:
    """Turn what the client raises into this package's errors, and keep its log off the terminal."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except StemsplitError:
        raise
    except Exception as error:  # also what the client's HTTP library raises, which differs by version
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
    """Delete a cached file: the entry and, where it's a link, what it points to. Returns the bytes freed."""
    verified.forget(path)
    blob = path.resolve()
    size = blob.stat().st_size if blob.exists() else 0
    with suppress(FileNotFoundError):
        path.unlink()
    with suppress(FileNotFoundError):
        blob.unlink()
    return size


def _line(error: Exception) -> str:
    """The gist of an error in one line; of the client's own, by their class, such as `EntryNotFoundError`."""
    text = str(getattr(error, "strerror", None) or error).strip()
    line = re.split(r"\n|\. ", text or type(error).__name__)[0].rstrip(".")
    words = re.findall("[A-Z][a-z]+", type(error).__name__.removesuffix("Error"))
    return f"{line} ({' '.join(words).lower()})" if " Client Error" in line and words else line


def _bar(name: str, callback: Callback | None) -> Any:
    """A class of progress bars that draw nothing and emit events."""

    class Bar(tqdm):  # type: ignore[type-arg]
        stopped: Exception | None = None  # what the callback raised

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs |= {"file": io.StringIO(), "disable": False, "mininterval": float("inf")}
            super().__init__(*args, **kwargs)
            self._tell()

        def update(self, n: float | None = 1) -> bool | None:
            done = super().update(n)
            self._tell()
            return done

        def _tell(self) -> None:
            try:
                emit(callback, Download(name, int(self.n), None if self.total is None else int(self.total)))
            except Exception as error:
                # Transfers that run outside Python swallow exceptions of the bar, so that the end asks again.
                Bar.stopped = error
                raise

    return Bar

"""Getting weights: from the Hugging Face hub or from a URL, verified, each file once per machine."""

import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from stemsplit import folders
from stemsplit.errors import DownloadError, ModelUnavailableError
from stemsplit.events import Callback, Download, Notice, emit
from stemsplit.files import locked
from stemsplit.hub import hf, transfer, verified
from stemsplit.hub.registry import FileSpec, HubFile, ModelSpec


def fetch(
    spec: FileSpec,
    *,
    model: str | None = None,
    offline: bool = False,
    callback: Callback | None = None,
    repair: bool = False,
) -> Path:
    """A weights file on this machine: the cached one, else downloaded from its first source that works.

    Args:
        spec: where it is and what it must hash to.
        model: for whom, in messages.
        offline: open no connection.
        callback: receives `Download` events and may cancel.
        repair: replace a cached file that is damaged, instead of refusing it.

    Raises:
        ChecksumError: the cached file is damaged.
        DownloadError: no source delivered the file.
        ModelUnavailableError: not cached while offline, or nobody recorded its hash.
        ResourceError: the disk is full.
        Cancelled: by the callback.
    """
    if (path := _at_hand(spec, model, repair)) is not None:
        return path
    if offline or is_offline():
        raise _unavailable(spec, model, "not downloaded yet, and offline")
    failures = []
    for file in alternatives(spec):
        try:
            return _from_anywhere(file, callback)
        except DownloadError as error:
            failures.append(error)
    raise DownloadError(
        "; ".join(error.reason for error in failures),
        model=model,
        url=failures[0].url,
        sha256=spec.sha256,
        hint=_hint(spec),
    ) from failures[0]


def fetch_hub(
    file: HubFile,
    *,
    sha256: str,
    offline: bool = False,
    callback: Callback | None = None,
    repair: bool = False,
) -> Path:
    """A file of a Hugging Face repository, in the Hugging Face cache.

    `HF_ENDPOINT`, `HF_TOKEN`, `HF_HOME` and `HF_HUB_OFFLINE` are honoured. Arguments and errors: see `fetch`.
    """
    path = hf.cached(file)
    if path is not None and _usable(path, sha256, repair):
        return path
    if offline or is_offline():
        raise ModelUnavailableError(f"{hf.address(file)}: not downloaded yet, and offline", sha256=sha256)
    path = hf.download(file, callback, again=path is not None)
    actual = verified.digest(path)
    if not actual.startswith(sha256):
        hf.remove(path)
        raise _other_bytes(hf.address(file), sha256, actual)
    return path


def fetch_url(
    url: str,
    *,
    sha256: str,
    size: int | None = None,
    offline: bool = False,
    callback: Callback | None = None,
    repair: bool = False,
) -> Path:
    """A file from a URL, in the package's cache folder.

    An interrupted download goes on where it stopped, in a later process too; two processes download once.
    With `STEMSPLIT_MIRROR` set, `https://host/path` is fetched from `$STEMSPLIT_MIRROR/host/path` instead.
    Arguments and errors: see `fetch`; `size` is the length that the file must have, if known.
    """
    path = url_path(url)
    if path.exists() and _usable(path, sha256, repair):
        return path
    if offline or is_offline():
        raise ModelUnavailableError(f"{url}: not downloaded yet, and offline", url=url, sha256=sha256)
    path.parent.mkdir(parents=True, exist_ok=True)

    def report(done: int, total: int | None) -> None:
        emit(callback, Download(path.name, done, total if total is not None else size))

    part = path.with_name(path.name + ".part")

    def waiting() -> None:  # for the process that downloads it already
        report(part.stat().st_size if part.exists() else 0, None)

    with locked(path.with_name(path.name + ".lock"), waiting):
        if not (path.exists() and _usable(path, sha256, repair)):
            actual = _download(url, part, sha256, size, report)
            transfer.settle(part, path)
            verified.remember(path, actual)
    return path


def announce(spec: ModelSpec, files: Iterable[FileSpec], callback: Callback | None) -> None:
    """Say what a model's weights may be used for, if any of `files` is about to be downloaded."""
    if not all(any(map(cached, alternatives(file))) for file in files):
        emit(callback, Notice(f"{spec.name}: weights under {spec.license}. {spec.license_note}".rstrip()))


def cached(spec: FileSpec) -> Path | None:
    """Where the file lies on this machine, not verified; None if it doesn't. Opens no connection."""
    if spec.path is not None:
        return Path(spec.path)
    if spec.hub is not None and (path := hf.cached(spec.hub)) is not None:
        return path
    if spec.url is not None and (path := url_path(spec.url)).exists():
        return path
    return None


def url_path(url: str) -> Path:
    """The place of a URL's file in the cache: a folder per address, so that names don't collide."""
    parts = urlsplit(url)
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    return folders.cache_folder() / "files" / key / (Path(parts.path).name or "file")


def is_offline() -> bool:
    """Whether the environment forbids connections."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def alternatives(spec: FileSpec) -> Iterator[FileSpec]:
    """The file and those that may stand in for it, in order."""
    file: FileSpec | None = spec
    while file is not None:
        yield file
        file = file.otherwise


def _at_hand(spec: FileSpec, model: str | None, repair: bool) -> Path | None:
    for file in alternatives(spec):
        path = cached(file)
        if path is None:
            continue
        if file.path is not None and not path.is_file():
            raise gone(file, model)
        if file.path is not None and file.sha256 is not None:
            verified.check(path, file.sha256, model=model, hint=_changed(file))
        if file.sha256 is None or _usable(path, file.sha256, repair, model):
            return path
    return None


def gone(file: FileSpec, model: str | None) -> ModelUnavailableError:
    """What to raise where the file of an entry with a path isn't there."""
    return ModelUnavailableError(f"{file.path}: not there any more", model=model, sha256=file.sha256)


def _changed(file: FileSpec) -> str:
    if file.bundled:
        return "install stemsplit again"
    taking = f"stemsplit models add NAME {shlex.quote(str(file.path))} --replace"
    return f"it changed since it was added: download it again, or take it as it is with {taking}"


def _usable(path: Path, sha256: str, repair: bool, model: str | None = None) -> bool:
    """Whether a file that is there is the right one; if not, that's an error unless it's to be replaced."""
    if not repair:
        verified.check(path, sha256, model=model)
    return verified.matches(path, sha256)


def _from_anywhere(file: FileSpec, callback: Callback | None) -> Path:
    if file.sha256 is None:
        raise DownloadError(f"{address(file)}: its sha256 isn't on record, so it's not fetched", url=file.url)
    try:
        if file.hub is not None:
            return fetch_hub(file.hub, sha256=file.sha256, callback=callback, repair=True)
    except DownloadError:
        if file.url is None:
            raise
    return fetch_url(file.url or "", sha256=file.sha256, size=file.size, callback=callback, repair=True)


def address(file: FileSpec) -> str:
    """Where the file comes from, for a person to read."""
    return hf.address(file.hub) if file.hub is not None else str(file.url or file.path)


def _download(url: str, part: Path, sha256: str, size: int | None, report: transfer.Report) -> str:
    """Complete and verify `part`; what was resumed and turns out wrong is fetched again from its start."""
    mirror = os.environ.get("STEMSPLIT_MIRROR")
    source = f"{mirror.rstrip('/')}/{url.split('://', 1)[-1]}" if mirror else url
    resumed = part.exists()
    while True:
        transfer.transfer(source, part, size=size, trusted=mirror, report=report)
        actual = verified.fresh_digest(part)
        if actual.startswith(sha256):
            return actual
        transfer.discard(part)
        if not resumed:
            raise _other_bytes(source, sha256, actual)
        resumed = False


def _other_bytes(source: str, expected: str, actual: str) -> DownloadError:
    return DownloadError(
        f"{source}: sent a file whose sha256 is {actual[:12]}…, expected {expected[:12]}…",
        url=source,
        sha256=expected,
    )


def _unavailable(spec: FileSpec, model: str | None, why: str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"{address(spec)}: {why}", model=model, url=address(spec), sha256=spec.sha256, hint=_hint(spec)
    )


def _hint(spec: FileSpec) -> str:
    if spec.sha256 is None:
        return f"get it yourself, then: stemsplit models add NAME {spec.name} --replace"
    return f"{spec.name} (sha256 {spec.sha256}) is needed; -m tiny separates without a download"

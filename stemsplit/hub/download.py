"""Download weights from the Hugging Face hub or from URLs, verify them, and cache them per machine."""

import hashlib
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from stemsplit import folders
from stemsplit.errors import DownloadError, ModelUnavailableError
from stemsplit.events import Callback, Download, Notice, emit
from stemsplit.files import locked
from stemsplit.hub import claims, hf, records, transfer, verified
from stemsplit.hub.access import NOT_STATED
from stemsplit.hub.entries import FileSpec, HubFile, ModelSpec
from stemsplit.hub.verified import Hash

_MOST_BYTES = 200  # of a file's name, to which suffixes are added


def fetch(
    spec: FileSpec,
    *,
    model: str | None = None,
    offline: bool = False,
    callback: Callback | None = None,
    repair: bool = False,
) -> Path:
    """Return the path of a weights file, after downloading it from its first working source if need be.

    Args:
        spec: the file's sources and its hash.
        model: the model's name in messages.
        offline: open no connection.
        callback: receives `Download` events and may cancel.
        repair: replace a cached file that is damaged, instead of refusing it.

    Raises:
        ChecksumError: the cached file is damaged.
        DownloadError: all sources failed.
        ModelUnavailableError: the file isn't cached while offline.
        ResourceError: the disk is full.
        Cancelled: by the callback.
    """
    offline = offline or is_offline()
    if (path := _local_file(spec, model, repair and not offline)) is not None:
        return path
    if offline:
        raise _unavailable(spec, model, "not downloaded yet, and offline")
    failures = []
    for file in map(records.pinned, alternatives(spec)):
        try:
            return _fetch_one(file, callback)
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
    """Return the path of a file from a Hugging Face repository in the Hugging Face cache.

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
        raise _wrong_hash(hf.address(file), Hash("sha256", sha256), actual)
    return path


def fetch_url(
    url: str,
    *,
    sha256: str,
    size: int | None = None,
    mirrors: Sequence[str] = (),
    offline: bool = False,
    callback: Callback | None = None,
    repair: bool = False,
) -> Path:
    """Return the path of a file from a URL in the package's cache folder.

    An interrupted download is resumed, also by a later process; of two processes only one downloads. With
    `STEMSPLIT_MIRROR` set, `https://host/path` is fetched from `$STEMSPLIT_MIRROR/host/path` instead.
    Arguments and errors: see `fetch`; `size` is the length that the file must have, if known, and `mirrors`
    are further URLs of the same bytes.
    """
    path = url_path(url)
    if path.is_dir():
        raise DownloadError(f"{path}: is a folder, in place of the downloaded file", url=url, sha256=sha256)
    if path.exists() and _usable(path, sha256, repair):
        return path
    if offline or is_offline():
        raise ModelUnavailableError(f"{url}: not downloaded yet, and offline", url=url, sha256=sha256)
    with exclusive(path, size, callback) as report:
        if not (path.exists() and _usable(path, sha256, repair)):
            part = path.with_name(path.name + ".part")
            actual = _save_from_any((url, *mirrors), part, sha256, size, report)
            transfer.settle(part, path)
            verified.remember(path, actual)
    return path


@contextmanager
def exclusive(path: Path, size: int | None, callback: Callback | None) -> Iterator[transfer.Report]:
    """Hold the lock of a file to be downloaded, and yield what reports its bytes as `Download` events.

    Args:
        path: the file, not necessarily there.
        size: its length in bytes, if known.
        callback: receives the events, also while another process downloads the file.
    """

    def report(done: int, total: int | None) -> None:
        emit(callback, Download(path.name, done, total if total is not None else size))

    part = path.with_name(path.name + ".part")

    def waiting() -> None:
        report(part.stat().st_size if part.exists() else 0, None)

    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(path.name + ".lock"), waiting):
        yield report


def announce(spec: ModelSpec, files: Iterable[FileSpec], callback: Callback | None) -> None:
    """Emit a notice with the licence of a model's weights if any of `files` is about to be downloaded."""
    if not all(any(map(cached, alternatives(file))) for file in files):
        stated = spec.license != NOT_STATED
        said = f"weights under {spec.license}" if stated else "the licence of its weights is not stated"
        emit(callback, Notice(f"{spec.name}: {said}. {spec.license_note}".rstrip()))


def cached(spec: FileSpec) -> Path | None:
    """Return the path of a file on this machine without verifying it, None if it isn't here."""
    if spec.path is not None:
        return Path(spec.path)
    if spec.hub is not None and (path := hf.cached(spec.hub)) is not None:
        return path
    if spec.url is not None and (path := url_path(spec.url)).exists():
        return path
    return None


def url_path(url: str) -> Path:
    """Return the path of a URL's file in the cache, in a folder per URL, so that names don't collide."""
    parts = urlsplit(url)
    key = hashlib.sha256(url.encode()).hexdigest()[:12]
    name = Path(parts.path).name.encode()[-_MOST_BYTES:].decode(errors="ignore")
    return folders.cache_folder() / "files" / key / ("file" if name in ("", "..") else name)


def is_offline() -> bool:
    """Return whether the environment forbids connections."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def alternatives(spec: FileSpec) -> Iterator[FileSpec]:
    """Yield the file and its replacements (`otherwise`), in order of preference."""
    file: FileSpec | None = spec
    while file is not None:
        yield file
        file = file.otherwise


def _local_file(spec: FileSpec, model: str | None, repair: bool) -> Path | None:
    for file in map(records.pinned, alternatives(spec)):
        path = cached(file)
        if path is None or (file.sha256 is None and file.path is None):
            continue
        if file.path is not None and not path.is_file():
            raise missing_file(file, model)
        if file.path is not None and file.sha256 is not None:
            verified.check(path, file.sha256, model=model, hint=_changed(file))
        if file.sha256 is None or _usable(path, file.sha256, repair, model):
            return path
    return None


def missing_file(file: FileSpec, model: str | None) -> ModelUnavailableError:
    """Return the error for a registry entry whose `path` doesn't exist."""
    return ModelUnavailableError(f"{file.path}: not there any more", model=model, sha256=file.sha256)


def _changed(file: FileSpec) -> str:
    if file.bundled:
        return "install stemsplit again"
    taking = f"stemsplit models add NAME {shlex.quote(str(file.path))} --replace"
    return f"it changed since it was added: download it again, or take it as it is with {taking}"


def _usable(path: Path, sha256: str, repair: bool, model: str | None = None) -> bool:
    """Return whether a cached file has the right hash; raise if it doesn't, unless it is to be replaced."""
    if not repair:
        verified.check(path, sha256, model=model)
    return verified.matches(path, sha256)


def _fetch_one(file: FileSpec, callback: Callback | None) -> Path:
    if file.sha256 is None:
        raise DownloadError(f"{address(file)}: not downloaded, because its sha256 isn't known", url=file.url)
    try:
        if file.hub is not None:
            return fetch_hub(file.hub, sha256=file.sha256, callback=callback, repair=True)
    except DownloadError:
        if file.url is None:
            raise
    return fetch_url(
        file.url or "",
        sha256=file.sha256,
        size=file.size,
        mirrors=file.mirrors,
        callback=callback,
        repair=True,
    )


def address(file: FileSpec) -> str:
    """Return the file's URL or path, for messages."""
    return hf.address(file.hub) if file.hub is not None else str(file.url or file.path)


def _save_from_any(
    urls: Sequence[str], part: Path, sha256: str, size: int | None, report: transfer.Report
) -> str:
    """Download a file from the first of its URLs that has it; return its sha256."""
    reasons: list[str] = []  # rather than the exceptions, whose tracebacks keep connections alive
    for url in urls:
        try:
            return save(url, part, Hash("sha256", sha256), size, report)
        except DownloadError as error:
            reasons.append(error.reason)
            if len(urls) == 1:
                raise
    raise DownloadError("; ".join(reasons), url=urls[0], sha256=sha256)


def save(url: str, part: Path, stated: Hash | None, size: int | None, report: transfer.Report) -> str:
    """Complete and verify `part`; if a resumed file has a wrong hash, download it again from its start.

    Args:
        url: of the file; see `claims.address`.
        part: the file, perhaps with its first bytes from an earlier try.
        stated: the hash that it must have, None if none is known.
        size: the bytes that it must have, None if unknown.
        report: called with the bytes so far and the total.

    Returns:
        The sha256 of the file.

    Raises:
        DownloadError: the URL fails, or sends another file.
    """
    source = claims.address(url)
    again = False
    while True:
        resumed = transfer.transfer(source, part, size=size, trusted=claims.mirror_url(), report=report)
        actual = verified.fresh_digest(part)
        if stated is None and size in (None, part.stat().st_size):
            return actual
        if stated is None:
            transfer.discard(part)
            raise DownloadError(f"{source}: sent a file of another size than {size} bytes", url=source)
        found = actual if stated.kind == "sha256" else stated.of(part)
        if found.startswith(stated.value):
            return actual
        transfer.discard(part)
        if again or not resumed:
            raise _wrong_hash(source, stated, found)
        again = True


def _wrong_hash(source: str, expected: Hash, actual: str) -> DownloadError:
    return DownloadError(
        f"{source}: sent a file whose {expected.kind} is {actual[:12]}…, expected {expected.value[:12]}…",
        url=source,
        sha256=expected.value if expected.kind == "sha256" else None,
    )


def _unavailable(spec: FileSpec, model: str | None, why: str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"{address(spec)}: {why}", model=model, url=address(spec), sha256=spec.sha256, hint=_hint(spec)
    )


def _hint(spec: FileSpec) -> str:
    if spec.sha256 is None:
        return f"get it yourself, then: stemsplit models add NAME {spec.name} --replace"
    return f"{spec.name} (sha256 {spec.sha256}) is needed; -m tiny separates without a download"

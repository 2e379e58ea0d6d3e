"""Download files whose sha256 no registry states, verified by what else is known of them."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from stemsplit.errors import CheckpointError, DownloadError, ModelUnavailableError
from stemsplit.events import Callback
from stemsplit.hub import claims, download, records, transfer, verified
from stemsplit.hub.access import Access
from stemsplit.hub.claims import Claim
from stemsplit.hub.entries import FileSpec
from stemsplit.hub.records import Grade, Record
from stemsplit.hub.verified import Hash

Fits = Callable[[Path], None]


def pin(
    file: FileSpec, access: Access, *, model: str, fits: Fits, callback: Callback | None = None
) -> FileSpec:
    """Return a file with its sha256, after downloading it if this is its first use.

    Args:
        file: the file; one with a sha256 in its entry or in its record is returned at once.
        access: conditions of the download.
        model: the model's name in messages.
        fits: raises `CheckpointError` if the tensors of a file don't have the shapes that the model demands.
        callback: receives `Download` events and may cancel.

    Raises:
        ModelUnavailableError: this is the first use, and offline.
        DownloadError: all sources failed, or nothing is known by which the file could be verified.
        Cancelled: by the callback.
    """
    known = records.pinned(file)
    if known.sha256 is not None or file.path is not None:
        return known
    if access.offline or download.is_offline():
        raise ModelUnavailableError(f"{file.url}: not downloaded yet, and offline", model=model)
    path = download.url_path(file.url or "")
    with download.exclusive(path, file.size, callback) as report:
        known = records.pinned(file)  # another process may have downloaded it meanwhile
        if known.sha256 is None:
            record = _from_any(file, access, path, model, fits, report)
            records.save(file, record)
            known = replace(file, sha256=record.sha256, size=record.size)
    return known


def _from_any(
    file: FileSpec, access: Access, path: Path, model: str, fits: Fits, report: transfer.Report
) -> Record:
    """Download a file from the first source that has it, and return its record."""
    reasons: list[str] = []
    hint = None
    for url in file.urls:
        try:
            return _from_source(file, url, access, path, fits, report)
        except (DownloadError, CheckpointError) as error:
            reasons.append(error.reason)
            hint = hint or error.hint
    raise DownloadError("; ".join(reasons), model=model, url=file.url, hint=hint)


def _from_source(
    file: FileSpec, url: str, access: Access, path: Path, fits: Fits, report: transfer.Report
) -> Record:
    claim = Claim(url, Hash("git", file.git)) if file.git is not None else claims.ask(url)
    if None not in (file.size, claim.size) and file.size != claim.size:
        raise DownloadError(f"{url}: holds {claim.size} bytes, not {file.size}: another file", url=url)
    size = claim.size if file.size is None else file.size
    grade, stated = _grade(file, claim, size, access)
    part = path.with_name(path.name + ".part")
    sha256 = download.save(claim.url, part, stated, size, report)
    if grade == "size-and-shape":
        try:
            fits(part)
        except CheckpointError:
            transfer.discard(part)  # else the next source would resume it
            raise
    transfer.settle(part, path)
    verified.remember(path, sha256)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Record(sha256, grade, claim.url, path.stat().st_size, date)


def _grade(file: FileSpec, claim: Claim, size: int | None, access: Access) -> tuple[Grade, Hash | None]:
    """Return how a file can be verified, and the hash that it must have."""
    if file.md5 is not None and (claim.hash is None or claim.hash.kind == "md5"):
        return "md5", Hash("md5", file.md5)  # known before the source was asked
    if claim.hash is not None:
        return "declared", claim.hash
    if size is None and not file.shaped:
        raise DownloadError(
            f"{claim.url}: not downloaded, because its sha256 isn't known",
            url=claim.url,
            hint=f"get it yourself, then: stemsplit models add NAME {file.name} --replace",
        )
    if not access.trust_first:
        raise DownloadError(
            f"{claim.url}: not downloaded, because no hash of it is known",
            url=claim.url,
            hint="--trust-first takes it if its size, if that is known, and its shapes agree",
        )
    return "size-and-shape", None

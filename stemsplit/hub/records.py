"""Records of downloaded files whose sha256 no registry states: what they were verified by at their first use.

A record outlives the file. Every later download of the file, and every later use of it, is compared with the
sha256 that was recorded.
"""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from stemsplit import folders
from stemsplit.files import write_whole
from stemsplit.hub import claims, verified
from stemsplit.hub.entries import FileSpec

Grade = Literal["pinned", "declared", "md5", "size-and-shape"]

GRADES: dict[Grade, str] = {
    "pinned": "the registry has its sha256",
    "declared": "its source states a hash, which is recorded at the first download",
    "md5": "its archive publishes an md5; the sha256 is recorded at the first download",
    "size-and-shape": "only its shapes, and its size if known, can be checked; needs --trust-first",
}


@dataclass(frozen=True)
class Record:
    """Facts about a file, written down at its first download.

    Attributes:
        sha256: its digest.
        grade: how it was verified then.
        url: where it came from, at a fixed revision if the source has revisions.
        size: in bytes.
        date: of the download, in ISO 8601.
    """

    sha256: str
    grade: Grade
    url: str
    size: int
    date: str


def find(file: FileSpec) -> Record | None:
    """Return the record of a file, None if it was never downloaded."""
    with suppress(OSError, ValueError, TypeError, LookupError):
        content = json.loads(_path(file).read_text(encoding="utf-8"))
        return Record(**{key: content[key] for key in Record.__dataclass_fields__})
    return None


def save(file: FileSpec, record: Record) -> None:
    """Write the record of a file.

    Raises:
        OutputError: the cache folder can't be written.
    """
    write_whole(_path(file), json.dumps({"name": file.name, **asdict(record)}))


def forget(file: FileSpec) -> None:
    """Delete the record of a file, so that the next download is the first one again."""
    with suppress(OSError):
        _path(file).unlink()


def pinned(file: FileSpec) -> FileSpec:
    """Return a file with the sha256 that is recorded for it, unless its entry states one."""
    if file.sha256 is not None or file.path is not None or (record := find(file)) is None:
        return file
    return replace(file, sha256=record.sha256, size=record.size)


def grade_of(file: FileSpec) -> Grade | None:
    """Return how a file was verified, or can be at its first download; None if it can't."""
    if file.sha256 is not None or file.path is not None:
        return "pinned"
    if (record := find(file)) is not None:
        return record.grade
    return expected_grade(file)


def expected_grade(file: FileSpec) -> Grade | None:
    """Return how a file can be verified at its first download, None if it can't."""
    if file.git is not None:
        return "declared"  # by the repository; the entry repeats it
    if any(claims.declares(url) for url in file.urls if file.md5 is None or not claims.ZENODO.match(url)):
        return "declared"
    if file.md5 is not None:
        return "md5"
    return None if file.size is None and not file.shaped else "size-and-shape"


def _path(file: FileSpec) -> Path:
    key = verified.digest_of_text("\n".join([file.name, *file.urls[:1]]))[:32]
    return folders.cache_folder() / "records" / f"{key}.json"

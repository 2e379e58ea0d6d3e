"""Hash files, with a cache of digests by path, size and time of change."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from stemsplit import folders
from stemsplit.errors import ChecksumError
from stemsplit.files import write_whole


class Hash(NamedTuple):
    """A hash that somebody states for a file.

    Attributes:
        kind: sha256, md5, or git for the sha1 that git gives to the file's content.
        value: in hexadecimal; of a sha256 perhaps only the first digits.
    """

    kind: Literal["sha256", "md5", "git"]
    value: str

    def of(self, path: Path) -> str:
        """Return the hash of this kind of a file, computed anew unless it is a sha256."""
        if self.kind == "sha256":
            return digest(path)
        own = hashlib.md5() if self.kind == "md5" else hashlib.sha1(b"blob %d\0" % path.stat().st_size)
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: own).hexdigest()

    def agrees(self, path: Path) -> bool:
        """Return whether a file has this hash."""
        return self.of(path).startswith(self.value)

    def __str__(self) -> str:
        return f"{self.kind} {self.value[:12]}…"


def digest(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal, from the cache if size and time of change are the same.

    Raises:
        OSError: the file can't be read.
    """
    key = _key(path)
    with suppress(OSError, ValueError, TypeError, LookupError):
        kept = json.loads(_record(path).read_text(encoding="utf-8"))
        if kept == {**key, "sha256": kept["sha256"]}:
            return str(kept["sha256"])
    value = fresh_digest(path)
    remember(path, value)
    return value


def remember(path: Path, sha256: str) -> None:
    """Cache the digest of a file that was just hashed."""
    with suppress(OSError):  # without a writable cache folder, the file is hashed again the next time
        write_whole(_record(path), json.dumps({**_key(path), "sha256": sha256}))


def fresh_digest(path: Path) -> str:
    """Return the sha256 of a file, computed anew."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_text(text: str) -> str:
    """Return the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()


def matches(path: Path, sha256: str) -> bool:
    """Return whether the digest of a file begins with `sha256`."""
    return digest(path).startswith(sha256)


def check(path: Path, sha256: str, *, model: str | None = None, hint: str | None = None) -> None:
    """Refuse a file whose digest doesn't begin with `sha256`.

    Raises:
        ChecksumError: it is another file, or damaged.
    """
    actual = digest(path)
    if not actual.startswith(sha256):
        raise ChecksumError(path, sha256, actual, model=model, hint=hint)


def forget(path: Path) -> None:
    """Drop the cached digest of a file."""
    with suppress(OSError):
        _record(path).unlink()


def _key(path: Path) -> dict[str, object]:
    found = path.resolve()
    state = found.stat()
    return {"path": str(found), "size": state.st_size, "mtime_ns": state.st_mtime_ns}


def _record(path: Path) -> Path:
    name = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
    return folders.cache_folder() / "verified" / f"{name}.json"

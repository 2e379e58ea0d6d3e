"""Tags of files and digests of recordings, which are read once until the file changes."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from stat import S_ISREG
from typing import Any, Generic, TypeVar

from stemsplit.audio.content import content_of
from stemsplit.audio.tags import read_settings

T = TypeVar("T")


@dataclass(frozen=True)
class Tag:
    """The tag that stemsplit writes into its files; a field that a file lacks is None.

    Attributes:
        model, version: what made the file.
        settings: the settings that it was made with.
        sum: the sum of stems that it holds, such as `drums+bass`; None also if it holds several.
        input: digest of the recording that was separated.
    """

    model: str | None = None
    version: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sum: str | None = None
    input: str | None = None

    @property
    def stream(self) -> int | None:
        """Index of the recording's audio stream that was separated; None for the preferred one."""
        found = self.settings.get("audio_stream")
        return found if isinstance(found, int) else None


class Tags:
    """Tags and digests of files, by path; a file is read again once its time or size is another."""

    def __init__(self) -> None:
        self._tags: _Kept[Tag | None] = _Kept()
        self._digests: _Kept[str | None] = _Kept()

    def of(self, path: Path) -> Tag | None:
        """Return stemsplit's tag of a file, None if it has none or can't be read."""
        return self._tags.get(path, None, lambda: _parsed(read_settings(path)))

    def has(self, path: Path) -> bool:
        """Return whether a file's tag is known without reading the file."""
        return self._tags.has(path, None)

    def digest(self, path: Path, stream: int | None) -> str | None:
        """Return the digest of a recording, to compare with `Tag.input`; None if it can't be read.

        Args:
            path: the file.
            stream: index of the audio stream; None takes the preferred one.
        """
        return self._digests.get(path, stream, lambda: content_of(path, stream))

    def has_digest(self, path: Path, stream: int | None) -> bool:
        """Return whether a digest is known without reading the file."""
        return self._digests.has(path, stream)


class _Kept(Generic[T]):
    """Cache of values that were read from files; one is valid while its file has the same time and size."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, int | None], tuple[tuple[int, int], T]] = {}

    def get(self, path: Path, stream: int | None, read: Callable[[], T]) -> T | None:
        """Return what `read` returned for the present state of a file; None if it isn't there."""
        state = _state(path)
        if state is None:
            return None
        known = self._known.get((path, stream))
        if known is None or known[0] != state:
            known = self._known[path, stream] = state, read()
        return known[1]

    def has(self, path: Path, stream: int | None) -> bool:
        """Return whether `get` needs to read nothing."""
        state = _state(path)
        known = self._known.get((path, stream))
        return state is None or (known is not None and known[0] == state)


def _state(path: Path) -> tuple[int, int] | None:
    """Return time and size of a file; None if it isn't there."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    # a pipe would be waited for
    return (found.st_mtime_ns, found.st_size) if S_ISREG(found.st_mode) else None


def _parsed(text: str | None) -> Tag | None:
    """Return the tag with a text; one of another form still tells that stemsplit made the file."""
    if text is None:
        return None
    try:
        line = json.loads(text)
    except ValueError:
        line = None
    if not isinstance(line, dict):
        return Tag()
    known = {key: line[key] for key in ("model", "version", "input") if isinstance(line.get(key), str)}
    held, settings = line.get("output"), line.get("settings")
    several = not isinstance(held, str) or "=" in held
    return Tag(
        **known,
        settings=settings if isinstance(settings, dict) else {},
        sum=None if several else held,
    )

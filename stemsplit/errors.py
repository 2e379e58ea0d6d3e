"""What can go wrong, as data. The command line turns each class into a sentence, a hint and an exit code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar


class StemsplitError(Exception):
    """Base of every error that the package raises on purpose.

    Attributes:
        reason: one line without a final stop, readable by itself.
        hint: what to do about it, or None.
        code: the exit code of a command that fails with it.
    """

    code: ClassVar[int] = 1

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # a pickled exception is made anew of the sentence alone, which subclasses don't take
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[StemsplitError], args: tuple[Any, ...], data: dict[str, Any]) -> StemsplitError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(data)
    return error


class SettingsError(StemsplitError):
    """A setting has no meaning or doesn't fit the others (usage)."""

    code = 2

    def __init__(self, reason: str, *, setting: str | None = None, hint: str | None = None) -> None:
        super().__init__(reason, hint=hint)
        self.setting = setting


class UnknownNameError(SettingsError):
    """A model, stem, command or format that doesn't exist.

    Attributes:
        kind: what was looked for, such as "model" or "stem".
        name: what was asked for.
        known: the names that would have worked.
    """

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"there is {', '.join(known)}" if known else None
        if kind == "model" and not near:
            hint = "stemsplit models list shows all"
        super().__init__(f"no {kind} named {name!r}", setting=kind, hint=hint)
        self.kind, self.name, self.known = kind, name, tuple(known)


class DeviceError(SettingsError):
    """The device that was asked for isn't there."""

    def __init__(self, device: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason, setting="device", hint=hint)
        self.device = device


class AudioError(StemsplitError):
    """An input that can't be read as audio, or an output that can't be encoded."""

    def __init__(self, path: str | Path, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason, hint=hint)
        self.path = Path(path)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class InputError(AudioError):
    """The input is missing, unreadable, empty, damaged, protected or silent where sound is needed."""


class NotFiniteError(AudioError):
    """A track's stems came out as NaN or infinite samples, and its own samples don't explain it."""


class OutputError(AudioError):
    """The output can't be written: no permission, no such format, exists already."""


class ModelUnavailableError(StemsplitError):
    """A model can't be had: not cached while offline, not downloadable, not readable.

    Attributes:
        model: the name that was asked for.
        url: where it would come from, or None.
        sha256: the hash (or its known prefix) that the file must have, or None.
    """

    code = 4

    def __init__(
        self,
        reason: str,
        *,
        model: str | None = None,
        url: str | None = None,
        sha256: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason, hint=hint)
        self.model, self.url, self.sha256 = model, url, sha256


class DownloadError(ModelUnavailableError):
    """The server didn't deliver the file."""


class ChecksumError(ModelUnavailableError):
    """A file is there, but it isn't the one that was asked for.

    Attributes:
        path: the file. expected, actual: hexadecimal sha256 digests (expected may be a prefix).
    """

    def __init__(
        self,
        path: str | Path,
        expected: str,
        actual: str,
        *,
        model: str | None = None,
        hint: str | None = None,
    ) -> None:
        if hint is None and model is not None:
            hint = f"remove the file and download it again: stemsplit models download {model}"
        super().__init__(
            f"{path}: sha256 is {actual[:12]}…, expected {expected[:12]}…",
            model=model,
            sha256=expected,
            hint=hint,
        )
        self.path, self.expected, self.actual = Path(path), expected, actual


class CheckpointError(ModelUnavailableError):
    """A checkpoint that is damaged, of no known kind, or not safe to open."""

    def __init__(self, path: str | Path, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = Path(path)


class ResourceError(StemsplitError):
    """Memory or disk space ran out."""

    code = 5


class Cancelled(StemsplitError):
    """The caller's progress callback asked to stop."""

    def __init__(self) -> None:
        super().__init__("cancelled")

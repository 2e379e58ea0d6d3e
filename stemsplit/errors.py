"""Exceptions of the package, which carry data. The command line turns them into messages and exit codes."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar


class StemsplitError(Exception):
    """Base class of all errors that the package raises.

    Attributes:
        reason: one line without a full stop, understandable by itself.
        hint: what the user can do about it, or None.
        code: the exit code of a command that fails with it.
    """

    code: ClassVar[int] = 1

    def __init__(self, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        # pickle would call the class with `args`, but the subclasses have other arguments
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[StemsplitError], args: tuple[Any, ...], data: dict[str, Any]) -> StemsplitError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(data)
    return error


class SettingsError(StemsplitError):
    """A setting is invalid or conflicts with another (exit code 2, usage).

    Attributes:
        setting: its option or argument, None if there is no single one.
    """

    code = 2

    def __init__(self, reason: str, *, setting: str | None = None, hint: str | None = None) -> None:
        super().__init__(reason, hint=hint)
        self.setting = setting


class UnknownNameError(SettingsError):
    """There is no model, stem, command or format of that name.

    Attributes:
        kind: the kind of name, such as "model" or "stem".
        name: the unknown name.
        known: the valid names.
    """

    def __init__(self, kind: str, name: str, known: Sequence[str]) -> None:
        from difflib import get_close_matches

        near = get_close_matches(name.lower(), known, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}" if known else None
        if kind == "model" and not near:
            hint = "stemsplit models list shows all"
        super().__init__(f"no {kind} named {name!r}", setting=kind, hint=hint)
        self.kind, self.name, self.known = kind, name, tuple(known)


class DeviceError(SettingsError):
    """The chosen device doesn't exist.

    Attributes:
        device: its name, as it was given.
    """

    def __init__(self, device: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason, setting="device", hint=hint)
        self.device = device


class AudioError(StemsplitError):
    """An input can't be read as audio, or an output can't be written.

    Attributes:
        path: the file; an address is a `urls.Url`.
    """

    def __init__(self, path: str | PurePath, reason: str, *, hint: str | None = None) -> None:
        super().__init__(reason, hint=hint)
        self.path = path if isinstance(path, PurePath) else Path(path)

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class InputError(AudioError):
    """An input is missing, unreadable, empty, damaged, protected, or silent although sound is needed."""


class NotFiniteError(AudioError):
    """The model gave NaN or infinite samples for a track with finite samples."""


class OutputError(AudioError):
    """An output can't be written: no permission, an encoder that failed, or a file that exists already."""


class ModelUnavailableError(StemsplitError):
    """A model is unavailable: not cached while offline, not downloadable, or not readable.

    Attributes:
        model: the model's name, or None.
        url: the URL of its file, or None.
        sha256: the expected hash of its file or the first digits of it, or None.
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
    """A file couldn't be downloaded."""


class ChecksumError(ModelUnavailableError):
    """A file has a wrong hash.

    Attributes:
        path: the file.
        expected: its sha256 in hexadecimal, or the first digits of it.
        actual: the sha256 that it has.
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
    """A checkpoint is damaged, of an unknown kind, or not safe to open.

    Attributes:
        path: the checkpoint.
    """

    def __init__(self, path: str | Path, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{path}: {reason}", hint=hint)
        self.path = Path(path)


class ResourceError(StemsplitError):
    """Memory or disk space ran out."""

    code = 5


class Cancelled(StemsplitError):
    """The callback returned False to stop the work."""

    def __init__(self) -> None:
        super().__init__("cancelled")

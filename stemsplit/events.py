"""Events that report progress, for Python callbacks, progress bars and `--progress json`.

A callback is called with one event and may return False: the work then stops with `errors.Cancelled`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from stemsplit.errors import Cancelled


@dataclass(frozen=True)
class Event:
    """Base class of all events."""

    def as_dict(self) -> dict[str, Any]:
        """Return the event as JSON-ready data: its name in snake case under `event`, then its fields."""
        name = "".join("_" + c.lower() if c.isupper() else c for c in type(self).__name__).lstrip("_")
        return {"event": name, **asdict(self)}


@dataclass(frozen=True)
class Start(Event):
    """Work begins on `tracks` inputs (None while they are being listed) with `model` on `device`."""

    tracks: int | None
    model: str
    device: str


@dataclass(frozen=True)
class Download(Event):
    """`done` of `total` bytes (None if unknown) of the file `name` are downloaded."""

    name: str
    done: int
    total: int | None


@dataclass(frozen=True)
class TrackStart(Event):
    """A track begins.

    Attributes:
        input: the track, as it was given.
        index, count: its number, counted from 1, and the number of tracks; None while they are being listed.
        duration_s: its duration in seconds, None if unknown.
    """

    input: str
    index: int
    count: int | None
    duration_s: float | None


@dataclass(frozen=True)
class Progress(Event):
    """More of a track is separated.

    Attributes:
        input: the track, as it was given.
        done_s: seconds of audio that are separated.
        total_s: seconds of audio in all, None if unknown.
        eta_s: seconds until the track is separated, None if unknown.
    """

    input: str
    done_s: float
    total_s: float | None
    eta_s: float | None


@dataclass(frozen=True)
class TrackDone(Event):
    """A track's stems are complete under their final names.

    Attributes:
        input: the track, as it was given.
        status: `done` or `skipped`.
        outputs: path of every stem's file.
        wall_s: seconds that the track took.
    """

    input: str
    status: str
    outputs: dict[str, str]
    wall_s: float


@dataclass(frozen=True)
class TrackFailed(Event):
    """A track failed.

    Attributes:
        input: the track, as it was given.
        code: exit code of a run with this track only.
        message: the reason.
    """

    input: str
    code: int
    message: str


@dataclass(frozen=True)
class End(Event):
    """The run is finished.

    Attributes:
        done, skipped, failed: number of tracks by result.
        wall_s: seconds that the run took.
    """

    done: int
    skipped: int
    failed: int
    wall_s: float


@dataclass(frozen=True)
class Notice(Event):
    """A remark for the user that isn't an error, such as a downmix.

    Attributes:
        message: the remark, one sentence.
        input: the track that it is about, None for the whole run.
    """

    message: str
    input: str | None = None


Callback = Callable[[Event], bool | None]


def emit(callback: Callback | None, event: Event) -> None:
    """Call `callback` with `event`, if there is one.

    Raises:
        Cancelled: the callback returned False.
    """
    # NumPy's False is another object than Python's.
    if callback is not None and str(callback(event)) == "False":
        raise Cancelled


__all__ = [
    "Callback",
    "Download",
    "End",
    "Event",
    "Notice",
    "Progress",
    "Start",
    "TrackDone",
    "TrackFailed",
    "TrackStart",
    "emit",
]

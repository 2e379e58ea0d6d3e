"""What came of a batch of tracks: `--report`, `--json` and the summary line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from stemsplit import __version__
from stemsplit.events import Callback, TrackDone, TrackFailed, emit
from stemsplit.outcome import SCHEMA, Failure, exit_code

Status = Literal["done", "skipped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class TrackResult:
    """What came of one track."""

    input: str
    status: Status
    outputs: Mapping[str, str] = field(default_factory=dict)
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    gain_db: float | None = None
    wall_s: float = 0.0
    error: Failure | None = None


def announce(result: TrackResult, callback: Callback | None) -> None:
    """Tell what came of a track."""
    if result.error:
        emit(callback, TrackFailed(result.input, result.error.code, result.error.message))
    else:
        emit(callback, TrackDone(result.input, result.status, dict(result.outputs), result.wall_s))


@dataclass(frozen=True)
class Report:
    """What came of a batch."""

    model: str
    sha256: str | None
    device: str
    settings: Mapping[str, Any]
    tracks: tuple[TrackResult, ...]
    wall_s: float

    def count(self, status: Status) -> int:
        """How many tracks have `status`."""
        return sum(track.status == status for track in self.tracks)

    @property
    def realtime(self) -> float | None:
        """Seconds of audio separated per second; None if none was."""
        audio = sum(t.duration_s or 0 for t in self.tracks if t.status == "done")
        return audio / self.wall_s if audio and self.wall_s else None

    @property
    def exit_code(self) -> int:
        """See `exit_code`."""
        return exit_code([track.error for track in self.tracks])

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        counts = {status: self.count(status) for status in STATUSES}
        return {
            "schema": SCHEMA,
            "version": __version__,
            "model": {"name": self.model, "sha256": self.sha256},
            "device": self.device,
            "settings": dict(self.settings),
            "tracks": [asdict(track) for track in self.tracks],
            "summary": {**counts, "wall_s": self.wall_s, "realtime": self.realtime},
        }

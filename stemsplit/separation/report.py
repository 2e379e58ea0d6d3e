"""The report of a batch of tracks, for `--report`, `--json`, the summary line and the exit code."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from stemsplit import __version__
from stemsplit.events import Callback, TrackDone, TrackFailed, emit
from stemsplit.files import os_errors
from stemsplit.outcome import SCHEMA, Failure, exit_code

Status = Literal["done", "skipped", "failed"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True)
class TrackResult:
    """The result of one track.

    Attributes:
        input: the track, as in its events.
        status: done, skipped (its outputs exist already) or failed.
        outputs: the path of each output by name.
        duration_s, sample_rate, channels: length in seconds, rate in Hz and channels of the outputs.
        gain_db: the gain that all outputs have in common so that none clips, in dB.
        wall_s: the time that the track took, in seconds.
        error: the failure of a track that failed.
        note: a remark about the result, such as that another run has done the track.
    """

    input: str
    status: Status
    outputs: Mapping[str, str] = field(default_factory=dict)
    duration_s: float | None = None
    sample_rate: int | None = None
    channels: int | None = None
    gain_db: float | None = None
    wall_s: float = 0.0
    error: Failure | None = None
    note: str | None = None


def announce(result: TrackResult, callback: Callback | None) -> None:
    """Emit the event of a track's end."""
    if result.error:
        emit(callback, TrackFailed(result.input, result.error.code, result.error.message))
    else:
        emit(callback, TrackDone(result.input, result.status, dict(result.outputs), result.wall_s))


@dataclass(frozen=True)
class Report:
    """The report of a batch.

    Attributes:
        model, sha256: name and digest of the model or recipe.
        license, source: licence of its weights, and the addresses that they come from.
        device: the device that it ran on.
        settings: the settings that change the samples of outputs.
        tracks: the results in the order of the inputs.
        wall_s: the time of the whole run, in seconds.
    """

    model: str
    sha256: str | None
    license: str
    source: str
    device: str
    settings: Mapping[str, Any]
    tracks: tuple[TrackResult, ...]
    wall_s: float

    def count(self, status: Status) -> int:
        """Return the number of tracks with the status `status`."""
        return sum(track.status == status for track in self.tracks)

    @property
    def realtime(self) -> float | None:
        """Seconds of audio separated per second of the run; None if nothing was separated."""
        audio = sum(t.duration_s or 0 for t in self.tracks if t.status == "done")
        return audio / self.wall_s if audio and self.wall_s else None

    @property
    def exit_code(self) -> int:
        """The exit code, see `outcome.exit_code`."""
        return exit_code([track.error for track in self.tracks])

    def head(self) -> dict[str, Any]:
        """Return what the report says about the whole run, as JSON-ready data."""
        return {
            "schema": SCHEMA,
            "version": __version__,
            "model": {
                "name": self.model,
                "sha256": self.sha256,
                "license": self.license,
                "source": self.source,
            },
            "device": self.device,
            "settings": dict(self.settings),
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready data."""
        counts = {status: self.count(status) for status in STATUSES}
        return {
            **self.head(),
            "tracks": [asdict(track) for track in self.tracks],
            "summary": {**counts, "wall_s": self.wall_s, "realtime": self.realtime},
        }


class ReportStream:
    """Report as JSON Lines that is written while the run goes on; a file that exists is continued.

    The lines of a run are its head (model, device and settings), one for every track, and its summary. A run
    that was killed lacks the summary. `joining.join_reports` reads the file.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._begun = path, False

    def record(
        self, head: Callable[[], Mapping[str, Any]], results: Iterable[TrackResult]
    ) -> Iterator[TrackResult]:
        """Yield the results, and write each before the next one is asked for.

        Args:
            head: returns the first line; it is called after the first result, when the device is known.
            results: results of tracks.
        """
        for result in results:
            if not self._begun:
                self._write(head())
            self._write(asdict(result))
            yield result

    def end(self, report: Report) -> None:
        """Write the summary of `report`."""
        if not self._begun:
            self._write(report.head())
        self._write({"summary": report.as_dict()["summary"]})

    def _write(self, line: Mapping[str, Any]) -> None:
        with os_errors(self.path), open(self.path, "ab") as file:
            if not self._begun and not _ends_a_line(self.path):
                file.write(b"\n")  # a killed run left half a line
            file.write(json.dumps(line).encode() + b"\n")
        self._begun = True


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")

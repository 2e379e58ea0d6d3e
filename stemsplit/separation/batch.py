"""Separate many tracks by the same models. A track that fails is recorded, and the others go on.

Three stages work on different tracks at the same time: the next track is measured, one is computed, and the
previous one is encoded and published. An engine (`engines`) calls the workers; `run` puts both together.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from stemsplit.audio.tags import Tags
from stemsplit.errors import Cancelled
from stemsplit.events import Callback, Notice, Progress, TrackStart, emit
from stemsplit.outcome import Failure
from stemsplit.separation.files import TrackFiles, missing_folders
from stemsplit.separation.flow import Flow
from stemsplit.separation.jobs import Fingerprint, Ready
from stemsplit.separation.outputs import Output
from stemsplit.separation.project import write_project
from stemsplit.separation.report import TrackResult, announce
from stemsplit.separation.runner import Runner, load_runner
from stemsplit.separation.stage import NOT_MEASURED, Measured
from stemsplit.settings import Request

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A track of a batch.

    Attributes:
        ready: the job, its source and the shape of its outputs.
        number, total: the number of the track, counted from 1, and of all tracks.
        new_folders: for each output file the folders to create, found before any track creates one.
    """

    ready: Ready
    number: int
    total: int
    new_folders: Mapping[Path, Sequence[Path]]


def items_of(ready: Sequence[Ready]) -> list[Item]:
    """Return the tracks of a batch."""
    return [
        Item(one, index, len(ready), {path: missing_folders(path) for path in one.job.files.values()})
        for index, one in enumerate(ready, 1)
    ]


class TrackWorker:
    """Worker that separates tracks into files; may be called from several threads at once, and closed once.

    Models run only in its own `jobs` threads: each further thread that computes gets OpenMP threads of its
    own, which stay and slow down the others.

    Args:
        runner: the models.
        outputs: the outputs of every track.
        fingerprint: model and settings, written to the outputs' tags.
        jobs: number of tracks computed at the same time.
    """

    def __init__(
        self,
        runner: Runner,
        outputs: Sequence[Output],
        fingerprint: Fingerprint,
        jobs: int = 1,
    ) -> None:
        self.runner, self.outputs, self.fingerprint = runner, outputs, fingerprint
        self._computing = ThreadPoolExecutor(jobs)
        self._measuring, self._publishing = threading.Semaphore(1), threading.Semaphore(jobs)

    def close(self) -> None:
        """Stop the threads and free the models."""
        self._computing.shutdown(cancel_futures=True)
        self.runner.close()

    def __call__(self, item: Item, callback: Callback) -> TrackResult:
        """Separate a track and return its result; a failure is a result too.

        Raises:
            Cancelled: by the callback. No part of the track is left.
        """
        track = _Track(item, self, callback)
        try:
            with closing(track.files), item.ready.source.opened() as track.source:
                with self._measuring:  # one track at a time is measured ahead
                    track.timed(track.measure)
                self._computing.submit(track.timed, track.compute).result()
                with self._publishing:
                    track.timed(track.publish)
            result = track.done()
        except Cancelled:
            raise
        except Exception as error:
            log.debug("%s", track.name, exc_info=error)
            result = TrackResult(track.name, "failed", wall_s=track.wall_s, error=Failure.of(error))
        announce(result, callback)
        return result


@dataclass(frozen=True)
class WorkerFactory:
    """Factory of workers; picklable, and loads the models where it is called, such as in another process."""

    flow: Flow
    outputs: tuple[Output, ...]
    fingerprint: Fingerprint
    request: Request

    def __call__(self) -> TrackWorker:
        """Return a new worker."""
        runner = load_runner(self.flow, self.request)
        return TrackWorker(runner, self.outputs, self.fingerprint)


class _Track:
    """A track on its way through the stages; `wall_s` counts the seconds within stages, not the waiting."""

    def __init__(self, item: Item, worker: TrackWorker, callback: Callback) -> None:
        self.source, self.worker, self.callback = item.ready.source, worker, callback
        self.shape = item.ready.shape
        self.name, self.project = str(item.ready.job.input), item.ready.job.project
        self._place = TrackStart(self.name, item.number, item.total, None)
        self.files = TrackFiles(
            item.ready.job.files,
            self.shape.sample_rate,
            self.shape.channels,
            item.ready.output,
            layout=self.shape.layout,
            new_folders=item.new_folders,
            film=item.ready.film,
        )
        self.wall_s = 0.0
        self._measured: Measured = NOT_MEASURED

    @property
    def duration_s(self) -> float | None:
        """The length in seconds: counted by the first pass, else declared by the file, else None."""
        counted = self._measured.frames
        return self.source.duration_s if counted is None else counted / self.source.sample_rate

    def timed(self, stage: Callable[[], None]) -> None:
        """Run one stage and count its time."""
        began = monotonic()
        try:
            stage()
        finally:
            self.wall_s += monotonic() - began

    def measure(self) -> None:
        """Read the track once, if its statistics are needed."""
        source, rate = self.source, self.shape.sample_rate
        output = self.files.settings
        if output.sample_rate == "keep" and rate != source.sample_rate:
            what = f"{output.format} can't hold {source.sample_rate} Hz, so its outputs have {rate} Hz"
            emit(self.callback, Notice(what, self.name))
        self._measured = self.worker.runner.measure(source, self.shape)

    def compute(self) -> None:
        """Separate the track into part files."""
        emit(self.callback, replace(self._place, duration_s=self.duration_s))
        outputs, fingerprint = self.worker.outputs, self.worker.fingerprint
        tags = self.source.tags() if self.files.settings.tags else Tags()
        if tags.notice:
            emit(self.callback, Notice(tags.notice, self.name))
        held = {one.name: one for one in outputs}
        self.files.open(
            {
                names[0]: replace(tags, settings=fingerprint.tag([held[name] for name in names]))
                for names in self.files.outputs_of.values()
            }
        )
        blocks = self.worker.runner.run(
            self.source,
            outputs,
            self.shape,
            measured=self._measured,
            name=self.name,
            total_s=self.duration_s,
            callback=self.callback,
        )
        with closing(blocks):
            for block in blocks:
                self.files.write(block)

    def publish(self) -> None:
        """Encode what waits for the peak, and give the files their final names."""
        done_s = self.duration_s or 0
        # If the run was cancelled meanwhile, the callback ends the track here, before anything is published.
        emit(self.callback, Progress(self.name, done_s, done_s, 0.0))
        self.files.publish()
        if self.project is not None:
            write_project(self.project, self.files.files)
        if self.files.gain != 1:
            what = f"{self.files.gain_db:.2f} dB on every output, so that none clips"
            emit(self.callback, Notice(what, self.name))

    def done(self) -> TrackResult:
        """Return the result of a track that is published."""
        files = self.files
        return TrackResult(
            self.name,
            "done",
            {output: str(path) for output, path in files.files.items()},
            duration_s=files.frames / files.sample_rate,
            sample_rate=files.sample_rate,
            channels=files.channels,
            gain_db=files.gain_db,
            wall_s=self.wall_s,
        )

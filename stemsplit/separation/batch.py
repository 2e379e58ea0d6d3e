"""Separate many tracks by the same models. A track that fails is recorded, and the others go on.

Three stages work on different tracks at the same time: the next track is measured, one is computed, and the
previous one is encoded and published. An engine (`engines`) calls the workers; `run` puts both together.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from stemsplit.audio.content import content_of
from stemsplit.audio.tags import Tags
from stemsplit.claims import Claims, Taken
from stemsplit.engines import Engine
from stemsplit.errors import Cancelled, StemsplitError
from stemsplit.events import Callback, Notice, Progress, TrackStart, emit
from stemsplit.outcome import Failure
from stemsplit.separation.files import TrackFiles, missing_folders, remove_if_empty, sweep, sweep_claimed
from stemsplit.separation.fingerprint import Fingerprint
from stemsplit.separation.flow import Flow
from stemsplit.separation.jobs import Ready, check_room, finished, refuse_foreign, survey
from stemsplit.separation.outputs import Output
from stemsplit.separation.plan import Job
from stemsplit.separation.project import add_project, write_project
from stemsplit.separation.remote import fetched, staged
from stemsplit.separation.report import TrackResult, announce
from stemsplit.separation.runner import Runner, load_runner
from stemsplit.separation.stage import NOT_MEASURED, Measured
from stemsplit.settings import Request
from stemsplit.urls import Url, place_of, put

log = logging.getLogger(__name__)


class Item(NamedTuple):
    """A track of a batch.

    Attributes:
        work: the job with its source and the shape of its outputs; or a job that isn't examined yet.
        number, total: the number of the track, counted from 1, and of all tracks if it is known.
        new_folders: for each output file the folders to create, found before any track creates one.
        waits: whether to wait for another run that has the track.
    """

    work: Ready | Job
    number: int
    total: int | None
    new_folders: Mapping[Path, Sequence[Path]]
    waits: bool = False

    @property
    def job(self) -> Job:
        """The input and the paths of its outputs."""
        return self.work if isinstance(self.work, Job) else self.work.job


class Worked(NamedTuple):
    """Result of a track, None if another run has it, and the device that it ran on, empty if unknown."""

    result: TrackResult | None
    device: str


def items_of(work: Iterable[Ready | Job], total: int | None) -> Iterator[Item]:
    """Yield the tracks of a batch."""
    for number, one in enumerate(work, 1):
        item = Item(one, number, total, {})
        local = [path for path in item.job.outputs if isinstance(path, Path)]
        yield item._replace(new_folders={path: missing_folders(path) for path in local})


def results_of(
    engine: Engine,
    make: "Callable[[], TrackWorker]",
    items: Iterable[Item],
    run: str | None,
    callback: Callback | None,
) -> Iterator[tuple[Item, Worked]]:
    """Take tracks through an engine; if workers die or are killed, remove what they leave.

    Args:
        engine: the engine.
        make: factory of its workers.
        items: the tracks.
        run: name of the run in claims; None if it claims nothing.
        callback: receives events.

    Yields:
        Every track with its result.
    """
    begun = deque[Item]()

    def sent() -> Iterator[Item]:
        for item in items:
            begun.append(item)
            yield item

    try:
        with closing(engine.run(sent(), make, callback)) as results:
            for found in results:
                item = begun[0]
                if isinstance(found, Exception):  # the worker process died
                    _clear(item, run)
                    if run is not None:
                        with closing(Claims(run)) as claims:
                            claims.clear(path for path in item.job.outputs if isinstance(path, Url))
                    result = TrackResult(str(item.job.input), "failed", error=Failure.of(found))
                    announce(result, callback)
                    found = Worked(result, "")
                begun.popleft()
                yield item, found
        if begun:
            raise StemsplitError(f"{type(engine).__name__} ended without a result of {begun[0].job.input}")
    finally:
        for item in begun:  # which some workers had when they were stopped; slow ones were killed
            _clear(item, run)


def _clear(item: Item, run: str | None) -> None:
    """Remove the local files that a dead worker left of a track, unless another run has it by now.

    Claims at addresses expire by themselves: to remove them may take longer than an interruption should.
    """
    local = [path for path in item.job.outputs if isinstance(path, Path)]
    if run is None:
        sweep(local)
    else:
        sweep_claimed(local, run)
    for folders in item.new_folders.values():
        for folder in reversed(folders):
            remove_if_empty(folder)


class TrackWorker:
    """Worker that separates tracks into files; may be called from several threads at once, and closed once.

    Models run only in its own `jobs` threads: each further thread that computes gets OpenMP threads of its
    own, which stay and slow down the others.

    Args:
        runner: the models.
        outputs: the outputs of every track.
        fingerprint: model and settings, written to the outputs' tags.
        request: the settings.
        jobs: number of tracks computed at the same time.
        run: name of the run in the claims of its files; None to claim none.
    """

    def __init__(
        self,
        runner: Runner,
        outputs: Sequence[Output],
        fingerprint: Fingerprint,
        request: Request,
        jobs: int = 1,
        run: str | None = None,
    ) -> None:
        self.runner, self.outputs, self.fingerprint = runner, outputs, fingerprint
        self.request, self.output = request, request.output
        self.claims = None if run is None else Claims(run)
        self._computing = ThreadPoolExecutor(jobs)
        self._measuring, self._publishing = threading.Semaphore(1), threading.Semaphore(jobs)

    def close(self) -> None:
        """Stop the threads and free the models."""
        self._computing.shutdown(cancel_futures=True)
        self.runner.close()
        if self.claims is not None:
            self.claims.close()

    def __call__(self, item: Item, callback: Callback) -> Worked:
        """Separate a track and return its result; a failure is a result too.

        Raises:
            Cancelled: by the callback. No part of the track is left.
        """
        name, clock = str(item.job.input), _Clock()
        try:
            with ExitStack() as stack:
                self._claim(item, callback, stack)
                found = self._ready(item, stack)
                if isinstance(found, Ready):
                    result = self._do(found, item, callback, clock)
                else:
                    result = found
                    add_project(result.status, item.job)
        except Cancelled:
            raise
        except Taken:
            return Worked(None, self.runner.device)
        except Exception as error:
            log.debug("%s", name, exc_info=error)
            result = TrackResult(name, "failed", wall_s=clock.wall_s, error=Failure.of(error))
        announce(result, callback)
        return Worked(result, self.runner.device)

    def _claim(self, item: Item, callback: Callback, stack: ExitStack) -> None:
        """Claim the outputs of a track until the stack is closed.

        Raises:
            Taken: another run has them, and the item doesn't wait.
        """
        if self.claims is None or item.job.input.failure is not None:
            return
        for folder in dict.fromkeys(folder for each in item.new_folders.values() for folder in each):
            stack.callback(remove_if_empty, folder)  # which the claims keep from being empty before
        beat = Progress(str(item.job.input), 0.0, None, None)
        waiting = partial(emit, callback, beat) if item.waits else None
        stack.enter_context(self.claims.held(item.job.outputs, waiting))

    def _ready(self, item: Item, stack: ExitStack) -> Ready | TrackResult:
        """Examine a track if it wasn't before, or if another run may have done it since."""
        job, batch = item.job, self.request.batch
        plain = job.input.failure is None and (self.claims is not None or job.is_remote)
        if plain and (result := finished(job, self.outputs, self.fingerprint, batch)) is not None:
            if self.claims is not None:
                sweep(path for path in job.outputs if isinstance(path, Path))
            meanwhile = item.waits or isinstance(item.work, Ready)  # it wasn't done when it was looked at
            return replace(result, note="done meanwhile by another run or worker") if meanwhile else result
        if isinstance(item.work, Ready):
            return item.work
        local = stack.enter_context(fetched(job.input))
        found = survey(job, self.outputs, self.fingerprint, batch, self.output, local)
        if isinstance(found, Ready):
            if item.total is None and batch.if_exists == "overwrite":
                refuse_foreign(found.job)
            check_room([found], self.output, place_of(batch.output))
        return found

    def _do(self, ready: Ready, item: Item, callback: Callback, clock: "_Clock") -> TrackResult:
        """Take a track through the stages."""
        with ExitStack() as stack:
            track = _Track(ready, item, self, callback, stack)
            stack.enter_context(closing(track.files))
            track.source = stack.enter_context(ready.source.opened())
            with self._measuring:  # one track at a time is measured ahead
                clock.timed(track.measure)
            self._computing.submit(clock.timed, track.compute).result()
            with self._publishing:
                clock.timed(track.publish)
        return track.done(clock.wall_s)


@dataclass(frozen=True)
class WorkerFactory:
    """Factory of workers; picklable, and loads the models where it is called, such as in another process."""

    flow: Flow
    outputs: tuple[Output, ...]
    fingerprint: Fingerprint
    request: Request
    run: str | None = None

    def __call__(self) -> TrackWorker:
        """Return a new worker."""
        runner = load_runner(self.flow, self.request)
        return TrackWorker(runner, self.outputs, self.fingerprint, self.request, run=self.run)


class _Clock:
    """Seconds within a track's stages, without those of waiting between them."""

    wall_s = 0.0

    def timed(self, stage: Callable[[], None]) -> None:
        """Run one stage and count its time."""
        began = monotonic()
        try:
            stage()
        finally:
            self.wall_s += monotonic() - began


class _Track:
    """A track on its way through the stages."""

    def __init__(
        self, ready: Ready, item: Item, worker: TrackWorker, callback: Callback, stack: ExitStack
    ) -> None:
        self.source, self.worker, self.callback = ready.source, worker, callback
        self.shape, self.targets = ready.shape, ready.job.files
        self.name, self.project = str(ready.job.input), ready.job.project
        self._place = TrackStart(self.name, item.number, item.total, None)
        known = all(path in item.new_folders for path in self.targets.values())
        self.files = TrackFiles(
            staged(self.targets, stack),
            self.shape.sample_rate,
            self.shape.channels,
            ready.output,
            layout=self.shape.layout,
            new_folders=item.new_folders if known else None,
            film=ready.film,
        )
        self._measured: Measured = NOT_MEASURED
        self._content: str | None = None

    @property
    def duration_s(self) -> float | None:
        """The length in seconds: counted by the first pass, else declared by the file, else None."""
        counted = self._measured.frames
        return self.source.duration_s if counted is None else counted / self.source.sample_rate

    def measure(self) -> None:
        """Read the track once, if its statistics are needed, and take the digest of its beginning."""
        source, rate = self.source, self.shape.sample_rate
        output = self.files.settings
        if output.sample_rate == "keep" and rate != source.sample_rate:
            what = f"{output.format} can't hold {source.sample_rate} Hz, so its outputs have {rate} Hz"
            emit(self.callback, Notice(what, self.name))
        if self.files.other_bitrate:
            emit(self.callback, Notice(self.files.other_bitrate, self.name))
        self._measured = self.worker.runner.measure(source, self.shape)
        self._content = content_of(source.file or source.path, source.info.stream)

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
                names[0]: replace(
                    tags, settings=fingerprint.tag([held[name] for name in names], self._content)
                )
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
        if self.worker.claims is not None:
            self.worker.claims.require(dict.fromkeys(self.targets.values()))
        self.files.publish()
        for target, local in {self.targets[name]: local for name, local in self.files.files.items()}.items():
            if isinstance(target, Url):
                put(local, target)
        if self.project is not None:
            self._write_project(self.project)
        if self.files.gain != 1:
            what = f"{self.files.gain_db:.2f} dB on every output, so that none clips"
            emit(self.callback, Notice(what, self.name))

    def _write_project(self, project: Path) -> None:
        """Write the project, unless there is one, which may have been changed."""
        if project.exists() and self.worker.request.batch.if_exists != "overwrite":
            what = f"{project} is there already and stays as it is; -y writes it anew"
            emit(self.callback, Notice(what, self.name))
        else:
            write_project(project, self.files.files)

    def done(self, wall_s: float) -> TrackResult:
        """Return the result of a track that is published."""
        files = self.files
        return TrackResult(
            self.name,
            "done",
            {output: str(path) for output, path in self.targets.items()},
            duration_s=files.frames / files.sample_rate,
            sample_rate=files.sample_rate,
            channels=files.channels,
            gain_db=files.gain_db,
            wall_s=wall_s,
        )

"""Many tracks through one model. A track that fails is recorded, and the others go on.

Three stages work at the same time on different tracks: the next one is read once to be measured, one is
computed, and the previous one is encoded and published.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from time import monotonic

from stemsplit.audio.formats import check_encodable
from stemsplit.audio.reader import probe
from stemsplit.audio.tags import Tags, read_tags
from stemsplit.errors import Cancelled, OutputError
from stemsplit.events import Callback, Event, Notice, TrackDone, TrackFailed, TrackStart, emit
from stemsplit.separation.existing import Fingerprint, is_done, renamed
from stemsplit.separation.mixes import Output
from stemsplit.separation.plan import Job
from stemsplit.separation.publish import TrackFiles
from stemsplit.separation.report import Failure, Status, TrackResult
from stemsplit.separation.separator import Separator
from stemsplit.separation.track import FileSource, Measured, output_shape
from stemsplit.settings import BatchSettings, OutputSettings


@dataclass(frozen=True)
class _Work:
    """What the first stage found out about a track that is to be separated."""

    source: FileSource
    files: TrackFiles
    measured: Measured

    @property
    def duration_s(self) -> float | None:
        """Counted, or declared, or None."""
        if self.measured.frames is None:
            return self.source.duration_s
        return self.measured.frames / self.source.sample_rate


@dataclass
class _Track:
    """A track on its way through the stages; once there is a `result` the later ones pass it on."""

    job: Job
    place: TrackStart
    began: float = field(default_factory=monotonic)
    work: _Work | None = None
    result: TrackResult | None = None


class Batch:
    """A batch of jobs.

    Args:
        separator: the model; its events come to this batch's callback.
        outputs: what to make of every track.
        fingerprint: what the outputs are made with.
        batch: existing files, failures, and the stretch of every track.
        output: the format.
        callback: receives events, one at a time; returning False cancels.
        workers: tracks computed at the same time.
    """

    def __init__(
        self,
        separator: Separator,
        outputs: Sequence[Output],
        fingerprint: Fingerprint,
        *,
        batch: BatchSettings = BatchSettings(),
        output: OutputSettings = OutputSettings(),
        callback: Callback | None = None,
        workers: int = 1,
    ) -> None:
        self.separator, self.outputs, self.fingerprint = separator, outputs, fingerprint
        self.batch, self.output = batch, output
        self.callback, self.workers = callback, workers
        self.stopped = threading.Event()
        self.speaking = threading.Lock()
        self.room = threading.Semaphore(workers + 2)  # tracks between the first stage and the last
        separator.callback = self._tell

    def run(self, jobs: Sequence[Job]) -> Iterator[TrackResult]:
        """Do the jobs; yields their results in order. Leaving early stops the rest and removes its parts.

        Raises:
            Cancelled: the callback returned False.
        """
        stages = [ThreadPoolExecutor(n) for n in (1, self.workers, self.workers)]
        try:
            for future in self._submit(jobs, *stages):
                result = future.result()
                yield result
                if result.status == "failed" and self.batch.fail_fast:
                    return
        finally:
            self.stopped.set()
            for stage in stages:
                stage.shutdown(cancel_futures=True)

    def _submit(
        self,
        jobs: Sequence[Job],
        ahead: ThreadPoolExecutor,
        now: ThreadPoolExecutor,
        behind: ThreadPoolExecutor,
    ) -> list[Future[TrackResult]]:
        results = []
        for index, job in enumerate(jobs, 1):
            place = TrackStart(str(job.input), index, len(jobs), None)
            prepared = ahead.submit(self._enter, _Track(job, place))
            computed = now.submit(lambda before: self._stage(self._compute, before.result()), prepared)
            results.append(behind.submit(lambda before: self._leave(before.result()), computed))
        return results

    def _enter(self, track: _Track) -> _Track:
        while not self.room.acquire(timeout=0.1):
            self._go_on()
        track.began = monotonic()
        return self._stage(self._prepare, track)

    def _leave(self, track: _Track) -> TrackResult:
        try:
            result = self._stage(self._publish, track).result
        finally:
            self.room.release()
        if result is None:
            raise Cancelled
        self._announce(result)
        return result

    def _stage(self, work: Callable[[_Track], None], track: _Track) -> _Track:
        """Do one stage's work; what fails becomes the track's result and leaves no part behind."""
        self._go_on()
        if track.result is not None:
            return track
        try:
            work(track)
        except BaseException as error:
            if track.work is not None:
                track.work.files.close()
            if not isinstance(error, Exception) or isinstance(error, Cancelled):
                raise
            track.result = self._result(track, "failed", error=Failure.of(error))
        return track

    def _prepare(self, track: _Track) -> None:
        """Look at what is there already, read the input's head, and take the first pass over it."""
        label, path = str(track.job.input), track.job.input.path
        info = probe(path, stream=self.batch.audio_stream, name=label)
        if not self._is_to_do(track):
            return
        source = FileSource(path, info, self.batch.start_s, self.batch.end_s)
        shape = output_shape(source, self.output)
        check_encodable(self.output.format, shape.sample_rate, shape.channels, self.output.bit_depth)
        if info.channels > 2:
            self._tell(Notice(f"{info.channels} channels are mixed down to stereo (ITU-R BS.775)", label))
        tags = read_tags(path, name=label) if self.output.tags else Tags()
        named = {o.name: replace(tags, settings=self.fingerprint.tag(o.name)) for o in self.outputs}
        files = TrackFiles(track.job.files, shape.sample_rate, shape.channels, self.output, named)
        track.work = _Work(source, files, self.separator.measure(source))

    def _is_to_do(self, track: _Track) -> bool:
        """Whether a job has to be done, by the rule for existing files; it may get other names."""
        job, rule = track.job, self.batch.if_exists
        if rule == "error" and (there := [path for path in job.files.values() if path.exists()]):
            raise OutputError(there[0], "exists", hint="-y overwrites it")
        if rule == "skip" and is_done(job, self.fingerprint):
            track.result = self._result(track, "skipped")
            return False
        if rule == "rename":
            track.job = renamed(job)
        return True

    def _compute(self, track: _Track) -> None:
        if (work := track.work) is None:
            return
        self._tell(replace(track.place, duration_s=work.duration_s))
        work.files.open()
        blocks = self.separator.stream(
            work.source,
            self.outputs,
            output_shape(work.source, self.output),
            measured=work.measured,
            name=track.place.input,
            total_s=work.duration_s,
        )
        for block in blocks:
            work.files.write(block)

    def _publish(self, track: _Track) -> None:
        if (work := track.work) is None:
            return
        work.files.publish()
        if work.files.gain != 1:
            what = f"{work.files.gain_db:.2f} dB on every output, so that none clips"
            self._tell(Notice(what, track.place.input))
        track.result = self._result(track, "done")

    def _result(self, track: _Track, status: Status, error: Failure | None = None) -> TrackResult:
        wall_s, name = monotonic() - track.began, track.place.input
        outputs = {} if error else {output: str(path) for output, path in track.job.files.items()}
        if status != "done" or track.work is None:
            return TrackResult(name, status, outputs, wall_s=wall_s, error=error)
        files = track.work.files
        return TrackResult(
            name,
            status,
            outputs,
            duration_s=files.frames / files.sample_rate,
            sample_rate=files.sample_rate,
            channels=files.channels,
            gain_db=files.gain_db,
            wall_s=wall_s,
        )

    def _announce(self, result: TrackResult) -> None:
        if result.error:
            self._tell(TrackFailed(result.input, result.error.code, result.error.message))
        else:
            self._tell(TrackDone(result.input, result.status, dict(result.outputs), result.wall_s))

    def _go_on(self) -> None:
        if self.stopped.is_set():
            raise Cancelled

    def _tell(self, event: Event) -> None:
        self._go_on()
        with self.speaking:
            emit(self.callback, event)

"""Many tracks through one model. A track that fails is recorded, and the others go on.

Three stages work at the same time on different tracks: the next one is read once to be measured, one is
computed, and the previous one is encoded and published.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from time import monotonic

from stemsplit.audio.tags import Tags
from stemsplit.errors import Cancelled
from stemsplit.events import Callback, Event, Notice, TrackStart, emit
from stemsplit.outcome import Failure
from stemsplit.separation.existing import Fingerprint
from stemsplit.separation.mixes import Output
from stemsplit.separation.publish import TrackFiles
from stemsplit.separation.report import TrackResult, announce
from stemsplit.separation.separator import Separator
from stemsplit.separation.survey import Ready
from stemsplit.separation.track import Measured
from stemsplit.settings import OutputSettings

log = logging.getLogger(__name__)


@dataclass
class _Track:
    """A track on its way through the stages; once there is a `result` the later ones pass it on.

    `wall_s` counts the time in the stages, not the time between them.
    """

    ready: Ready
    place: TrackStart
    files: TrackFiles
    wall_s: float = 0.0
    measured: Sequence[Measured] | None = None
    result: TrackResult | None = None

    @property
    def duration_s(self) -> float | None:
        """Counted, or declared, or None."""
        counted = next((one.frames for one in self.measured or () if one.frames is not None), None)
        source = self.ready.source
        return source.duration_s if counted is None else counted / source.sample_rate


class Batch:
    """A batch of jobs.

    Args:
        separator: the model; its events come to this batch's callback.
        outputs: what to make of every track.
        fingerprint: what the outputs are made with.
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
        output: OutputSettings = OutputSettings(),
        callback: Callback | None = None,
        workers: int = 1,
    ) -> None:
        self.separator, self.outputs, self.fingerprint = separator, outputs, fingerprint
        self.output, self.callback, self.workers = output, callback, workers
        self.stopped = threading.Event()
        self.speaking = threading.Lock()
        self.room = threading.Semaphore(workers + 2)  # tracks between the first stage and the last
        separator.callback = self._tell

    def run(self, ready: Sequence[Ready]) -> Iterator[TrackResult]:
        """Do what is ready; yields the results in order. Leaving early stops the rest and removes its parts.

        Raises:
            Cancelled: the callback returned False.
        """
        stages = [ThreadPoolExecutor(n) for n in (1, self.workers, self.workers)]
        tracks = [self._track(one, index, len(ready)) for index, one in enumerate(ready, 1)]
        try:
            for future in self._submit(tracks, *stages):
                yield future.result()
        finally:
            self.stopped.set()
            for stage in stages:
                stage.shutdown(cancel_futures=True)
            for track in tracks:  # those that wait between two stages too
                track.files.close()

    def _track(self, ready: Ready, index: int, count: int) -> _Track:
        place = TrackStart(str(ready.job.input), index, count, None)
        files = TrackFiles(ready.job.files, ready.shape.sample_rate, ready.shape.channels, self.output)
        return _Track(ready, place, files)

    def _submit(
        self,
        tracks: Sequence[_Track],
        ahead: ThreadPoolExecutor,
        now: ThreadPoolExecutor,
        behind: ThreadPoolExecutor,
    ) -> list[Future[TrackResult]]:
        results = []
        for track in tracks:
            measured = ahead.submit(self._enter, track)
            computed = now.submit(lambda before: self._stage(self._compute, before.result()), measured)
            results.append(behind.submit(lambda before: self._leave(before.result()), computed))
        return results

    def _enter(self, track: _Track) -> _Track:
        while not self.room.acquire(timeout=0.1):
            self._go_on()
        return self._stage(self._measure, track)

    def _leave(self, track: _Track) -> TrackResult:
        try:
            self._stage(self._publish, track)
        finally:
            self.room.release()
        result = track.result or self._done(track)
        announce(result, self._tell)
        return result

    def _stage(self, work: Callable[[_Track], None], track: _Track) -> _Track:
        """Do one stage's work; what fails becomes the track's result and leaves no part behind."""
        if track.result is not None:
            return track
        began = monotonic()
        try:
            self._go_on()
            work(track)
            track.wall_s += monotonic() - began
        except BaseException as error:
            track.files.close()
            if not isinstance(error, Exception) or isinstance(error, Cancelled):
                raise
            log.debug("%s", track.place.input, exc_info=error)
            wall_s = track.wall_s + monotonic() - began
            track.result = TrackResult(track.place.input, "failed", wall_s=wall_s, error=Failure.of(error))
        return track

    def _measure(self, track: _Track) -> None:
        source = track.ready.source
        rate = track.ready.shape.sample_rate
        if self.output.sample_rate == "keep" and rate != source.sample_rate:
            what = f"{self.output.format} can't hold {source.sample_rate} Hz, so its outputs have {rate} Hz"
            self._tell(Notice(what, track.place.input))
        track.measured = self.separator.measure(source)

    def _compute(self, track: _Track) -> None:
        ready, name = track.ready, track.place.input
        self._tell(replace(track.place, duration_s=track.duration_s))
        tags = ready.source.tags() if self.output.tags else Tags()
        if tags.notice:
            self._tell(Notice(tags.notice, name))
        track.files.open({o.name: replace(tags, settings=self.fingerprint.tag(o)) for o in self.outputs})
        for block in self.separator.stream(
            ready.source,
            self.outputs,
            ready.shape,
            measured=track.measured,
            name=name,
            total_s=track.duration_s,
        ):
            track.files.write(block)

    def _publish(self, track: _Track) -> None:
        track.files.publish()
        if track.files.gain != 1:
            what = f"{track.files.gain_db:.2f} dB on every output, so that none clips"
            self._tell(Notice(what, track.place.input))

    def _done(self, track: _Track) -> TrackResult:
        files = track.files
        return TrackResult(
            track.place.input,
            "done",
            {output: str(path) for output, path in files.files.items()},
            duration_s=files.frames / files.sample_rate,
            sample_rate=files.sample_rate,
            channels=files.channels,
            gain_db=files.gain_db,
            wall_s=track.wall_s,
        )

    def _go_on(self) -> None:
        if self.stopped.is_set():
            raise Cancelled

    def _tell(self, event: Event) -> None:
        self._go_on()
        with self.speaking:
            emit(self.callback, event)

"""Separations in the background: a bounded queue, one job at a time, with events that pages can follow.

There is one thread, because there is one device. Jobs belong to the server and not to a page: a page that is
closed or loaded again finds them as they are.
"""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from secrets import token_hex
from time import time
from typing import Any, Literal

from stemsplit.errors import Cancelled, StemsplitError
from stemsplit.events import Download, Event, Progress, emit
from stemsplit.hub.access import Access
from stemsplit.hub.manage import download_model
from stemsplit.hub.registry import is_known
from stemsplit.outcome import Failure
from stemsplit.separation.inputs import Found, Input
from stemsplit.separation.jobs import examine, is_done
from stemsplit.separation.run import Session, prepare
from stemsplit.settings import TEMPLATE, Request
from stemsplit.web.answers import ApiError
from stemsplit.web.results import id_of
from stemsplit.web.warm import WarmEngine

log = logging.getLogger(__name__)

MOST_WAITING = 32
MOST_FINISHED = 100  # that are remembered
State = Literal["waiting", "running", "done", "failed", "cancelled"]


@dataclass(eq=False)
class Job:
    """A song to separate.

    Attributes:
        song: the file, with its name if the file has another.
        request: the settings.
        described: the settings as they were asked for, for the page.
        state: how far it is.
        error: why it failed.
        outputs: paths of the stems by name.
        cancelled: True once it is to stop.
        events: number and event; a later state of the same thing replaces an earlier one, so that the list
            doesn't grow with the length of the song.
    """

    song: Input
    request: Request
    described: dict[str, Any]
    id: str = field(default_factory=lambda: token_hex(9))
    created: float = field(default_factory=time)
    state: State = "waiting"
    error: Failure | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    cancelled: bool = False
    events: list[tuple[int, Event]] = field(default_factory=list)
    last: int = 0
    _waiters: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def finished(self) -> bool:
        """True if nothing more happens."""
        return self.state in ("done", "failed", "cancelled")

    def take(self, event: Event) -> bool:
        """Store an event of the separation; return False to stop it."""
        with self._lock:
            self.last += 1
            if isinstance(event, (Progress, Download)):
                key = _subject(event)
                self.events = [pair for pair in self.events if _subject(pair[1]) != key]
            self.events.append((self.last, event))
        self._wake()
        return not self.cancelled

    def finish(self, state: State, error: Failure | None = None) -> None:
        """Set the last state."""
        self.state, self.error = state, error
        self._wake()

    async def follow(self, after: int = 0) -> AsyncIterator[tuple[int, Event] | None]:
        """Yield the events after a number, then those that come until the job is finished.

        Yields None every 15 seconds without an event, to see whether the reader is still there.
        """
        waiter = asyncio.get_running_loop(), asyncio.Event()
        self._waiters.add(waiter)
        try:
            while True:
                waiter[1].clear()
                finished = self.finished
                with self._lock:
                    fresh = [pair for pair in self.events if pair[0] > after]
                for pair in fresh:
                    after = pair[0]
                    yield pair
                if finished:
                    return
                try:
                    await asyncio.wait_for(waiter[1].wait(), 15)
                except TimeoutError:
                    yield None
        finally:
            self._waiters.discard(waiter)

    def as_dict(self) -> dict[str, Any]:
        """Return the job as JSON-ready data."""
        with self._lock:
            progress = next(
                (e for _, e in reversed(self.events) if isinstance(e, (Progress, Download))), None
            )
        return {
            "id": self.id,
            "name": str(self.song) if self.song.label else self.song.path.name,
            "state": self.state,
            "cancelling": self.cancelled and not self.finished,
            "settings": self.described,
            "created": self.created,
            "progress": progress.as_dict() if progress and not self.finished else None,
            "error": asdict(self.error) if self.error else None,
            "outputs": self.outputs,
            "result": id_of(self._folder) if self._folder else None,
        }

    @property
    def _folder(self) -> Path | None:
        return Path(next(iter(self.outputs.values()))).parent if self.outputs else None

    def _wake(self) -> None:
        for loop, event in list(self._waiters):
            if not loop.is_closed():
                loop.call_soon_threadsafe(event.set)


def _subject(event: Event) -> object:
    match event:
        case Progress(name):
            return "progress", name
        case Download(name):
            return "download", name
    return event


class Jobs:
    """The queue, and the thread that works on it.

    Args:
        made: called with a song's file and the folder of its stems when a job is done.
    """

    def __init__(self, made: Callable[[Path, Path], None]) -> None:
        self._jobs: dict[str, Job] = {}
        self._made = made
        self._engine = WarmEngine()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def all(self) -> list[Job]:
        """Return all jobs, the oldest first."""
        with self._changed:
            return list(self._jobs.values())

    def get(self, id: str) -> Job:
        """Return a job.

        Raises:
            ApiError: there is none with this id (404).
        """
        with self._changed:
            if id not in self._jobs:
                raise ApiError(404, "no such job")
            return self._jobs[id]

    def submit(self, song: Input, request: Request, described: dict[str, Any]) -> Job:
        """Queue a separation, after all checks that need no computing.

        Raises:
            ApiError: too many jobs are waiting (429).
            StemsplitError: a setting or the song is invalid.
        """
        with self._changed:
            self._require_place()
        session = prepare(Found([song]), request)
        examine(session.plan.jobs[0], session.request.batch, session.request.output)
        job = Job(song, request, described)
        with self._changed:
            self._require_place()  # others may have come during the checks
            self._jobs[job.id] = job
            finished = [one for one in self._jobs.values() if one.finished]
            for old in finished[: max(0, len(finished) - MOST_FINISHED)]:
                del self._jobs[old.id]
            self._changed.notify()
        return job

    def _require_place(self) -> None:
        if sum(job.state == "waiting" for job in self._jobs.values()) >= MOST_WAITING:
            raise ApiError(429, f"{MOST_WAITING} jobs are waiting already", "try again later")

    def need(self, path: Path) -> bool:
        """Return whether a job that isn't finished reads a file."""
        with self._changed:
            return any(job.song.path == path and not job.finished for job in self._jobs.values())

    def cancel(self, id: str) -> Job:
        """Stop a job; one that is finished is removed from the list. Errors as in `get`."""
        job = self.get(id)
        with self._changed:
            job.cancelled = True
            if job.state == "waiting":
                job.finish("cancelled")
            elif job.finished:
                self._jobs.pop(id, None)
        return job

    def close(self) -> None:
        """Cancel all jobs, and wait until the running one has removed what it had begun."""
        with self._changed:
            self._closed = True
            for job in self._jobs.values():
                job.cancelled = True
                if job.state == "waiting":
                    job.finish("cancelled")
            self._changed.notify()
        self._thread.join()
        self._engine.close()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            try:
                self._run(job)
            except Cancelled:
                job.finish("cancelled")
            except BaseException as error:
                log.debug("%s", job.song, exc_info=error)
                job.finish("failed", Failure.of(error))

    def _next(self) -> Job | None:
        """Wait for the next job and return it; None at the end."""
        with self._changed:
            while True:
                if self._closed:
                    return None
                for job in self._jobs.values():
                    if job.state == "waiting":
                        job.state = "running"
                        return job
                self._changed.wait()

    def _run(self, job: Job) -> None:
        settings = job.request.model
        if is_known(model := str(settings.model)):
            download_model(model, Access.of(settings), callback=job.take)
        session = _free_session(job)
        results = list(session.run(job.take, self._engine))
        report = session.report(results, job.take)
        (track,) = report.tracks
        if track.error:
            job.finish("failed", track.error)
            return
        job.outputs = dict(track.outputs)
        self._made(job.song.path, Path(next(iter(track.outputs.values()))).parent)
        job.finish("done")


def _free_session(job: Job) -> Session:
    """Return the run of a job, in the song's folder, or in a numbered one if that has other files."""
    number = 1
    while True:
        template = job.request.batch.template or TEMPLATE
        if number > 1:
            template = template.replace("{name}", f"{{name}} ({number})")
        batch = replace(job.request.batch, template=template)
        notices: list[Event] = []
        request = replace(job.request, batch=batch)
        session = prepare(Found([job.song]), request, callback=notices.append)
        if _is_free(session, job.song):
            for notice in notices:
                emit(job.take, notice)
            return session
        number += 1


def _is_free(session: Session, song: Input) -> bool:
    """Return whether a run may write its files: none are there, or those that it would write."""
    planned = session.plan.jobs[0]
    files = [Path(path) for path in planned.files.values()]
    there = [path for path in files if os.path.exists(path)]
    folder = files[0].parent
    others = [path for path in folder.glob("[!.]*") if path not in files] if folder.is_dir() else []
    if not there:
        return not others
    try:
        return is_done(planned, session.outputs, session.fingerprint, None, song) or not others
    except StemsplitError:  # made from another song of this name, or with other settings
        return False

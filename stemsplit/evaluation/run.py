"""The scores of many tracks: found, paired, computed in several processes, and remembered."""

import hashlib
import json
import os
import signal
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import torch

from stemsplit import __version__
from stemsplit.datasets.layouts import Layout, find_layouts
from stemsplit.datasets.metadata import MetadataCache
from stemsplit.datasets.tracks import Track, fingerprint, open_track
from stemsplit.errors import InputError, ResourceError, StemsplitError
from stemsplit.evaluation.findings import Finding
from stemsplit.evaluation.score import Scores, Separate, Wanted, score_files, score_separation
from stemsplit.events import Callback, TrackDone, TrackFailed, TrackStart, emit
from stemsplit.hub.folders import cache_folder


@dataclass(frozen=True)
class Failure:
    """Why a track has no scores: the exit code that it would have caused alone, and the sentence."""

    code: int
    message: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """The failure that an exception means."""
        if isinstance(error, StemsplitError):
            return cls(error.code, str(error))
        if isinstance(error, MemoryError):
            return cls(ResourceError.code, "out of memory")
        return cls(StemsplitError.code, f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Job:
    """A track to score.

    Attributes:
        name: of the track.
        track: the references; None if they can't be read.
        estimate: files to score, at the references' rate; None where the mixture is to be separated.
        failure: why there is nothing to score.
    """

    name: str
    track: Track | None = None
    estimate: Track | None = None
    failure: Failure | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of a track: scores or a failure."""

    name: str
    duration_s: float | None = None
    scores: Scores | None = None
    failure: Failure | None = None
    reused: bool = False
    wall_s: float = 0.0


# ---------------------------------------------------------------- what is to be done


def plan_dataset(root: str | Path, only: Sequence[str] = ()) -> list[Job]:
    """A job for every track of a data set, whose mixtures are to be separated.

    Args:
        root: of the data set.
        only: patterns of track names; none for all tracks.

    Raises:
        InputError: there is no track.
    """
    cache = MetadataCache()
    jobs = [_open(layout, cache) for layout in _named(find_layouts(root), only, root)]
    cache.save()
    return jobs


def plan_files(reference: str | Path, estimate: str | Path, only: Sequence[str] = ()) -> list[Job]:
    """A job for every track of `reference`, with the files of the same name below `estimate`.

    Two single tracks belong together whatever their names.

    Raises:
        InputError: there is no track on one of the sides.
    """
    cache = MetadataCache()
    truths, guesses = find_layouts(reference), find_layouts(estimate)
    if len(truths) == len(guesses) == 1:
        guesses = [replace(guesses[0], name=truths[0].name)]
    by_name = {layout.name: layout for layout in guesses}
    jobs = [
        _with_estimate(_open(layout, cache), by_name.get(layout.name), estimate, cache)
        for layout in _named(truths, only, reference)
    ]
    cache.save()
    return jobs


def _named(layouts: Sequence[Layout], only: Sequence[str], root: str | Path) -> list[Layout]:
    """Those whose name fits one of the patterns."""
    found = [one for one in layouts if not only or any(fnmatchcase(one.name, pattern) for pattern in only)]
    if not found:
        raise InputError(root, f"none of its {len(layouts)} tracks is called {' or '.join(only)}")
    return found


def _open(layout: Layout, cache: MetadataCache) -> Job:
    try:
        return Job(layout.name, open_track(layout, sample_rate=None, cache=cache))
    except InputError as error:
        return Job(layout.name, failure=Failure.of(error))


def _with_estimate(job: Job, layout: Layout | None, where: str | Path, cache: MetadataCache) -> Job:
    if job.track is None:
        return job
    try:
        if layout is None:
            raise InputError(where, f"nothing named {job.name}")
        rate = job.track.sample_rate
        return replace(job, estimate=open_track(layout, sample_rate=rate, cache=cache, estimates=True))
    except InputError as error:
        return replace(job, failure=Failure.of(error))


# ---------------------------------------------------------------- what was done before


class Store:
    """Scores on disk, found again as long as files, method and program are the same.

    Args:
        folder: where; None is `scores` in the user's cache folder.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = cache_folder() / "scores" if folder is None else Path(folder)

    def key(self, job: Job, method: str | None, wanted: Wanted) -> str | None:
        """What the scores depend on, as a digest; None if that isn't known."""
        if job.track is None or (method is None and job.estimate is None):
            return None
        tracks = [track for track in (job.track, job.estimate) if track is not None]
        files = [fingerprint({"": track.mixture, **track.stems}) for track in tracks]
        told = json.dumps([__version__, files, method, asdict(wanted)])
        return hashlib.sha256(told.encode()).hexdigest()

    def get(self, key: str) -> Scores | None:
        """The scores kept under `key`; a damaged file is as good as none."""
        try:
            data = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            return Scores(
                data["stems"],
                data["baselines"],
                tuple(Finding(**finding) for finding in data["findings"]),
                tuple(data["notes"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, key: str, scores: Scores) -> None:
        """Keep scores; a folder that can't be written is no error."""
        part = self.folder / f".{key}.{os.getpid()}.part"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(asdict(scores)), encoding="utf-8")
            os.replace(part, self.folder / f"{key}.json")
        except OSError:
            return


# ---------------------------------------------------------------- doing it


def evaluate(
    jobs: Sequence[Job],
    separate: Separate | None = None,
    wanted: Wanted | None = None,
    *,
    method: str | None = None,
    workers: int = 1,
    store: Store | None = None,
    fresh: bool = False,
    callback: Callback | None = None,
) -> list[Outcome]:
    """Score all jobs. What fails is recorded, the others go on.

    Args:
        jobs: of `plan_dataset` or `plan_files`.
        separate: makes stems of mixtures; for more than one worker it must be picklable.
        wanted: baselines and metrics; None for the usual ones.
        method: what `separate` is, down to its weights and settings; without it nothing is remembered.
        workers: processes, each of which holds one track at a time.
        store: where scores are remembered; None for nowhere.
        fresh: compute also what is remembered.
        callback: receives `TrackStart`, `TrackDone` and `TrackFailed`.

    Returns:
        In the order of the jobs.

    Raises:
        Cancelled: by the callback.
        ResourceError: a worker process died.
    """
    wanted = wanted or Wanted()
    keys = [store.key(job, method, wanted) if store else None for job in jobs]
    known = {i: store.get(key) for i, key in enumerate(keys) if store and key and not fresh}
    outcomes: dict[int, Outcome] = {}
    todo = []
    for i, job in enumerate(jobs):
        if job.failure:
            outcomes[i] = _announced(Outcome(job.name, _duration_s(job), failure=job.failure), callback)
        elif (scores := known.get(i)) is not None:
            outcomes[i] = _announced(Outcome(job.name, _duration_s(job), scores, reused=True), callback)
        else:
            todo.append(i)
    work = _serially if workers == 1 or len(todo) < 2 else _in_processes
    with closing(work(jobs, todo, separate, wanted, workers, callback)) as found:
        for i, outcome in found:
            if store and (key := keys[i]) and outcome.scores:
                store.put(key, outcome.scores)
            outcomes[i] = _announced(outcome, callback)
    return [outcomes[i] for i in range(len(jobs))]


def _duration_s(job: Job) -> float | None:
    return job.track.frames / job.track.sample_rate if job.track else None


def _announced(outcome: Outcome, callback: Callback | None) -> Outcome:
    if outcome.failure:
        emit(callback, TrackFailed(outcome.name, outcome.failure.code, outcome.failure.message))
    else:
        status = "skipped" if outcome.reused else "done"
        emit(callback, TrackDone(outcome.name, status, {}, outcome.wall_s))
    return outcome


def _serially(
    jobs: Sequence[Job],
    todo: Sequence[int],
    separate: Separate | None,
    wanted: Wanted,
    workers: int,
    callback: Callback | None,
) -> Generator[tuple[int, Outcome], None, None]:
    for i in todo:
        emit(callback, TrackStart(jobs[i].name, i + 1, len(jobs), _duration_s(jobs[i])))
        yield i, _outcome(jobs[i], separate, wanted)


def _in_processes(
    jobs: Sequence[Job],
    todo: Sequence[int],
    separate: Separate | None,
    wanted: Wanted,
    workers: int,
    callback: Callback | None,
) -> Generator[tuple[int, Outcome], None, None]:
    """As many tracks at a time as there are processes; the next one starts when one is done."""
    begun_with = separate, wanted, max(1, torch.get_num_threads() // workers)
    running: dict[Future[Outcome], int] = {}
    waiting = list(reversed(todo))
    with _pool(workers, begun_with) as pool:
        while running or waiting:
            while waiting and len(running) < workers:
                i = waiting.pop()
                emit(callback, TrackStart(jobs[i].name, i + 1, len(jobs), _duration_s(jobs[i])))
                with _undisturbed():
                    running[pool.submit(_in_worker, jobs[i])] = i
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            yield from ((running.pop(future), future.result()) for future in done)


@contextmanager
def _pool(workers: int, begun_with: tuple[Any, ...]) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block, whatever they are at."""
    others = set(active_children())
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, begun_with)
    try:
        yield pool
    except BrokenProcessPool:
        raise ResourceError(
            "a worker process died", hint="it may have been out of memory; use fewer --jobs"
        ) from None
    finally:
        own = set(active_children()) - others
        pool.shutdown(wait=False, cancel_futures=True)
        for process in own:
            process.terminate()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Processes that begin inside don't hear of Ctrl-C: who began them does, and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# What a worker process was begun with.
_begun: dict[str, Any] = {}


def _begin(separate: Separate | None, wanted: Wanted, threads: int) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _begun.update(separate=separate, wanted=wanted)


def _end_with_parent() -> None:
    """A killed parent ends nobody, and its processes would wait for it for ever."""
    if parent := parent_process():
        parent.join()
        os._exit(1)


def _in_worker(job: Job) -> Outcome:
    return _outcome(job, _begun["separate"], _begun["wanted"])


def _outcome(job: Job, separate: Separate | None, wanted: Wanted) -> Outcome:
    start = monotonic()
    try:
        scores = _scores(job, separate, wanted)
    except Exception as error:  # one bad track doesn't end the others
        return Outcome(job.name, _duration_s(job), failure=Failure.of(error), wall_s=monotonic() - start)
    return Outcome(job.name, _duration_s(job), scores, wall_s=monotonic() - start)


def _scores(job: Job, separate: Separate | None, wanted: Wanted) -> Scores:
    if job.track is None:
        raise ValueError("a job without a track")
    if job.estimate is not None:
        return score_files(job.track, job.estimate, wanted)
    if separate is None:
        raise ValueError("a job without estimates needs something that separates")
    return score_separation(job.track, separate, wanted)

"""Score many tracks by an engine, and store the scores for later runs.

`plan` makes the jobs, `score` computes the scores of one track, `results` holds those of all tracks.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from stemsplit.cluster import Ray
from stemsplit.datasets.names import MIXTURE
from stemsplit.engines import Engine, Processes, Worker, make_engine
from stemsplit.errors import Cancelled
from stemsplit.evaluation.outcome import Outcome
from stemsplit.evaluation.plan import Job
from stemsplit.evaluation.results import Evaluation, with_baselines
from stemsplit.evaluation.score import ScoreOptions, Scores, score_files, score_separation
from stemsplit.evaluation.store import Store
from stemsplit.evaluation.table import DEFAULT_METRICS
from stemsplit.events import Callback, Event, Progress, TrackDone, TrackFailed, TrackStart, emit
from stemsplit.outcome import Failure

log = logging.getLogger(__name__)
Array = npt.NDArray[np.float32]


class MixtureSeparator(Protocol):
    """Interface of an object that separates mixtures, such as a `Separator`; several processes pickle it.

    Attributes:
        callback: receives the `Progress` of every mixture.
    """

    callback: Callback | None

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        """Return the stems of a mixture [C, T], [C, T] each."""
        ...


@dataclass(frozen=True)
class Method:
    """Source of the estimates that are scored.

    Attributes:
        name: its name in tables.
        separator: separates the mixtures; None if every job has its own estimates.
        identity: text that changes with weights and settings; None if unknown, then scores aren't stored.
    """

    name: str
    separator: MixtureSeparator | None = None
    identity: str | None = None


def evaluate(
    jobs: Sequence[Job],
    methods: Sequence[Method],
    *,
    oracles: Sequence[str] = (),
    metrics: Sequence[str] = DEFAULT_METRICS,
    bss: bool = True,
    workers: int = 1,
    engine: Engine | None = None,
    store: Store | None = None,
    fresh: bool = False,
    callback: Callback | None = None,
) -> Evaluation:
    """Score methods on the same tracks: the first with mixture and oracles, the others as its baselines.

    Args:
        jobs: from `plan_dataset` or `plan_files`.
        methods: at least one.
        oracles: names of `ORACLES` to score as baselines, beside the mixture.
        metrics: names of `METRICS`.
        bss: False leaves out the metrics of BSS Eval, which take longest.
        workers: number of processes, each of which holds one track at a time.
        engine: maps the tracks over workers, in place of such processes.
        store: scores of earlier runs; None to store nothing.
        fresh: compute the scores that are stored again.
        callback: receives `TrackStart`, `Progress`, `TrackDone` and `TrackFailed`.

    Raises:
        Cancelled: by the callback.
    """
    found: list[Evaluation] = []
    for method in methods:
        baselines = () if found else (MIXTURE, *dict.fromkeys(oracles))
        outcomes = score_tracks(
            jobs,
            method,
            ScoreOptions(baselines, tuple(metrics), bss),
            workers=workers,
            engine=engine,
            store=store,
            fresh=fresh,
            callback=callback if len(methods) == 1 else partial(_titled, method.name, callback),
        )
        found.append(Evaluation(method.name, tuple(outcomes)))
    return with_baselines(*found)


def _titled(title: str, callback: Callback | None, event: Event) -> bool | None:
    """Pass an event on with a title in front of its track's name."""
    if isinstance(event, (TrackStart, Progress, TrackDone, TrackFailed)):
        event = replace(event, input=f"{title}: {event.input}")
    return None if callback is None else callback(event)


def score_tracks(
    jobs: Sequence[Job],
    method: Method,
    options: ScoreOptions | None = None,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    store: Store | None = None,
    fresh: bool = False,
    callback: Callback | None = None,
) -> list[Outcome]:
    """Score one method on all tracks. A track that fails is recorded, and the others go on.

    Args:
        jobs: from `plan_dataset` or `plan_files`.
        method: the source of the estimates.
        options: baselines and metrics; None for the defaults.
        workers: number of processes, each of which holds one track at a time.
        engine: maps the tracks over workers, in place of such processes.
        store: scores of earlier runs; None to store nothing.
        fresh: compute the scores that are stored again.
        callback: as for `evaluate`.

    Returns:
        The outcomes in the order of the jobs.

    Raises:
        Cancelled: by the callback.
    """
    options = options or ScoreOptions()
    outcomes: dict[int, Outcome] = {}
    todo: list[_Item] = []
    for number, job in enumerate(jobs):
        key = store.key(job, method.identity, options) if store else None
        known = store.get(key) if store and key and not fresh else None
        if job.failure:
            outcomes[number] = _announced(Outcome(job.name, job.duration_s, failure=job.failure), callback)
        elif known is not None:
            outcomes[number] = _announced(Outcome(job.name, job.duration_s, known, reused=True), callback)
        else:
            todo.append(_Item(job, number, len(jobs), key))
    engine = engine or make_engine(max(1, min(workers, len(todo))))
    # Processes share the processor's cores.
    threads = max(1, torch.get_num_threads() // engine.count) if isinstance(engine, Processes) else None
    make = _WorkerFactory(method.separator, options, store, threads)
    with closing(engine.run(todo, make, callback)) as results:
        for item, result in zip(todo, results, strict=True):
            if isinstance(result, Exception):  # its worker process died
                failure = Failure.of(result, name_input=True)
                result = _announced(Outcome(item.job.name, item.job.duration_s, failure=failure), callback)
            elif store and item.key and result.scores and isinstance(engine, Ray):
                store.put(item.key, result.scores)  # the worker's store may be on another machine
            outcomes[item.number] = result
    return [outcomes[number] for number in range(len(jobs))]


def _announced(outcome: Outcome, callback: Callback | None) -> Outcome:
    if outcome.failure:
        emit(callback, TrackFailed(outcome.name, outcome.failure.code, outcome.failure.message))
    else:
        status = "skipped" if outcome.reused else "done"
        emit(callback, TrackDone(outcome.name, status, {}, outcome.wall_s))
    return outcome


class _Item(NamedTuple):
    """A job, its number counted from 0, the number of all jobs, and the key under which scores are stored."""

    job: Job
    number: int
    total: int
    key: str | None


@dataclass(frozen=True)
class _WorkerFactory:
    """Factory of workers that score items; picklable, so that other processes can make their own.

    Attributes:
        separator: separates the mixtures; None if every job has its own estimates.
        options: baselines and metrics.
        store: receives the scores of each track as soon as they are known.
        threads: torch's threads in the worker's process; None leaves them as they are.
    """

    separator: MixtureSeparator | None
    options: ScoreOptions
    store: Store | None
    threads: int | None

    def __call__(self) -> Worker[_Item, Outcome]:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        return self._work

    def _work(self, item: _Item, callback: Callback) -> Outcome:
        job, start = item.job, monotonic()
        emit(callback, TrackStart(job.name, item.number + 1, item.total, job.duration_s))
        outcome = Outcome(job.name, job.duration_s)
        try:
            outcome = replace(outcome, scores=self._scores(job, callback))
        except Cancelled:
            raise
        except Exception as error:  # the other tracks go on
            log.debug("%s", job.name, exc_info=error)
            outcome = replace(outcome, failure=Failure.of(error, name_input=True))
        if self.store and item.key and outcome.scores:
            self.store.put(item.key, outcome.scores)
        return _announced(replace(outcome, wall_s=monotonic() - start), callback)

    def _scores(self, job: Job, callback: Callback) -> Scores:
        if job.track is None:
            raise ValueError("a job without a track")
        if job.estimate is not None:
            return score_files(job.track, job.estimate, self.options)
        if self.separator is None:
            raise ValueError("a job without estimates needs something that separates")
        return score_separation(job.track, partial(_separated, self.separator, job, callback), self.options)


def _separated(
    separator: MixtureSeparator, job: Job, callback: Callback, mix: Tensor, sample_rate: int
) -> Mapping[str, Tensor]:
    """Return the stems [C, T] of a job's mixture [C, T], with the separator's progress as the track's."""

    def forward(event: Event) -> bool | None:
        if isinstance(event, Progress):
            event = replace(event, input=job.name, total_s=job.duration_s)
        return callback(event)

    before, separator.callback = separator.callback, forward
    try:
        stems = separator.separate(mix.numpy().copy(), sample_rate)  # a function may work in place
    finally:
        separator.callback = before
    return {stem: torch.from_numpy(audio) for stem, audio in stems.items()}

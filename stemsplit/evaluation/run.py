"""The scores of many tracks, computed by an engine and remembered."""

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

from stemsplit.datasets.names import MIXTURE
from stemsplit.engines import Engine, Processes, Worker, make_engine
from stemsplit.errors import Cancelled
from stemsplit.evaluation.outcome import Outcome
from stemsplit.evaluation.plan import Job
from stemsplit.evaluation.results import Evaluation, beside
from stemsplit.evaluation.score import Scores, Wanted, score_files, score_separation
from stemsplit.evaluation.store import Store
from stemsplit.events import Callback, Event, Progress, TrackDone, TrackFailed, TrackStart, emit
from stemsplit.outcome import Failure

log = logging.getLogger(__name__)
Array = npt.NDArray[np.float32]


class Separating(Protocol):
    """What separates mixtures, such as a `Separator`; picklable if several processes are to score.

    Attributes:
        callback: receives the `Progress` of every mixture.
    """

    callback: Callback | None

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        """Return the stems of a mixture, [C, T] each like the mixture itself."""
        ...


@dataclass(frozen=True)
class Method:
    """Where estimates come from.

    Attributes:
        name: in tables.
        separator: makes them of the mixtures; None where every job has its own.
        identity: what separates, down to its weights and settings; without it nothing is remembered.
    """

    name: str
    separator: Separating | None = None
    identity: str | None = None


def evaluate(
    jobs: Sequence[Job],
    methods: Sequence[Method],
    *,
    oracles: Sequence[str] = (),
    bss: bool = True,
    workers: int = 1,
    engine: Engine | None = None,
    store: Store | None = None,
    fresh: bool = False,
    callback: Callback | None = None,
) -> Evaluation:
    """Score methods on the same tracks, the first with the baselines, and the others beside it.

    Args:
        jobs: of `plan_dataset` or `plan_files`.
        methods: at least one.
        oracles: names of `ORACLES`, to be scored beside the mixture.
        bss: also score what takes long, the metrics of BSS Eval.
        workers: processes, each of which holds one track at a time.
        engine: what maps the tracks over workers, in place of such processes.
        store: where scores are remembered; None for nowhere.
        fresh: compute also what is remembered.
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
            Wanted(baselines, bss),
            workers=workers,
            engine=engine,
            store=store,
            fresh=fresh,
            callback=callback if len(methods) == 1 else partial(_titled, method.name, callback),
        )
        found.append(Evaluation(method.name, tuple(outcomes)))
    return beside(*found)


def _titled(title: str, callback: Callback | None, event: Event) -> bool | None:
    """Pass an event on with a title before its track's name."""
    if isinstance(event, (TrackStart, Progress, TrackDone, TrackFailed)):
        event = replace(event, input=f"{title}: {event.input}")
    return None if callback is None else callback(event)


def score_tracks(
    jobs: Sequence[Job],
    method: Method,
    wanted: Wanted | None = None,
    *,
    workers: int = 1,
    engine: Engine | None = None,
    store: Store | None = None,
    fresh: bool = False,
    callback: Callback | None = None,
) -> list[Outcome]:
    """Score one method on all tracks. What fails is recorded, the others go on.

    Args:
        jobs: of `plan_dataset` or `plan_files`.
        method: what makes the estimates.
        wanted: baselines and metrics; None for the usual ones.
        workers: processes, each of which holds one track at a time.
        engine: what maps the tracks over workers, in place of such processes.
        store: where scores are remembered; None for nowhere.
        fresh: compute also what is remembered.
        callback: as for `evaluate`.

    Returns:
        In the order of the jobs.

    Raises:
        Cancelled: by the callback.
    """
    wanted = wanted or Wanted()
    outcomes: dict[int, Outcome] = {}
    todo: list[_Item] = []
    for number, job in enumerate(jobs):
        key = store.key(job, method.identity, wanted) if store else None
        known = store.get(key) if store and key and not fresh else None
        if job.failure:
            outcomes[number] = _announced(Outcome(job.name, job.duration_s, failure=job.failure), callback)
        elif known is not None:
            outcomes[number] = _announced(Outcome(job.name, job.duration_s, known, reused=True), callback)
        else:
            todo.append(_Item(job, number, len(jobs), key))
    engine = engine or make_engine(max(1, min(workers, len(todo))))
    share = max(1, torch.get_num_threads() // engine.count) if isinstance(engine, Processes) else None
    with closing(engine.run(todo, _Recipe(method.separator, wanted, store, share), callback)) as results:
        for item, result in zip(todo, results, strict=True):
            if isinstance(result, Exception):  # its worker is gone
                failure = Failure.of(result, name_input=True)
                result = _announced(Outcome(item.job.name, item.job.duration_s, failure=failure), callback)
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
    """A job, which of how many it is, and the key to keep its scores under."""

    job: Job
    number: int
    total: int
    key: str | None


@dataclass(frozen=True)
class _Recipe:
    """Makes a worker that scores items.

    Attributes:
        separator, wanted: as of a method and for the scores.
        store: where the scores are kept as soon as they are known.
        threads: of torch in the worker's process; None leaves them as they are.
    """

    separator: Separating | None
    wanted: Wanted
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
        except Exception as error:  # one bad track doesn't end the others
            log.debug("%s", job.name, exc_info=error)
            outcome = replace(outcome, failure=Failure.of(error, name_input=True))
        if self.store and item.key and outcome.scores:
            self.store.put(item.key, outcome.scores)
        return _announced(replace(outcome, wall_s=monotonic() - start), callback)

    def _scores(self, job: Job, callback: Callback) -> Scores:
        if job.track is None:
            raise ValueError("a job without a track")
        if job.estimate is not None:
            return score_files(job.track, job.estimate, self.wanted)
        if self.separator is None:
            raise ValueError("a job without estimates needs something that separates")
        return score_separation(job.track, partial(_separated, self.separator, job, callback), self.wanted)


def _separated(
    separator: Separating, job: Job, callback: Callback, mix: Tensor, sample_rate: int
) -> Mapping[str, Tensor]:
    """Return the stems of a job's mixture, telling of the progress as the track's."""

    def tell(event: Event) -> bool | None:
        if isinstance(event, Progress):
            event = replace(event, input=job.name, total_s=job.duration_s)
        return callback(event)

    before, separator.callback = separator.callback, tell
    try:
        found = separator.separate(mix.numpy(), sample_rate)
    finally:
        separator.callback = before
    return {stem: torch.from_numpy(audio) for stem, audio in found.items()}

"""The result of an evaluation: scores of all tracks, summary over songs, JSON, and rows for tables and CSV.

`run.evaluate` returns an `Evaluation`; the command prints and writes it.
"""

import csv
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from stemsplit import __version__
from stemsplit.evaluation.outcome import Outcome
from stemsplit.evaluation.score import Table
from stemsplit.evaluation.table import DEFAULT_METRICS, METRICS, OVER_SONGS, OverSongs, ordered
from stemsplit.evaluation.verdict import Gain, gains
from stemsplit.outcome import SCHEMA, exit_code

MEAN: OverSongs = "mean"
COLUMNS = ("scope", "track", "method", "stem")


@dataclass(frozen=True)
class Row:
    """One line of a table: the metrics of one stem, of one track or over all of them.

    Attributes:
        track: the track's name; None for the summary over all tracks.
        method: the model, estimates or baseline that is scored.
        stem: the stem, or `mean` over all stems.
        metrics: scores by metric.
    """

    track: str | None
    method: str
    stem: str
    metrics: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        method: the name of the model that is scored, or the folder of the estimates.
        outcomes: one for every track.
    """

    method: str
    outcomes: tuple[Outcome, ...]

    @property
    def exit_code(self) -> int:
        """The exit code, see `outcome.exit_code`; a track may have both scores and a failure."""
        failures = [outcome.failure for outcome in self.outcomes]
        return exit_code([*failures, *(None for outcome in self.outcomes if outcome.scores)])

    def tables(self) -> dict[str, Sequence[Table]]:
        """Return each method's tables of all tracks, those of the evaluated method first."""
        scores = [outcome.scores for outcome in self.outcomes if outcome.scores]
        names = dict.fromkeys(name for one in scores for name in one.baselines)
        others = {n: [one.baselines[n] for one in scores if n in one.baselines] for n in names}
        return {self.method: [one.stems for one in scores], **others}

    def metrics(self) -> tuple[str, ...]:
        """Return the names of the metrics that were computed; the default ones if no track has scores."""
        rows = [row for tables in self.tables().values() for table in tables for row in table.values()]
        return ordered({name for row in rows for name in row}) or DEFAULT_METRICS

    def summary(self) -> dict[str, Table]:
        """Return each method's table over all tracks: the mean or median over songs, as `METRICS` says."""
        return {method: _over_songs(tables) for method, tables in self.tables().items()}

    def verdict(self) -> list[Gain]:
        """Return what the method gains over the best other model, by metric and stem; none without one."""
        return [gain for metric in self.metrics() for gain in gains(self, metric)]

    def track_rows(self) -> Iterator[Row]:
        """Yield the rows of each track's tables, in order."""
        for outcome in self.outcomes:
            if outcome.scores:
                for method, table in {self.method: outcome.scores.stems, **outcome.scores.baselines}.items():
                    yield from _rows(outcome.name, method, table)

    def summary_rows(self) -> Iterator[Row]:
        """Yield the rows of the summary, with the mean over the stems if there are several."""
        for method, table in self.summary().items():
            yield from _rows(None, method, table)
            if len(table) > 1:
                yield Row(None, method, MEAN, _over_stems(table))

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON-ready data; undefined and infinite scores are None."""
        summary = self.summary()
        own = summary.pop(self.method)
        return {
            "schema": SCHEMA,
            "version": __version__,
            "method": self.method,
            "tracks": [_track(outcome) for outcome in self.outcomes],
            "summary": {
                "stems": _clean(own),
                "mean": _clean({MEAN: _over_stems(own)})[MEAN],
                "baselines": {name: _clean(table) for name, table in summary.items()},
                "over_songs": {name: METRICS[name].over_songs for name in self.metrics()},
                "tracks": sum(outcome.scores is not None for outcome in self.outcomes),
                "verdict": [asdict(gain) | {"pays": gain.pays} for gain in self.verdict()],
                "failed": sum(outcome.failure is not None for outcome in self.outcomes),
            },
        }

    def as_csv(self) -> str:
        """Return all rows as CSV with a header; undefined scores are empty."""
        text, metrics = io.StringIO(), self.metrics()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*COLUMNS, *metrics])
        for row in [*self.track_rows(), *self.summary_rows()]:
            values = (row.metrics.get(metric, math.nan) for metric in metrics)
            cells = ("" if math.isnan(value) else f"{value:.5f}" for value in values)
            scope = "summary" if row.track is None else "track"
            writer.writerow([scope, row.track or "", row.method, row.stem, *cells])
        return text.getvalue()


def with_baselines(first: Evaluation, *others: Evaluation) -> Evaluation:
    """Return the first evaluation with others of the same tracks as baselines, named by their methods."""
    outcomes = first.outcomes
    for other in others:
        pairs = zip(outcomes, other.outcomes, strict=True)
        outcomes = tuple(_with_baseline(own, other.method, added) for own, added in pairs)
    return replace(first, outcomes=outcomes)


def _with_baseline(own: Outcome, method: str, more: Outcome) -> Outcome:
    """Return a track's outcome with another method's scores as a baseline, or with that method's failure."""
    failure = own.failure
    if failure is None and more.failure is not None:
        failure = replace(more.failure, message=f"{method}: {more.failure.message}")
    if own.scores is None or more.scores is None:
        return replace(own, failure=failure)
    findings = [f"{one.stem} {one.message}" for one in more.scores.findings if one not in own.scores.findings]
    notes = [note for note in more.scores.notes if note not in own.scores.notes]
    scores = replace(
        own.scores,
        baselines={**own.scores.baselines, method: more.scores.stems},
        notes=(*own.scores.notes, *(f"{method}: {remark}" for remark in (*findings, *notes))),
    )
    return replace(own, scores=scores, failure=failure)


def _rows(track: str | None, method: str, table: Table) -> Iterator[Row]:
    return (Row(track, method, stem, metrics) for stem, metrics in table.items())


def _over_songs(tables: Sequence[Table]) -> Table:
    stems = dict.fromkeys(stem for table in tables for stem in table)
    return {
        stem: {
            metric: _over([table[stem][metric] for table in having], METRICS[metric].over_songs)
            for metric in METRICS
            if (having := [table for table in tables if metric in table.get(stem, {})])
        }
        for stem in stems
    }


def _over_stems(table: Table) -> dict[str, float]:
    metrics = dict.fromkeys(metric for row in table.values() for metric in row)
    return {
        metric: _over((row[metric] for row in table.values() if metric in row), MEAN) for metric in metrics
    }


def _over(values: Iterable[float], how: OverSongs) -> float:
    return float(OVER_SONGS[how](torch.tensor(list(values), dtype=torch.float64)))


def _track(outcome: Outcome) -> dict[str, Any]:
    scores, failure = outcome.scores, outcome.failure
    return {
        "name": outcome.name,
        "duration_s": outcome.duration_s,
        "stems": _clean(scores.stems) if scores else {},
        "baselines": {name: _clean(table) for name, table in scores.baselines.items()} if scores else {},
        "findings": [asdict(finding) for finding in scores.findings] if scores else [],
        "notes": list(scores.notes) if scores else [],
        "error": {"code": failure.code, "message": failure.message} if failure else None,
    }


def _clean(table: Table) -> dict[str, dict[str, float | None]]:
    return {
        stem: {metric: value if math.isfinite(value) else None for metric, value in row.items()}
        for stem, row in table.items()
    }

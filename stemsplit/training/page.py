"""The page of a training run: one HTML file without scripts or links, with curves of losses and scores."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import isfinite, log10
from typing import Any

from stemsplit.evaluation.page import document, table
from stemsplit.evaluation.table import METRICS

_WIDTH, _HEIGHT, _MARGIN = 860, 240, 70  # of a plot, in pixels
_COLOURS = ("#37c", "#d62", "#293", "#a3a", "#b90", "#099", "#c36", "#777")

Points = list[tuple[int, float]]  # of a curve: steps and values
Record = Mapping[str, Any]  # a line of metrics.jsonl


def as_html(name: str, records: Sequence[Record], metric: str) -> str:
    """Return the page of a run.

    Args:
        name: of the run.
        records: the lines of its metrics.jsonl.
        metric: name of the validation's metric.
    """
    title = METRICS[metric].title if metric in METRICS else metric
    scores = [record for record in records if record.get("valid")]
    parts = [
        "<h2>Loss</h2>",
        plot(_named(records, "loss_by_stem") | _named(records, "loss"), logarithmic=True),
    ]
    if scores:
        best = scores[-1]["best"]
        candidate = best["candidate"] or next(iter(scores[-1]["valid"]))
        parts += [
            f"<h2>Validation: {escape(title)}</h2>",
            f"<p>{escape(_verdict(best))}</p>",
            "<h3>Mean over stems, by candidate</h3>",
            plot(_curves((r["step"], {c: row["mean"] for c, row in r["valid"].items()}) for r in scores)),
            f"<h3>Stems, {escape(candidate)} weights</h3>",
            plot(_curves((r["step"], r["valid"].get(candidate, {})) for r in scores)),
        ]
    parts += ["<h2>Learning rate</h2>", plot(_named(records, "lr")), "<h2>Epochs</h2>", _epochs(records)]
    return document(f"Training of {name}", *parts)


def _verdict(best: Record) -> str:
    if best["score"] is None:
        return "No validation gave a score."
    return f"Best: {best['score']:.2f} with {best['candidate']} weights after {best['step']} steps."


def _named(records: Iterable[Record], key: str) -> dict[str, Points]:
    """Return the curves of a key, whose values are numbers, or numbers by name."""
    found = ((record["step"], record[key]) for record in records if key in record)
    return _curves((step, value if isinstance(value, Mapping) else {key: value}) for step, value in found)


def _curves(values: Iterable[tuple[int, Mapping[str, float | None]]]) -> dict[str, Points]:
    """Return curves by name from steps and values by name; what has no value leaves a gap."""
    curves: dict[str, Points] = {}
    for step, row in values:
        for name, value in row.items():
            if value is not None and isfinite(value):
                curves.setdefault(name, []).append((step, value))
    return curves


def _epochs(records: Sequence[Record]) -> str:
    titles = ("epoch", "step", "loss", "best score", "seconds")
    rows = [
        (
            str(record["epoch"]),
            str(record["step"]),
            _number(record.get("loss")),
            _number((record.get("best") or {}).get("score")),
            _number(record.get("wall_s")),
        )
        for record in records
    ]
    return table(titles, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


# ---------------------------------------------------------------- plots


def plot(curves: Mapping[str, Points], *, logarithmic: bool = False) -> str:
    """Return an SVG of curves on common axes, with a legend.

    Args:
        curves: by name.
        logarithmic: show logarithms, if all values are positive.
    """
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return "<p>There are no values yet.</p>"
    logarithmic = logarithmic and min(value for _, value in points) > 0
    place = _Axes([step for step, _ in points], [value for _, value in points], logarithmic)
    height = _HEIGHT + 20 * len(curves)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">']
    parts += place.labels()
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        parts += _curve(name, [(place.x(step), place.y(value), step, value) for step, value in curve], colour)
        y = _HEIGHT + 20 * number + 10
        parts.append(f'<path d="M{_MARGIN} {y}h24" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{_MARGIN + 32}" y="{y + 4}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>"])


class _Axes:
    """Places of steps and values in a plot, in pixels."""

    def __init__(self, steps: Sequence[int], values: Sequence[float], logarithmic: bool) -> None:
        self.logarithmic = logarithmic
        self.first, self.last = min(steps), max(steps)
        self.low, self.high = min(values), max(values)

    def x(self, step: int) -> float:
        return _MARGIN + (step - self.first) / ((self.last - self.first) or 1) * (_WIDTH - _MARGIN - 20)

    def y(self, value: float) -> float:
        low, high, at = (log10(v) if self.logarithmic else v for v in (self.low, self.high, value))
        return _HEIGHT - 30 - (at - low) / ((high - low) or 1) * (_HEIGHT - 50)

    def labels(self) -> list[str]:
        """Return the least and the greatest of both axes, as text."""
        ends = dict.fromkeys((self.low, self.high))
        values = [f'<text x="0" y="{self.y(value) + 4:.1f}">{value:.4g}</text>' for value in ends]
        steps = [
            f'<text x="{self.x(step):.1f}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{step}</text>'
            for step, anchor in {self.last: "end", self.first: "start"}.items()
        ]
        return [*values, *steps]


def _curve(name: str, points: Sequence[tuple[float, float, int, float]], colour: str) -> list[str]:
    """Return a line through points (x, y, step, value), and a dot with a title for each."""
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)
    dots = [
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">'
        f"<title>{escape(name)}, step {step}: {value:.4g}</title></circle>"
        for x, y, step, value in points
    ]
    return [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>', *dots]

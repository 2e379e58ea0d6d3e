"""The page of an evaluation: one HTML file without scripts or links, with box plots, tables and findings.

`training.page` makes its page of the same parts.
"""

import math
from collections.abc import Iterable, Sequence
from html import escape

import torch

from stemsplit.evaluation.results import Evaluation, Row
from stemsplit.evaluation.table import METRICS
from stemsplit.evaluation.verdict import HEADS

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70em; margin: 2em auto; padding: 0 1em }
:root { color-scheme: light dark }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .1em .8em; text-align: right }
th { border-bottom: 1px solid } th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left }
svg text { font: 12px system-ui, sans-serif; fill: currentColor }
"""
_LABEL, _WIDTH, _ROW = 240, 860, 26  # of plots, in pixels


def as_html(evaluation: Evaluation) -> str:
    """Return the page: for each metric a plot of the tracks' scores, then all scores, then the findings."""
    metrics, tracks, summary = evaluation.metrics(), [*evaluation.track_rows()], [*evaluation.summary_rows()]
    plots = [f"<h3>{escape(METRICS[name].title)}</h3>\n{_plot(tracks, name)}" for name in metrics]
    remarks = [f"<li>{escape(remark)}</li>" for remark in _remarks(evaluation)]
    return document(
        f"Scores of {evaluation.method}",
        "<h2>All tracks</h2>",
        _table(summary, metrics),
        *_verdict(evaluation),
        "<p>A dot is a track, a box the middle half of the tracks, the line in it their median.</p>",
        *plots,
        "<h2>Each track</h2>",
        _table(tracks, metrics),
        *(["<h2>Findings</h2>\n<ul>", *remarks, "</ul>"] if remarks else []),
    )


def document(title: str, *parts: str) -> str:
    """Return a page that needs no other file.

    Args:
        title: as plain text.
        parts: the body, as HTML.
    """
    title = escape(title)
    head = f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>"
    return "\n".join(['<!doctype html>\n<html lang="en"><meta charset="utf-8">', head, *parts, "</html>\n"])


def _remarks(evaluation: Evaluation) -> Iterable[str]:
    """Yield failures, findings and notes of all tracks."""
    for outcome in evaluation.outcomes:
        if outcome.failure:
            yield f"{outcome.name}: {outcome.failure.message}"
        if outcome.scores:
            for finding in outcome.scores.findings:
                yield f"{outcome.name}: {finding.stem} {finding.message}"
            yield from (f"{outcome.name}: {note}" for note in outcome.scores.notes)


def _verdict(evaluation: Evaluation) -> Iterable[str]:
    """Yield the table that says whether the method pays beside the best other model; none without one."""
    if rows := [gain.cells for gain in evaluation.verdict()]:
        yield f"<p>Does {escape(evaluation.method)} pay, beside the best other model of each stem?</p>"
        yield table(HEADS, rows)


def _table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    titles = ("track", "method", "stem", *(METRICS[name].title for name in metrics))
    lines = []
    for row in rows:
        values = (row.metrics.get(name, math.nan) for name in metrics)
        scores = ("" if math.isnan(value) else f"{value:.2f}" for value in values)
        lines.append((row.track or "all", row.method, row.stem, *scores))
    return table(titles, lines)


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table as HTML; its cells are plain text."""
    return "\n".join(["<table>", _line("th", titles), *(_line("td", row) for row in rows), "</table>"])


def _line(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


# ---------------------------------------------------------------- plots


def _plot(rows: Sequence[Row], metric: str) -> str:
    """Return an SVG with a box plot for each stem and method, on one axis."""
    groups: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in rows:
        value = row.metrics.get(metric, math.nan)
        if math.isfinite(value):
            groups.setdefault((row.stem, row.method), []).append((row.track or "", value))
    if not groups:
        return "<p>No track has this score.</p>"
    values = [value for group in groups.values() for _, value in group]
    low, high = min(values), max(values)
    scale = (_WIDTH - _LABEL - 20) / ((high - low) or 1)
    height = _ROW * (len(groups) + 1)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" role="img">']
    for number, ((stem, method), group) in enumerate(sorted(groups.items())):
        y = _ROW * number + _ROW // 2
        parts.append(f'<text x="0" y="{y + 4}">{escape(stem)}, {escape(method)}</text>')
        parts += _box([(name, _LABEL + 10 + (value - low) * scale, value) for name, value in group], y)
    for x, value, anchor in ((_LABEL + 10, low, "start"), (_WIDTH - 10, high, "end")):
        parts.append(f'<text x="{x}" y="{height - 8}" text-anchor="{anchor}">{value:.2f}</text>')
    return "\n".join([*parts, "</svg>"])


def _box(points: Sequence[tuple[str, float, float]], y: int) -> list[str]:
    """Return the box of points (name, x, value), its median, and the points over it."""
    places = torch.tensor([x for _, x, _ in points], dtype=torch.float64)
    first, middle, third = torch.quantile(places, places.new_tensor([0.25, 0.5, 0.75])).tolist()
    box = (
        f'<rect x="{first:.1f}" y="{y - 7}" width="{third - first:.1f}" height="14" '
        'fill="#8884" stroke="#888"/>'
    )
    median = f'<path d="M{middle:.1f} {y - 7}v14" stroke="currentColor" stroke-width="2"/>'
    dots = [
        f'<circle cx="{x:.1f}" cy="{y}" r="3" fill="#37c9">'
        f"<title>{escape(name)}: {value:.2f}</title></circle>"
        for name, x, value in points
    ]
    return [box, median, *dots]

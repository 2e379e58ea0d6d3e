"""Tables and JSON of models, for `stemsplit models list` and `info`."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemsplit.hub.entries import ModelSpec

HEADS = ("NAME", "STEMS", "SIZE", "LICENCE", "SCORE", "CACHED")
LONGEST_STEMS = 34  # characters of the column of stems in a list of many models


def print_table(specs: Sequence["ModelSpec"], stem: str | None, *, by_task: bool) -> Iterator[str]:
    """Yield the lines of a table of models.

    Args:
        specs: the models.
        stem: show the score of this stem rather than of all stems.
        by_task: group the models by task; lines are cut to the width of a terminal.
    """
    rows = [_row(spec, stem) for spec in specs]
    if by_task:
        rows = [(row[0], _cut(row[1], LONGEST_STEMS), *row[2:]) for row in rows]
    widths = [max(map(len, column)) for column in zip(HEADS, *rows, strict=True)]
    limit = shutil.get_terminal_size().columns if by_task and sys.stdout.isatty() else None
    yield _line(HEADS, widths, limit)
    task = None
    for spec, row in zip(specs, rows, strict=True):
        if by_task and spec.task != task:
            task = spec.task
            yield f"\n{task or 'other'}:"
        yield _line(row, widths, limit)


def _line(row: Sequence[str], widths: Sequence[int], limit: int | None) -> str:
    line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    return line if limit is None else _cut(line, limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _row(spec: "ModelSpec", stem: str | None) -> tuple[str, ...]:
    score = spec.score(stem)
    published = "" if score is None or spec.scores is None else f"{score:.2f} dB {spec.scores.metric}"
    size = size_of(spec)
    return (
        spec.name,
        " ".join(spec.all_stems),
        "" if size is None else "none" if size == 0 else f"{size / 1e6:.0f} MB",
        spec.license,
        published if not spec.reason else "can't be run",
        "yes" if _cached(spec) else "no",
    )


def size_of(spec: "ModelSpec") -> int | None:
    """Return the bytes of all files together, exact or about; None if the size of one is unknown."""
    files = _files(spec)
    sizes = [file.size if file.about_mb is None else file.about_mb * 1_000_000 for file in files]
    known = [size for size in sizes if size is not None]
    return sum(known) if len(known) == len(files) and (known or not spec.reason) else None


def _files(spec: "ModelSpec") -> list[Any]:
    from stemsplit.hub.registry import members

    return [] if spec.reason else [file for member in members(spec) for file in member.files]


def _cached(spec: "ModelSpec") -> bool:
    from stemsplit.hub.manage import is_here

    return not spec.reason and is_here(spec)


def entry_of(spec: "ModelSpec") -> dict[str, Any]:
    """Return everything that is known about a model as JSON-ready data."""
    from stemsplit.hub.records import grade_of, pinned

    files, scores = _files(spec), spec.scores
    grades = [grade_of(file) for file in files]
    return {
        "name": spec.name,
        "aliases": list(spec.aliases),
        "task": spec.task,
        "family": spec.family,
        "recipe": [asdict(step) for step in spec.recipe.steps] if spec.recipe else None,
        "stems": list(spec.all_stems),
        "sample_rate": spec.sample_rate,
        "size": size_of(spec),
        "license": spec.license,
        "license_note": spec.license_note,
        "license_source": spec.license_source,
        "license_date": spec.license_date,
        "verification": _weakest(grades),
        "runnable": not spec.reason,
        "reason": spec.reason or None,
        "paper": spec.paper,
        "note": spec.note,
        "scores": None
        if scores is None
        else {"metric": scores.metric, "data": scores.data, "all": scores.all, **scores.stems},
        "cached": _cached(spec),
        "config": list(_addresses(spec.config)),
        "files": [
            {"name": file.name, "url": file.url, "sha256": pinned(file).sha256, "size": file.size}
            for file in files
        ],
        "sources": [address for file in files for address in _addresses(file)],
    }


def _weakest(grades: Iterable[str | None]) -> str | None:
    """Return the weakest of the grades by which the files of a model are verified."""
    from stemsplit.hub.records import GRADES

    order: list[str | None] = [*GRADES, None]
    return max(grades, key=order.index, default="pinned")


def _addresses(file: Any) -> Iterator[str]:
    from stemsplit.hub.download import address, alternatives

    for one in alternatives(file) if file else ():
        if one.hub is not None:
            yield address(one)
        yield from one.urls
        if one.path is not None:
            yield one.path


def lines_of(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the description of a model; keys without a value are left out."""
    for key, value in entry.items():
        if value in (None, "", []):
            continue
        lines = _value_lines(key, value)
        yield f"{key.replace('_', ' ') + ':':<14} {lines[0]}"
        yield from (" " * 15 + line for line in lines[1:])


def _value_lines(key: str, value: Any) -> list[str]:
    from stemsplit.hub.records import GRADES

    match value:
        case dict():
            return [", ".join(f"{k} {v}" for k, v in value.items() if v is not None)]
        case [dict(), *_] if key == "recipe":
            return [_step(one) for one in value]
        case [dict(), *_]:
            return [f"{f['name']}  sha256 {f['sha256'] or 'unknown'}" for f in value]
        case list() if key in ("aliases", "config", "sources"):
            return value
        case list():
            return [" ".join(value)]
        case bool():
            return ["yes" if value else "no"]
        case int() if key == "size":
            return [f"{value / 1e6:.1f} MB"]
        case int() if key == "sample_rate":
            return [f"{value} Hz"]
        case str() if key == "verification":
            return [f"{value} ({GRADES.get(value, '')})"]  # type: ignore[call-overload]
    return str(value).strip().splitlines()


def _step(step: Mapping[str, Any]) -> str:
    name = f"{step['name']}: " if step["name"] else ""
    blend = f", blended by {step['blend']}" if len(step["models"]) > 1 else ""
    return f"{name}{' and '.join(map(str, step['models']))} on {step['input']}{blend}"

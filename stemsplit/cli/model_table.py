"""Tables and JSON of models, for `stemsplit models list` and `info`."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemsplit.hub.choose import Choice
    from stemsplit.hub.entries import ModelSpec, Scale

HEADS = ("NAME", "STEMS", "SIZE", "LICENCE", "", "CACHED")  # the fifth is the metric
LABELS = {"memory_mb": "memory"}
LONGEST_STEMS = 34  # characters of the column of stems in a list of many models


def print_table(specs: Sequence["ModelSpec"], choice: "Choice", *, by_task: bool) -> Iterator[str]:
    """Yield the lines of a table of models, and a line about their scores.

    All scores of the table are of one metric and one test set.

    Args:
        specs: the models.
        choice: what was asked for: the metric, and whose score is shown.
        by_task: group the models by task; lines are cut to the width of a terminal.
    """
    from stemsplit.hub.choose import scale_of, scales

    scale, counts = scale_of(specs, choice), scales(specs, choice.scored)
    rows = [_row(spec, choice.scored, scale) for spec in specs]
    if choice.narrow:
        rows = [(row[0], _cut(row[1], LONGEST_STEMS), *row[2:]) for row in rows]
    heads = tuple(head or (scale.metric if scale else "") for head in HEADS)
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    limit = shutil.get_terminal_size().columns if by_task and sys.stdout.isatty() else None
    yield _line(heads, widths, limit)
    task = None
    for spec, row in zip(specs, rows, strict=True):
        if by_task and spec.task != task:
            task = spec.task
            yield f"\n{task or 'other'}:"
        yield _line(row, widths, limit)
    others = sorted({one.metric for one in counts} - {scale.metric if scale else ""})
    more = f"; --by {'|'.join(others)} shows other scores" if others else ""
    if scale is not None:
        elsewhere = [one.data for one in counts if one.metric == scale.metric and one != scale]
        sets = f" ({len(elsewhere)} more test sets: models info)" if elsewhere else ""
        yield f"\n{scale.metric}: of {choice.scored or 'all stems'}, on {scale.data}{sets}{more}"
    elif choice.metric is not None:
        yield f"\nno model here has a published {choice.metric}{more}"


def _line(row: Sequence[str], widths: Sequence[int], limit: int | None) -> str:
    line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    return line if limit is None else _cut(line, limit)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _row(spec: "ModelSpec", stem: str | None, scale: "Scale | None") -> tuple[str, ...]:
    score = None if scale is None else spec.score(stem, scale)
    size = size_of(spec)
    return (
        spec.name,
        " ".join(spec.all_stems),
        "" if size is None else "none" if size == 0 else f"{size / 1e6:.0f} MB",
        spec.license,
        "" if score is None else f"{score:.2f}",
        "can't be run" if spec.reason else "yes" if _cached(spec) else "no",
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
    from stemsplit.hub.costs import cost_of
    from stemsplit.hub.records import grade_of, pinned

    files = _files(spec)
    grades = [grade_of(file) for file in files]
    cost = cost_of(spec.family)  # a bag or a recipe, which takes more than one network, has no family
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
        "memory_mb": None if cost is None else cost.memory_mb,
        "speed": None if cost is None else cost.speed,
        "verification": _weakest(grades),
        "runnable": not spec.reason,
        "reason": spec.reason or None,
        "paper": spec.paper,
        "note": spec.note,
        "scores": [asdict(scores) for scores in spec.scores],
        "cached": _cached(spec),
        "config": list(_addresses(spec.config)),
        "files": [
            {
                "name": file.name,
                "member": file.member or None,
                "url": file.url,
                "sha256": pinned(file).sha256,
                "size": file.size,
            }
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
        yield f"{LABELS.get(key, key).replace('_', ' ') + ':':<14} {lines[0]}"
        yield from (" " * 15 + line for line in lines[1:])


def _value_lines(key: str, value: Any) -> list[str]:
    from stemsplit.hub.records import GRADES

    match value:
        case dict():
            return [", ".join(f"{k} {v}" for k, v in value.items() if v is not None)]
        case [dict(), *_] if key == "recipe":
            return [_step(one) for one in value]
        case [dict(), *_] if key == "scores":
            return [_scores(one) for one in value]
        case [dict(), *_]:
            return [_file(one) for one in value]
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
        case int() if key == "memory_mb":
            return [f"about {value} MB with a usual network of its family"]
        case str() if key == "speed":
            return [f"{value} on a CPU (fast: twice real time on one core; slow: less than half of it)"]
        case str() if key == "verification":
            return [f"{value} ({GRADES.get(value, '')})"]  # type: ignore[call-overload]
    return str(value).strip().splitlines()


def _scores(scores: Mapping[str, Any]) -> str:
    values = {"all": scores["all"], **scores["stems"]}
    shown = ", ".join(f"{stem} {value:g}" for stem, value in values.items() if value is not None)
    source = f" ({scores['source']})" if scores["source"] else ""
    return f"{scores['metric']} on {scores['data']}: {shown}{source}"


def _file(file: Mapping[str, Any]) -> str:
    inside = f" ({file['member']})" if file["member"] else ""
    return f"{file['name']}{inside}  sha256 {file['sha256'] or 'unknown'}"


def _step(step: Mapping[str, Any]) -> str:
    name = f"{step['name']}: " if step["name"] else ""
    blend = f", blended by {step['blend']}" if len(step["models"]) > 1 else ""
    return f"{name}{' and '.join(map(str, step['models']))} on {step['input']}{blend}"

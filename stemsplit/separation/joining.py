"""Join the reports of shards, machines and runs that were started again into one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stemsplit.errors import InputError, SettingsError
from stemsplit.outcome import SCHEMA
from stemsplit.separation.report import STATUSES

_HEAD = ("schema", "version", "model", "device", "settings")


def join_reports(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Return several reports as one, JSON-ready.

    A track that stands in several reports has its last result, but a result done isn't replaced by skipped.
    Runs in one file came one after the other, so their times are added; files were made at the same time, so
    the longest counts.

    Args:
        paths: reports as JSON (`--report FILE`) or JSON Lines (`--report FILE.jsonl`).

    Raises:
        InputError: a file isn't a report.
        SettingsError: the reports are of different models or settings.
    """
    runs = [(Path(path), _read(Path(path))) for path in paths]
    if not runs:
        raise SettingsError("no report is given")
    first_path, first = next((path, found[0]) for path, found in runs if found)
    tracks: dict[str, Mapping[str, Any]] = {}
    for path, found in runs:
        for run in found:
            _require_same(first_path, first, path, run)
            for track in run["tracks"]:
                _add(tracks, track)
    wall_s = max(sum(float(run["summary"].get("wall_s") or 0) for run in found) for _, found in runs)
    counts = {status: sum(one["status"] == status for one in tracks.values()) for status in STATUSES}
    audio = sum(one.get("duration_s") or 0 for one in tracks.values() if one["status"] == "done")
    devices = dict.fromkeys(run["device"] for _, found in runs for run in found if run["device"])
    return {
        **{key: first[key] for key in _HEAD},
        "device": ", ".join(devices),
        "tracks": list(tracks.values()),
        "summary": {**counts, "wall_s": wall_s, "realtime": audio / wall_s if audio and wall_s else None},
    }


def _add(tracks: dict[str, Mapping[str, Any]], track: Mapping[str, Any]) -> None:
    before = tracks.get(track["input"])
    if before is None or not (before["status"] == "done" and track["status"] == "skipped"):
        tracks[track["input"]] = track


def _require_same(first_path: Path, first: Mapping[str, Any], path: Path, run: Mapping[str, Any]) -> None:
    for key in ("model", "settings"):
        if run[key] != first[key]:
            hint = "join the reports of one model and one set of options"
            raise SettingsError(f"{path}: has another {key.rstrip('s')} than {first_path}", hint=hint)


def _read(path: Path) -> list[dict[str, Any]]:
    """Return the runs that a file reports."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(path, "no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, getattr(error, "strerror", None) or "is not a report") from None
    try:
        return _checked([json.loads(text)])
    except ValueError:
        pass
    try:
        return _checked(_of_lines(text))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InputError(path, "is not a report", hint="stemsplit --report FILE writes one") from None


def _of_lines(text: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:  # half a line, of a run that was killed
            continue
        if "model" in content:
            runs.append({**content, "tracks": [], "summary": {}})
        elif "summary" in content:
            runs[-1]["summary"] = content["summary"]
        else:
            runs[-1]["tracks"].append(content)
    return runs


def _checked(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs if all have the parts of a report.

    Raises:
        ValueError: they haven't.
    """
    for run in runs:
        if not isinstance(run, dict) or not {*_HEAD, "tracks", "summary"} <= run.keys():
            raise ValueError("a part of a report is missing")
        if run["schema"] != SCHEMA:
            raise ValueError(f"schema {run['schema']}")
    if not runs:
        raise ValueError("no report")
    return runs

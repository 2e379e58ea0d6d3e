"""Songs, results and stems as JSON-ready data, with what their files say about how they were made."""

import json
from pathlib import Path
from typing import Any

from stemsplit.audio.decoding import AudioInfo
from stemsplit.audio.tags import read_settings
from stemsplit.errors import StemsplitError
from stemsplit.settings import DEFAULT_REQUEST
from stemsplit.stems import ACCOMPANIMENTS
from stemsplit.web.library import Library, Result, Song, Stem, id_of
from stemsplit.web.slices import Slices

# Settings of a result that are told if they aren't the default; those of its files' format are seen anyway
_TOLD = ("overlap", "shifts", "segment_s", "precision", "tta", "reduced", "start_s", "end_s")


def in_short(song: Song) -> dict[str, Any]:
    """Return a song for the list, without opening its files."""
    return {
        "id": song.id,
        "name": song.name,
        "folder": song.place.name,
        "has_original": song.source is not None,
        "results": [
            {"id": result.id, "folder": result.folder.name, "stems": [stem.name for stem in result.stems]}
            for result in song.results
        ],
    }


def in_full(song: Song, library: Library, slices: Slices) -> dict[str, Any]:
    """Return a song with the facts about all of its files."""
    original = None if song.source is None else _file(song.source, library, slices)
    return {
        **in_short(song),
        "original": original and {**original, "name": song.source.name if song.source else ""},
        "results": [_result(result, library, slices) for result in song.results],
    }


def _result(result: Result, library: Library, slices: Slices) -> dict[str, Any]:
    """Return a result with the rate of most of its stems; stems of another rate aren't played."""
    stems = [{**_file(stem.path, library, slices), "name": stem.name} for stem in result.stems]
    rates = [stem["sample_rate"] for stem in stems if stem["error"] is None]
    rate = max(set(rates), key=rates.count) if rates else None
    for stem in stems:
        if stem["error"] is None and stem["sample_rate"] != rate:
            stem["error"] = (
                f"has {stem['sample_rate']} Hz and the others {rate} Hz, so it isn't played with them"
            )
    silent = _derived([stem["name"] for stem in stems])
    return {
        "id": result.id,
        "folder": result.folder.name,
        "sample_rate": rate,
        "frames": max((stem["frames"] or 0 for stem in stems if stem["error"] is None), default=0),
        "stems": [{**stem, "derived": stem["name"] in silent} for stem in stems],
        "made": _made(result.stems[0], library),
        "mixture": result.mixture and _file(result.mixture, library, slices),
    }


def _file(path: Path, library: Library, slices: Slices) -> dict[str, Any]:
    """Return the facts about a file, or the reason why it can't be read."""
    facts: dict[str, Any] = {"id": id_of(path), "error": None, "file": path.name}
    try:
        info: AudioInfo = slices.info(library.inside(path))
    except StemsplitError as error:
        return {**facts, "error": error.reason, "sample_rate": None, "frames": None, "channels": None}
    except Exception as error:
        return {**facts, "error": str(error), "sample_rate": None, "frames": None, "channels": None}
    return {
        **facts,
        "sample_rate": info.sample_rate,
        "frames": info.frames,
        "estimated": info.estimated,
        "channels": info.channels,
        "codec": info.codec,
    }


def _derived(names: list[str]) -> set[str]:
    """Return the stems that are sums of others, so that a mix of all stems has nothing twice."""
    rests = {name for name in names if name.startswith("no_") or name in ACCOMPANIMENTS}
    parts = [name for name in names if name not in rests]
    if len(parts) == 1 and len(rests) == 1:
        (rest,) = rests
        if rest == f"no_{parts[0]}" or (parts[0] == "vocals" and rest in ACCOMPANIMENTS):
            return set()
    return rests if parts else set()


def _made(stem: Stem, library: Library) -> dict[str, Any] | None:
    """Return model and settings from the tag of a stem, None if it has none."""
    try:
        content = json.loads(read_settings(library.inside(stem.path)) or "")
        settings = content["settings"]
        known = {"model": str(content["model"]), "version": str(content["version"])}
    except Exception:
        return None
    default = {
        **vars(DEFAULT_REQUEST.chunks),
        **vars(DEFAULT_REQUEST.compute),
        **vars(DEFAULT_REQUEST.batch),
        **vars(DEFAULT_REQUEST.model),
    }
    told = {key: settings[key] for key in _TOLD if settings.get(key) not in (None, default.get(key))}
    return {**known, "settings": told}

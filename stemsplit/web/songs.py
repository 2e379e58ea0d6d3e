"""Songs, results and stems as JSON-ready data, with what their files say about how they were made."""

from pathlib import Path
from typing import Any

from stemsplit.audio.decoding import AudioInfo
from stemsplit.errors import StemsplitError
from stemsplit.settings import DEFAULT_REQUEST
from stemsplit.web.answers import ApiError
from stemsplit.web.library import Library
from stemsplit.web.results import Result, Song, Stem, id_of
from stemsplit.web.slices import Slices
from stemsplit.web.sums import derived, is_voice
from stemsplit.web.tagged import Tag

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
            {"id": result.id, "folder": result.label, "stems": [stem.name for stem in result.stems]}
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
    tags = {stem.name: _tag(stem, library) for stem in result.stems}
    sums = {name: tag.sum if tag else None for name, tag in tags.items()}
    silent = derived({stem["name"]: sums[stem["name"]] for stem in stems if stem["error"] is None})
    return {
        "id": result.id,
        "folder": result.label,
        "sample_rate": rate,
        "frames": max((stem["frames"] or 0 for stem in stems if stem["error"] is None), default=0),
        "stems": [
            {
                **stem,
                "derived": stem["name"] in silent,
                "voice": is_voice(stem["name"], sums[stem["name"]]),
            }
            for stem in stems
        ],
        "made": next((made for tag in tags.values() if (made := _made(tag))), None),
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


def _tag(stem: Stem, library: Library) -> Tag | None:
    try:
        return library.tags.of(library.inside(stem.path))
    except ApiError:
        return None


def _made(tag: Tag | None) -> dict[str, Any] | None:
    """Return model and settings from the tag of a stem, None if it has none or lacks them."""
    if tag is None or tag.model is None or tag.version is None:
        return None
    default = {
        **vars(DEFAULT_REQUEST.chunks),
        **vars(DEFAULT_REQUEST.compute),
        **vars(DEFAULT_REQUEST.batch),
        **vars(DEFAULT_REQUEST.model),
    }
    told = {key: value for key in _TOLD if (value := tag.settings.get(key)) not in (None, default.get(key))}
    return {"model": tag.model, "version": tag.version, "settings": told}

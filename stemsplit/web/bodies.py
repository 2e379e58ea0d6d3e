"""Bodies of requests as settings: of a separation, and of a mix to export."""

from collections.abc import Mapping
from typing import Any

from stemsplit.errors import SettingsError
from stemsplit.fields import collect
from stemsplit.formats import FORMATS
from stemsplit.settings import DEFAULT_QUALITY, QUALITIES, OutputSettings, Request
from stemsplit.stems import names_of
from stemsplit.web.answers import ApiError, number, text
from stemsplit.web.library import Library
from stemsplit.web.mixing import HIGHEST_DB, LOWEST_DB, Lane
from stemsplit.web.uploads import shortened

MOST_LANES = 64
_SEPARATION = {"model", "stems", "rest", "karaoke", "quality", "format", "bit_depth"}
_EXPORT = {"lanes", "name", "format", "bit_depth", "clip", "bitrate"}


def separation(body: Mapping[str, Any], base: Mapping[str, Any]) -> tuple[Request, dict[str, Any]]:
    """Return the settings of a separation, and the part of them to show.

    Args:
        body: the values that were sent; unknown keys are an error.
        base: settings of the server, by the name of their field.

    Raises:
        ApiError: a key is unknown or a value has the wrong type (400).
        SettingsError: a value is invalid, or the format holds all stems in one file.
    """
    given = {key: value for key, value in body.items() if value is not None}
    _refuse_unknown(given, _SEPARATION)
    quality = text(given, "quality", DEFAULT_QUALITY)
    if quality not in QUALITIES:
        raise ApiError(400, f"quality must be one of {', '.join(QUALITIES)}")
    for key in ("rest", "karaoke"):
        if not isinstance(given.get(key, False), bool):
            raise ApiError(400, f"{key} must be true or false")
    for key in ("model", "format", "bit_depth"):
        text(given, key, "")
    fields = {key: value for key, value in given.items() if key != "quality"}
    if "stems" in fields:
        fields["stems"] = names_of(fields["stems"])
    request = collect({**base, **fields}, Request, QUALITIES[quality])
    if FORMATS[request.output.format].together:  # the page knows folders of stems only
        hint = f"choose from {', '.join(name for name, form in FORMATS.items() if not form.together)}"
        raise SettingsError(
            f"format {request.output.format}: holds all stems in one file, which the page doesn't show",
            setting="format",
            hint=hint,
        )
    shown = {
        "model": request.model.model,
        "stems": request.stems.stems,
        "quality": quality,
        "format": request.output.format,
        "bit_depth": request.output.bit_depth if FORMATS[request.output.format].bit_depths else None,
    }
    return request, shown


def mix(body: Mapping[str, Any], library: Library) -> tuple[list[Lane], OutputSettings, str]:
    """Return lanes, format and file name of a mix to export.

    Raises:
        ApiError: a key is unknown, a value is invalid (400), or a stem isn't there (404).
        SettingsError: the format doesn't hold the bit depth, and the like.
    """
    given = {key: value for key, value in body.items() if value is not None}
    _refuse_unknown(given, _EXPORT)
    rows = given.pop("lanes", None)
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_LANES:
        raise ApiError(400, f"lanes must be a list of 1 to {MOST_LANES} stems")
    lanes = []
    for row in rows:
        if not isinstance(row, dict):
            raise ApiError(400, "a lane must be an object with id, gain_db and pan")
        path = library.file(text(row, "id"))
        gain_db = number(row, "gain_db", 0.0, LOWEST_DB, HIGHEST_DB)
        lanes.append(Lane(path, gain_db, number(row, "pan", 0.0, -1.0, 1.0)))
    name = text(given, "name", "mix")
    given.pop("name", None)
    try:
        settings = OutputSettings(**given)
    except TypeError as error:
        raise SettingsError(str(error)) from None
    form = FORMATS[settings.format]
    if form.together:
        raise SettingsError(f"format {form.name}: holds the stems of a song, not a mix", setting="format")
    return lanes, settings, f"{_file_name(name)}.{form.extension}"


def _refuse_unknown(given: Mapping[str, Any], known: set[str]) -> None:
    for key in given:
        if key not in known:
            raise ApiError(400, f"no setting named {key!r}", f"choose from {', '.join(sorted(known))}")


def _file_name(name: str) -> str:
    """Return a name without characters that file systems refuse, and no longer than they allow."""
    kept = "".join(c if c.isprintable() and c not in '/\\:*?"<>|' else "_" for c in name)
    return shortened(kept.strip(" .")).strip(" .") or "mix"

"""The models that the page offers."""

from time import monotonic
from typing import Any

from stemsplit.hub.access import PERMISSIVE, is_under
from stemsplit.hub.entries import ModelSpec
from stemsplit.hub.manage import is_here
from stemsplit.hub.registry import all_models, members

_KEPT_S = 5.0  # for which the list is kept: it looks for the files of every model


class Models:
    """The registry and the catalogue as JSON-ready data."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []
        self._until = 0.0

    def all(self) -> list[dict[str, Any]]:
        """Return all models: those of the registry, then the other ones."""
        if monotonic() > self._until:
            self._found = [_entry(spec) for spec in all_models()]
            self._until = monotonic() + _KEPT_S
        return self._found


def _entry(spec: ModelSpec) -> dict[str, Any]:
    scores = spec.scores[0] if spec.scores else None
    return {
        "name": spec.name,
        "kind": "preset" if spec.recipe else "bag" if spec.bag else "model",
        "task": spec.task or None,
        "aliases": list(spec.aliases),
        "stems": list(spec.all_stems),
        "size": _size(spec),
        "license": spec.license,
        "permissive": is_under(spec.license, PERMISSIVE),
        "license_note": spec.license_note,
        "score": None if scores is None or scores.all is None else scores.all,
        "metric": None if scores is None else scores.metric,
        "stem_scores": {} if scores is None else dict(scores.stems),
        "runnable": not spec.reason,
        "reason": spec.reason or None,
        "note": spec.note,
        "here": not spec.reason and is_here(spec),
    }


def _size(spec: ModelSpec) -> int | None:
    """Return the bytes of all files together; None if one is unknown."""
    total = 0
    for member in members(spec) if not spec.reason else ():
        for file in member.files:
            size = file.size if file.about_mb is None else file.about_mb * 1_000_000
            if size is None:
                return None
            total += size
    return total

"""The models that the page offers."""

from time import monotonic
from typing import Any

from stemsplit.hub.entries import ModelSpec
from stemsplit.hub.manage import is_cached
from stemsplit.hub.registry import list_models, members

_KEPT_S = 5.0  # for which the list is kept: it looks for the files of every model
# Licences that allow use, change and passing on, also in a product
_PERMISSIVE = ("mit", "bsd", "apache-2.0", "isc", "cc0", "cc-by-4.0", "cc-by-3.0")


class Models:
    """The registry as JSON-ready data."""

    def __init__(self) -> None:
        self._found: list[dict[str, Any]] = []
        self._until = 0.0

    def all(self) -> list[dict[str, Any]]:
        """Return all models, in the registry's order."""
        if monotonic() > self._until:
            self._found = [_entry(spec) for spec in list_models()]
            self._until = monotonic() + _KEPT_S
        return self._found


def _entry(spec: ModelSpec) -> dict[str, Any]:
    scores = spec.scores
    return {
        "name": spec.name,
        "kind": "preset" if spec.recipe else "bag" if spec.bag else "model",
        "task": getattr(spec, "task", None),
        "stems": list(spec.all_stems),
        "size": _size(spec),
        "license": spec.license,
        "permissive": spec.license.lower().startswith(_PERMISSIVE),
        "license_note": spec.license_note,
        "score": None if scores is None or scores.all is None else scores.all,
        "metric": None if scores is None else scores.metric,
        "stem_scores": {} if scores is None else dict(scores.stems),
        "runnable": getattr(spec, "runnable", True),
        "reason": getattr(spec, "reason", None),
        "note": spec.note,
        "here": is_cached(spec.name),
    }


def _size(spec: ModelSpec) -> int | None:
    """Return the bytes of all files together; None if one is unknown."""
    total = 0
    for member in members(spec):
        for file in member.files:
            size = file.size if file.about_mb is None else file.about_mb * 1_000_000
            if size is None:
                return None
            total += size
    return total

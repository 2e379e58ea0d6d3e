"""A network family's arguments as they are stored in a checkpoint, by this package and by demucs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from stemsplit.errors import StemsplitError

# Family by the class name in a demucs package; the names are only compared, never imported
KLASSES = {
    "demucs.htdemucs.HTDemucs": "htdemucs",
    "demucs.hdemucs.HDemucs": "hdemucs",
    "demucs.demucs.Demucs": "demucs",
    "demucs.model.Demucs": "demucs_v2",
    "demucs.tasnet.ConvTasNet": "tasnet",
}


def klass_of(family: str) -> str:
    """Return the class name to store for a family: demucs' own if demucs has the family."""
    for klass, name in KLASSES.items():
        if name == family:
            return klass
    return f"stemsplit.{family}"


def family_of(klass: str) -> str | None:
    """Return the family of a stored class name, None if it is unknown."""
    project, _, rest = klass.partition(".")
    return rest or None if project == "stemsplit" else KLASSES.get(klass)


def encode(arguments: Any) -> str:
    """Return a family's arguments as JSON, in the form that demucs reads."""
    return json.dumps(asdict(arguments), default=_fraction)


def decode(text: str) -> Any:
    """Return the arguments from JSON that `encode` or demucs wrote.

    Raises:
        ValueError: the text isn't JSON, or has a malformed fraction.
    """
    return json.loads(text, object_hook=_unfraction)


def named(family: str, positional: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Return constructor arguments by name, including those that a package stores by position.

    Raises:
        UnknownNameError: there is no such family.
        StemsplitError: there are more arguments than the family takes.
    """
    from stemsplit import models

    fields = tuple(models.family(family).Arguments.__dataclass_fields__)
    if len(positional) > len(fields):
        raise StemsplitError(f"more arguments than a {family} takes")
    return {**dict(zip(fields, positional, strict=False)), **keywords}


def _fraction(value: Any) -> dict[str, Any]:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    raise TypeError(f"{value!r} can't be stored in a checkpoint")


def _unfraction(value: dict[str, Any]) -> Any:
    if value.get("_type") != "fraction":
        return value
    return Fraction(int(value["numerator"]), int(value["denominator"]))

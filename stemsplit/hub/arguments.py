"""A family's arguments in a checkpoint: how they are written, and how other projects wrote them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fractions import Fraction
from typing import Any

from stemsplit.errors import StemsplitError

# What a package calls its class -> family. Names of other projects are looked up, never imported.
KLASSES = {
    "demucs.htdemucs.HTDemucs": "htdemucs",
    "demucs.hdemucs.HDemucs": "hdemucs",
    "demucs.demucs.Demucs": "demucs",
    "demucs.model.Demucs": "demucs_v2",
    "demucs.tasnet.ConvTasNet": "tasnet",
}


def klass_of(family: str) -> str:
    """The name that a family's packages carry: demucs' own where demucs has the family."""
    for klass, name in KLASSES.items():
        if name == family:
            return klass
    return f"stemsplit.{family}"


def family_of(klass: str) -> str | None:
    """The family that a package's class name means, None if none."""
    project, _, rest = klass.partition(".")
    return rest or None if project == "stemsplit" else KLASSES.get(klass)


def encode(arguments: Any) -> str:
    """A family's arguments as JSON, in the form that demucs reads."""
    return json.dumps(asdict(arguments), default=_fraction)


def decode(text: str) -> Any:
    """The inverse of `encode`.

    Raises:
        ValueError: not JSON, or a malformed fraction.
    """
    return json.loads(text, object_hook=_unfraction)


def named(family: str, positional: Sequence[Any], keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments by name, where a package holds some by position.

    Raises:
        UnknownNameError: there is no such family.
        StemsplitError: more arguments than the family takes.
    """
    from stemsplit import models

    fields = tuple(models.family(family).Arguments.__dataclass_fields__)
    if len(positional) > len(fields):
        raise StemsplitError(f"more arguments than a {family} takes")
    return {**dict(zip(fields, positional, strict=False)), **keywords}


def _fraction(value: Any) -> dict[str, Any]:
    if isinstance(value, Fraction):
        return {"_type": "fraction", "numerator": value.numerator, "denominator": value.denominator}
    raise TypeError(f"{value!r} has no place in a checkpoint")


def _unfraction(value: dict[str, Any]) -> Any:
    if value.get("_type") != "fraction":
        return value
    return Fraction(int(value["numerator"]), int(value["denominator"]))

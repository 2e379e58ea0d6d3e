"""Rules for single values of a configuration."""

from collections.abc import Mapping
from typing import TypeVar

from stemsplit.errors import SettingsError
from stemsplit.stems import canonical

T = TypeVar("T")


class Invalid(SettingsError):
    """A value without a meaning.

    Attributes:
        key: of the field, as in the file.
        rule: what it breaks.
    """

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(f"{key}: {rule}", setting=key)
        self.key, self.rule = key, rule


def above(key: str, value: float | None, limit: float) -> None:
    """Raise `Invalid` unless `value` is None or larger than `limit`."""
    if value is not None and not value > limit:
        raise Invalid(key, f"must be above {limit:g}, is {value:g}")


def at_least(key: str, value: float | None, limit: float) -> None:
    """Raise `Invalid` unless `value` is None, or `limit` or more."""
    if value is not None and not value >= limit:
        raise Invalid(key, f"must be at least {limit:g}, is {value:g}")


def fraction(key: str, value: float, *, one: bool = True) -> None:
    """Raise `Invalid` unless `value` is between 0 and 1; `one` says whether it may be 1."""
    if not (0 <= value <= 1 if one else 0 <= value < 1):
        raise Invalid(key, f"must be between 0 and 1{'' if one else ' (below 1)'}, is {value:g}")


def by_stem(key: str, values: Mapping[str, T]) -> dict[str, T]:
    """Return `values` by the canonical names of their stems; raise `Invalid` if two of these are the same."""
    found = {canonical(name): value for name, value in values.items()}
    if len(found) < len(values):
        raise Invalid(key, "names a stem twice")
    return found

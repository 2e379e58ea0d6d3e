"""Strict reading of a mapping from a YAML file: every key is asked for, every value has its type."""

from collections.abc import Iterator
from typing import Any, TypeVar, overload

from stemsplit.errors import SettingsError

T = TypeVar("T")
_REQUIRED: Any = object()


class Fields:
    """A mapping whose keys are taken one by one.

    Every method raises `SettingsError`, naming the place, when the value isn't what it must be.

    Args:
        content: what the file holds at this place.
        where: the place, for messages.
    """

    def __init__(self, content: Any, where: str) -> None:
        self.where = where
        self.require(isinstance(content, dict), "must be a mapping")
        self.left: dict[Any, Any] = dict(content)

    def require(self, good: bool, rule: str) -> None:
        """Refuse the mapping unless `good`."""
        if not good:
            raise SettingsError(f"{self.where}: {rule}", setting=self.where)

    def done(self) -> None:
        """Refuse keys that nobody asked for."""
        self.require(not self.left, f"unknown key {', '.join(map(str, self.left))}")

    @overload
    def text(self, key: str) -> str: ...
    @overload
    def text(self, key: str, default: T) -> str | T: ...
    def text(self, key: str, default: Any = _REQUIRED) -> Any:
        """A string."""
        return self._take(key, default, lambda v: isinstance(v, str), "text")

    @overload
    def number(self, key: str) -> float: ...
    @overload
    def number(self, key: str, default: T) -> float | T: ...
    def number(self, key: str, default: Any = _REQUIRED) -> Any:
        """A number that isn't negative."""
        value = self._take(key, default, _is_number, "a number, not below 0")
        return value if value is default else float(value)

    @overload
    def count(self, key: str) -> int: ...
    @overload
    def count(self, key: str, default: T) -> int | T: ...
    def count(self, key: str, default: Any = _REQUIRED) -> Any:
        """A positive whole number."""
        return self._take(key, default, lambda v: type(v) is int and v > 0, "a positive whole number")

    def digest(self, key: str) -> str | None:
        """A sha256 digest, or the first 8 digits or more of one."""
        value: str | None = self._take(
            key, None, _is_digest, "8 to 64 hexadecimal digits in quotes, in lower case"
        )
        return value

    def names(self, key: str, *, unique: bool = True) -> tuple[str, ...]:
        """A list of strings, all different if `unique`."""
        value = self._take(
            key,
            _REQUIRED,
            lambda v: isinstance(v, list) and bool(v) and all(isinstance(n, str) and n for n in v),
            "a list of names",
        )
        self.require(not unique or len(set(value)) == len(value), f"{key} names something twice")
        return tuple(value)

    def rows(self, key: str) -> tuple[tuple[float, ...], ...]:
        """A list of lists of numbers, empty if there is none."""
        value = self._take(
            key,
            [],
            lambda v: isinstance(v, list) and all(isinstance(r, list) and all(map(_is_number, r)) for r in v),
            "a list of lists of numbers, not below 0",
        )
        return tuple(tuple(map(float, row)) for row in value)

    def mapping(self, key: str) -> dict[str, Any]:
        """A mapping, empty if there is none."""
        value: dict[str, Any] = self._take(key, {}, lambda v: isinstance(v, dict), "a mapping")
        return value

    def fields(self, key: str) -> "Fields | None":
        """A mapping to be read as strictly as this one, or None."""
        content = self.left.pop(key, None)
        return None if content is None else Fields(content, f"{self.where}: {key}")

    def each(self, key: str) -> Iterator["Fields"]:
        """The mappings in a list."""
        value = self._take(key, [], lambda v: isinstance(v, list), "a list")
        for number, content in enumerate(value, 1):
            yield Fields(content, f"{self.where}: {key} {number}")

    def _take(self, key: str, default: Any, good: Any, what: str) -> Any:
        value = self.left.pop(key, None)
        if value is None:
            self.require(default is not _REQUIRED, f"{key} is missing")
            return default
        self.require(good(value), f"{key} must be {what}")
        return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and 8 <= len(value) <= 64 and set(value) <= set("0123456789abcdef")

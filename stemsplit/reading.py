"""Strict reader of plain data into frozen dataclasses; every error names file, line and key.

The dataclasses define the keys of a file and their types; missing keys have the dataclass's defaults.

    @dataclass(frozen=True)
    class Step:
        models: Names
        blend: Literal["avg_wave", "avg_fft"] = "avg_wave"

    step = read(Step, load("step.yaml"))
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import lru_cache
from math import inf, isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from stemsplit.documents import Document, Exponential, Keys
from stemsplit.errors import SettingsError

T = TypeVar("T")


class Invalid(SettingsError):
    """A value that breaks a rule.

    Attributes:
        key: the field's key, with dots for nested ones; empty for the whole mapping.
        rule: the rule that it breaks, such as "must be above 0, is -1".
    """

    def __init__(self, key: str, rule: str) -> None:
        super().__init__(f"{key}: {rule}" if key else rule, setting=key)
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
    """Raise `Invalid` unless `value` is between 0 and 1; `one` tells whether it may be 1."""
    if not (0 <= value <= 1 if one else 0 <= value < 1):
        raise Invalid(key, f"must be between 0 and 1{'' if one else ' (below 1)'}, is {value:g}")


@dataclass(frozen=True)
class Rule:
    """Rule for the values of an annotated type, such as `Count`.

    Attributes:
        words: completion of the sentence "must be …".
        holds: predicate on a value of the type.
    """

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Rule("a positive whole number", lambda value: value > 0)]
Number = Annotated[float, Rule("a number, not below 0", lambda value: value >= 0)]
Names = Annotated[tuple[str, ...], Rule("a list of names", lambda names: bool(names) and all(names))]
Rows = Annotated[
    tuple[tuple[Number, ...], ...], Rule("a list of lists of numbers, not below 0", lambda rows: True)
]


def read(kind: type[T], document: Document, keys: Keys = (), /, **given: Any) -> T:
    """Return the mapping at `keys` of a document as an instance of the dataclass `kind`.

    The dataclass may have a class method `from_yaml`, which converts the mapping of the file to one of the
    fields. `Invalid` and `SettingsError` from `__post_init__` get the file, line and key.

    Args:
        kind: the dataclass. Its fields may be text, numbers, booleans, `Literal`, `Annotated` with a `Rule`,
            tuples, mappings, dataclasses, unions of these that differ in form, and `Any`; `object` leaves
            the data to be read later.
        document: the document.
        keys: keys that lead to the mapping; none for the whole document.
        given: values of fields that aren't read from the file.

    Raises:
        SettingsError: a key is unknown or missing, or a value is invalid; the message names file, line, key.
    """
    data = document.data
    for key in keys:
        data = data[key]
    try:
        made: T = _dataclass(kind, data, keys, given)
    except _Fault as fault:
        raise document.error(fault.keys, fault.rule, fault.hint) from None
    return made


class _Fault(Exception):
    """A value at `keys` breaks a rule."""

    def __init__(self, keys: Keys, rule: str, hint: str | None = None) -> None:
        super().__init__(rule)
        self.keys, self.rule, self.hint = keys, rule, hint


class _Field(NamedTuple):
    """Field of a dataclass: its type, the types of data that need no conversion, and if it is required."""

    kind: Any
    plain: frozenset[type]
    required: bool


@lru_cache(maxsize=256)
def _fields(cls: Any) -> dict[str, _Field]:
    kinds, found = get_type_hints(cls, include_extras=True), {}
    for one in fields(cls):
        required = one.default is MISSING and one.default_factory is MISSING
        found[one.name] = _Field(kinds[one.name], _plain_types(kinds[one.name]), required)
    return found


def _plain_types(kind: Any) -> frozenset[type]:
    if kind in (str, int, bool, NoneType):
        return frozenset((kind,))
    arguments = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return frozenset().union(*map(_plain_types, arguments))


def _dataclass(cls: Any, data: Any, keys: Keys, given: Mapping[str, Any]) -> Any:
    values = _mapping_of(data, keys)
    try:
        if (prepare := getattr(cls, "from_yaml", None)) is not None:
            values = prepare(values)
        known = {name: one for name, one in _fields(cls).items() if name not in given}
        made = dict(given)
        _require_keys(known, values, keys)
        for key, value in values.items():
            field = known[key]
            made[key] = value if type(value) in field.plain else _value(field.kind, value, (*keys, key))
        return cls(**made)
    except Invalid as error:
        raise _Fault((*keys, *filter(None, error.key.split("."))), error.rule) from None
    except SettingsError as error:
        raise _Fault(keys, error.reason, error.hint) from None


def _require_keys(known: Mapping[str, _Field], values: Mapping[str, Any], keys: Keys) -> None:
    missing = [name for name, field in known.items() if field.required and name not in values]
    for key in values:
        # a missing key explains more than an unknown one that resembles no key
        if key not in known and (not missing or _did_you_mean(key, list(known))):
            raise _Fault((*keys, key), _unknown(key, list(known)))
    if missing:
        raise _Fault(keys, f"{missing[0]} is missing")


def _value(kind: Any, data: Any, keys: Keys) -> Any:
    """Convert plain data to a value of a field's type."""
    if kind is Any:
        return _with_numbers(data)
    if kind is object:
        return data
    if kind in _WORDS:
        return _scalar(kind, data, keys)
    if is_dataclass(kind):
        return _dataclass(kind, data, keys, {})
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1], data, keys)
    if origin in (Union, UnionType):
        return _union(arguments, data, keys)
    if origin is Literal:
        return _choice(data, keys, arguments)
    if origin is tuple:
        return _tuple(data, keys, arguments)
    return _dict(data, keys, *arguments)


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _scalar(kind: Any, data: Any, keys: Keys) -> Any:
    if isinstance(data, Exponential):
        data = str(data) if kind is str else float(data)
    if kind is float and type(data) is int:
        data = float(data) if abs(data) <= sys.float_info.max else inf
    if type(data) is not kind or (kind is float and not isfinite(data)):
        raise _Fault(keys, f"must be {_WORDS[kind]}, is {_described(data)}")
    return data


def _with_numbers(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _with_numbers(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return type(data)(map(_with_numbers, data))
    return float(data) if isinstance(data, Exponential) else data


def _annotated(kind: Any, rule: Rule, data: Any, keys: Keys) -> Any:
    try:
        value = _value(kind, data, keys)
        if rule.holds(value):
            return value
    except _Fault:
        pass
    shown = "" if isinstance(data, list | dict) else f", is {_described(data)}"
    raise _Fault(keys, f"must be {rule.words}{shown}")


def _union(kinds: Sequence[Any], data: Any, keys: Keys) -> Any:
    """Return a value of the first type that fits, or raise the fault with the deepest key."""
    if data is None and NoneType in kinds:
        return None
    faults = []
    for kind in (kind for kind in kinds if kind is not NoneType):
        try:
            return _value(kind, data, keys)
        except _Fault as fault:
            faults.append(fault)
    raise max(faults, key=lambda fault: len(fault.keys))


def _choice(data: Any, keys: Keys, options: Sequence[str]) -> Any:
    if data not in options:
        rule = f"must be one of {', '.join(options)}, is {_described(data)}"
        raise _Fault(keys, rule + _did_you_mean(data, options))
    return data


def _tuple(data: Any, keys: Keys, kinds: Sequence[Any]) -> tuple[Any, ...]:
    data = () if data is None else data  # a key without a value, whose items may be commented out
    if not isinstance(data, list | tuple):
        raise _Fault(keys, f"must be a list, is {_described(data)}")
    if kinds[-1] is ...:
        kinds = [kinds[0]] * len(data)
    if len(data) != len(kinds):
        raise _Fault(keys, f"must be a list of {len(kinds)}, has {len(data)}")
    pairs = zip(kinds, data, strict=True)
    return tuple(_value(kind, item, (*keys, str(i))) for i, (kind, item) in enumerate(pairs))


def _dict(data: Any, keys: Keys, key_kind: Any, kind: Any) -> dict[str, Any]:
    values = _mapping_of(data, keys)
    for key in values:
        if get_origin(key_kind) is Literal and key not in get_args(key_kind):
            raise _Fault((*keys, key), _unknown(key, get_args(key_kind)))
    return {key: _value(kind, own, (*keys, key)) for key, own in values.items()}


def _mapping_of(data: Any, keys: Keys) -> dict[str, Any]:
    data = {} if data is None else data  # a key without a value, whose items may be commented out
    if not isinstance(data, dict):
        raise _Fault(keys, f"must be keys with values, is {_described(data)}")
    return data


def _unknown(key: str, known: Sequence[str]) -> str:
    return "no such key" + _did_you_mean(key, known, f"; choose from {', '.join(known)}")


def _did_you_mean(word: Any, known: Sequence[str], otherwise: str = "") -> str:
    from difflib import get_close_matches

    near = get_close_matches(str(word).lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else otherwise


def _described(data: Any) -> str:
    names = {dict: "keys with values", list: "a list", tuple: "a list", NoneType: "empty"}
    return names.get(type(data), f"{data!r}" if isinstance(data, str) else str(data))

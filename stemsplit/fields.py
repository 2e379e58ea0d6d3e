"""Fields of the settings: declare them as options of a command, parse them from text, and check them.

`cli.options` turns the declarations into options. Errors name the flag, also when the settings are used from
Python.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass
from numbers import Integral, Real
from os import PathLike, fspath
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from stemsplit.errors import SettingsError

S = TypeVar("S")
_WORDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    NoneType: "None",
    Callable: "a function",
    Mapping: "a mapping",
}


@dataclass(frozen=True)
class Option:
    """Declaration of a field's option, beside the field's own name, type and default.

    Attributes:
        help: one sentence.
        flag: the long flag, or a pair such as --sequential/--lockstep; None derives it from the field's name,
            without the unit `_s`.
        short: the short flag.
        metavar: the placeholder of the value in the help.
        parse: function that parses the text or raises ValueError; None if the field's type is enough.
        default: the default in words, if the value doesn't explain itself.
        action: effect of repeating the option, in `argparse`'s words; None is "append" for tuples of any
            length, else "store".
        lines: whether an environment variable has one value per line, because values may have spaces.
    """

    help: str
    flag: str | None = None
    short: str | None = None
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    default: str | None = None
    action: Literal["store", "append", "extend"] | None = None
    lines: bool = False


def option(value: Any, help: str, **declared: Any) -> Any:
    """Return a dataclass field with an option: its default `value`, and `Option`'s attributes as keywords."""
    return field(default=value, metadata={Option: Option(help, **declared)})


def option_of(one: Field[Any]) -> Option | None:
    """Return the declaration of a field's option, None if it has none."""
    declared: Option | None = one.metadata.get(Option)
    return declared


def flag_of(one: Field[Any]) -> str:
    """Return the long flag of a field, such as --segment for `segment_s`."""
    declared = option_of(one)
    if declared and declared.flag:
        return declared.flag
    return "--" + one.name.removesuffix("_s").replace("_", "-")


def collect(options: Mapping[str, Any], cls: type[S], preset: Mapping[str, Any] = MappingProxyType({})) -> S:
    """Return settings of class `cls`, nested settings included, made from the options' values.

    Args:
        options: values by field name; None and () mean "not given", and names that are no field are ignored.
        cls: class of the settings.
        preset: values of fields that are not given; other fields keep their default.
    """
    given = {**preset, **{name: value for name, value in options.items() if value not in (None, ())}}

    def build(kind: Any) -> Any:
        own = {one.name: given[one.name] for one in fields(kind) if one.name in given}
        inner = {one.name: build(one.type) for one in fields(kind) if is_dataclass(one.type)}
        return kind(**{**own, **inner})

    settings: S = build(cls)
    return settings


# ---------------------------------------------------------------- text


def names(text: str) -> tuple[str, ...]:
    """Parse `a,b` as ("a", "b")."""
    found = tuple(part.strip() for part in text.split(",") if part.strip())
    if not found:
        raise ValueError("no name is given")
    return found


def numbers(text: str) -> tuple[float, ...]:
    """Read `1,0.5` as (1.0, 0.5)."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r}: must be numbers with commas between them") from None


def seconds(text: str) -> float:
    """Parse `1:23.5` as 83.5: seconds, M:SS or H:MM:SS, with an optional fraction."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?|\.\d+", text):
        raise ValueError(f"{text!r} is not a time; write seconds, M:SS or H:MM:SS")
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total


def mix(text: str) -> tuple[str, tuple[str, ...]]:
    """Parse `band=drums+bass` as ("band", ("drums", "bass"))."""
    name, equals, terms = text.partition("=")
    name, parts = name.strip(), tuple(part.strip() for part in terms.split("+"))
    if not equals or not name or not all(parts):
        raise ValueError(f"{text!r} is not a mix; write NAME=a+b")
    return name, parts


def stem_and_model(text: str) -> tuple[str, str]:
    """Parse `vocals=karaoke` as ("vocals", "karaoke")."""
    stem, equals, model = (part.strip() for part in text.partition("="))
    if not equals or not stem or not model:
        raise ValueError(f"{text!r} is not a stem and a model; write STEM=NAME")
    return stem, model


def key_and_value(text: str) -> tuple[str, object]:
    """Parse `denoise=true` as ("denoise", True); the value is a scalar of YAML."""
    from stemsplit.documents import parse

    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key or not value:
        raise ValueError(f"{text!r} is not a key and a value; write KEY=VALUE")
    return key.replace("-", "_"), parse(value, text).data


def ratio(text: str) -> tuple[int, int]:
    """Parse `2/8` as (2, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise ValueError(f"{text!r} is not a shard; write I/N, such as 2/8")
    return int(match[1]), int(match[2])


def bit_rate(text: str) -> int:
    """Parse `192k` as 192000."""
    match = re.fullmatch(r"(\d+)(k?)", text.lower())
    if not match:
        raise ValueError(f"{text!r} is not a bit rate; write it as 192k")
    return int(match[1]) * (1000 if match[2] else 1)


def whole(least: int) -> Callable[[str], int]:
    """Return a function that parses whole numbers of at least `least`."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return read


def number_or(word: str, meaning: str | None) -> Callable[[str], int | str | None]:
    """Return a function that parses a whole number, or `word` as the value `meaning`."""

    def read(text: str) -> int | str | None:
        if text == word:
            return meaning
        if not text.isdecimal():
            raise ValueError(f"{text!r} is neither {word} nor a number")
        return int(text)

    return read


# ---------------------------------------------------------------- checks


def require(good: bool, flag: str, rule: str, value: object) -> None:
    """Raise unless `good`; the message has the flag, its value and the rule that it breaks.

    Raises:
        SettingsError: `good` is false.
    """
    if not good:
        raise SettingsError(f"{flag} {value}".rstrip() + f": {rule}", setting=flag)


def require_known(flag: str, value: object, known: tuple[object, ...]) -> None:
    """Refuse a value that isn't one of the known ones."""
    require(value in known, flag, f"must be one of {', '.join(map(str, known))}", value)


def require_positive(flag: str, value: float | None, most: float) -> None:
    """Refuse a value that isn't above 0 and at most `most`; None stands for no value."""
    require(value is None or value > 0, flag, "must be positive", value)
    require(value is None or value <= most, flag, f"must be at most {most}", value)


def require_types(settings: Any, *others: str) -> None:
    """Refuse values that don't have their field's type.

    A path becomes text, a list a tuple, and NumPy's numbers become Python's.

    Args:
        settings: a dataclass.
        others: names of fields that are checked elsewhere.

    Raises:
        SettingsError: a value has another type.
    """
    for one in fields(settings):
        if one.name in others:
            continue
        flag, value = flag_of(one), _plain(getattr(settings, one.name))
        kinds = get_args(one.type) if get_origin(one.type) in (Union, UnionType) else (one.type,)
        if get_origin(one.type) is Literal:
            require_known(flag, value, get_args(one.type))
        else:
            require_a(flag, value, *kinds)
        object.__setattr__(settings, one.name, value)


def require_a(name: str, value: object, *kinds: Any) -> None:
    """Refuse a value that has none of some types; a path counts as text, a list as a tuple.

    Args:
        name: flag or argument, for the message.
        value: the value.
        kinds: types, such as `str`, `tuple[str, ...]` or `NoneType`.

    Raises:
        SettingsError: it has another type, or is NaN.
    """
    plain = _plain(value)
    is_nan = isinstance(plain, float) and plain != plain
    if is_nan or not any(_is_a(plain, kind) for kind in kinds):
        words = " or ".join(map(_in_words, kinds))
        raise SettingsError(f"{name} {value!r}: must be {words}", setting=name)


def _plain(value: Any) -> Any:
    """Return a value in the types that settings have."""
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, list):
        return tuple(map(_plain, value))
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    return value


def _is_a(value: object, kind: Any) -> bool:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(value) == len(each) and all(map(_is_a, value, each))
    if kind in (int, float):  # a whole number is a number too; bool is an int in Python, but not here
        return isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    return isinstance(value, kind)


def _in_words(kind: Any) -> str:
    """Return a type in words, such as "a tuple of text"."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin is tuple:
        return "a tuple of text" if parts == (str, ...) else "a tuple"
    return str(_WORDS.get(kind) or kind.__name__)

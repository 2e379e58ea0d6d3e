"""Fields of the settings: declared as an option of the command, read from text, and checked.

`cli.options` makes the options of these declarations. Errors name the flag, so that they read the same from
Python and from a shell.
"""

import re
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from math import isnan
from numbers import Integral, Real
from types import NoneType
from typing import Any, Literal, get_args

from stemsplit.errors import SettingsError

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "None"}


@dataclass(frozen=True)
class Option:
    """What an option needs beside the name, type and default of the field that it fills.

    Attributes:
        help: one sentence.
        flag: the long flag, or a pair such as --sequential/--lockstep; None is the field's name in hyphens,
            without its unit `_s`.
        short: the short flag.
        metavar: what stands for the value in the help.
        parse: reads the text and raises ValueError; None where the field's type is enough.
        default: the default in words, where the value itself doesn't say what it means.
        action: `argparse`'s word for what a repeated option does; None is "append" for tuples of any length,
            else "store".
        lines: values in an environment variable stand on a line each, since they may hold spaces.
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
    """Return a field with the default `value` that an option fills; `declared` are `Option`'s attributes."""
    return field(default=value, metadata={Option: Option(help, **declared)})


def option_of(one: Field[Any]) -> Option | None:
    """Return the declaration of the option that fills a field, if any does."""
    declared: Option | None = one.metadata.get(Option)
    return declared


def flag_of(one: Field[Any]) -> str:
    """Return the long flag of a field, such as --segment for `segment_s`."""
    declared = option_of(one)
    if declared and declared.flag:
        return declared.flag
    return "--" + one.name.removesuffix("_s").replace("_", "-")


# ---------------------------------------------------------------- text


def names(text: str) -> tuple[str, ...]:
    """Read `a,b` as ("a", "b")."""
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
    """Read `1:23.5` as 83.5: seconds, M:SS or H:MM:SS, with a fraction if need be."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?|\.\d+", text):
        raise ValueError(f"{text!r} is no time; write seconds, M:SS or H:MM:SS")
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total


def mix(text: str) -> tuple[str, tuple[str, ...]]:
    """Read `band=drums+bass` as ("band", ("drums", "bass"))."""
    name, equals, terms = text.partition("=")
    name, parts = name.strip(), tuple(part.strip() for part in terms.split("+"))
    if not equals or not name or not all(parts):
        raise ValueError(f"{text!r} is no mix; write NAME=a+b")
    return name, parts


def stem_and_model(text: str) -> tuple[str, str]:
    """Read `vocals=karaoke` as ("vocals", "karaoke")."""
    stem, equals, model = (part.strip() for part in text.partition("="))
    if not equals or not stem or not model:
        raise ValueError(f"{text!r} names no stem and model; write STEM=NAME")
    return stem, model


def ratio(text: str) -> tuple[int, int]:
    """Read `2/8` as (2, 8)."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match:
        raise ValueError(f"{text!r} is no shard; write I/N, such as 2/8")
    return int(match[1]), int(match[2])


def bit_rate(text: str) -> int:
    """Read `192k` as 192000."""
    match = re.fullmatch(r"(\d+)(k?)", text.lower())
    if not match:
        raise ValueError(f"{text!r} is no bit rate; write it as 192k")
    return int(match[1]) * (1000 if match[2] else 1)


def whole(least: int) -> Callable[[str], int]:
    """Return a function that reads whole numbers from `least` on."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise ValueError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return read


def number_or(word: str, meaning: str | None) -> Callable[[str], int | str | None]:
    """Return a function that reads a whole number, or `word` for `meaning`."""

    def read(text: str) -> int | str | None:
        if text == word:
            return meaning
        if not text.isdecimal():
            raise ValueError(f"{text!r} is neither {word} nor a number")
        return int(text)

    return read


# ---------------------------------------------------------------- checks


def require(good: bool, flag: str, rule: str, value: object) -> None:
    """Fail where a rule isn't kept.

    Raises:
        SettingsError: `good` is false.
    """
    if not good:
        raise SettingsError(f"{flag} {value}".rstrip() + f": {rule}", setting=flag)


def require_known(flag: str, value: object, known: tuple[object, ...]) -> None:
    """Refuse what isn't among the known values."""
    require(value in known, flag, f"must be one of {', '.join(map(str, known))}", value)


def require_positive(flag: str, value: float | None, most: float) -> None:
    """Refuse what isn't above 0 and at most `most`; None is what wasn't given."""
    require(value is None or value > 0, flag, "must be positive", value)
    require(value is None or value <= most, flag, f"must be at most {most}", value)


def require_types(settings: Any) -> None:
    """Refuse values of another type than their field's; numbers of NumPy become Python's."""
    for one in fields(settings):
        flag, value = flag_of(one), getattr(settings, one.name)
        kinds = get_args(one.type) or (one.type,)
        if isinstance(kinds[0], str):
            require_known(flag, value, kinds)
        elif not any(_is_a(value, kind) for kind in kinds):
            words = " or ".join(_WORDS[kind] for kind in kinds)
            raise SettingsError(f"{flag} {value!r}: must be {words}", setting=flag)
        elif isinstance(value, Real) and not isinstance(value, bool):
            object.__setattr__(
                settings, one.name, int(value) if isinstance(value, Integral) else float(value)
            )


def _is_a(value: object, kind: type) -> bool:
    if kind in (int, float):  # NumPy's numbers too; true and false are none
        number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return number and not isnan(value)  # type: ignore[arg-type]
    return isinstance(value, kind)

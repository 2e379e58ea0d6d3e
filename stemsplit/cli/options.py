"""Options that are made from the settings' dataclasses, so that every default stands in one place."""

import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
S = TypeVar("S")


def setting(*flags: str, of: type, field: str, help: str, **attributes: Any) -> Callable[[F], F]:
    """An option that fills `field` of the dataclass `of`.

    Its value is None unless it was given; the help shows the dataclass's own default, and the environment
    variable is the long flag's name after `STEMSPLIT_`.
    """
    default = next(f.default for f in fields(of) if f.name == field)
    if default not in (None, MISSING, False, ()) and "[default" not in help:
        help = f"{help} [default: {default}]"
    return flag(*flags, help=help, **attributes)


def flag(*flags: str, help: str, **attributes: Any) -> Callable[[F], F]:
    """An option with an environment variable and no default."""
    long = next(part for name in flags for part in name.split("/") if part.startswith("--"))
    variable = "STEMSPLIT_" + long.lstrip("-").upper().replace("-", "_")
    attributes.setdefault("default", None)
    return click.option(*flags, help=help, envvar=variable, show_envvar=False, **attributes)


def given(cls: type[S], **values: Any) -> S:
    """The settings `cls` with those `values` that were given, the rest at their defaults."""
    return cls(**{name: value for name, value in values.items() if value is not None})


class Comma(click.ParamType[tuple[str, ...]]):
    """A comma-separated list; the option may also be repeated."""

    name = "name"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """`a,b` to ("a", "b")."""
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in value.split(",") if part.strip())
        return names or self.fail("no name is given", param, ctx)


class Model(click.ParamType[str]):
    """A name or path; of several in an environment variable, each stands on a line of its own."""

    name = "model"
    envvar_list_splitter = "\n"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take the text as it is."""
        return str(value)


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """`1,0.5` to (1.0, 0.5)."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r}: must be numbers with commas between them", param, ctx)


class Time(click.ParamType[float]):
    """Seconds, M:SS or H:MM:SS, with a fraction if need be."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """`1:23.5` to 83.5."""
        if isinstance(value, float):
            return value
        if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d*)?|\.\d+", value):
            self.fail(f"{value!r} is no time; write seconds, M:SS or H:MM:SS", param, ctx)
        seconds = 0.0
        for part in value.split(":"):
            seconds = 60 * seconds + float(part)
        return seconds


class Mix(click.ParamType[tuple[str, tuple[str, ...]]]):
    """NAME=a+b."""

    name = "NAME=A+B"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[str, ...]]:
        """`band=drums+bass` to ("band", ("drums", "bass"))."""
        if isinstance(value, tuple):
            return value
        name, equals, terms = value.partition("=")
        name, parts = name.strip(), tuple(part.strip() for part in terms.split("+"))
        if not equals or not name or not all(parts):
            self.fail(f"{value!r} is no mix; write NAME=a+b", param, ctx)
        return name, parts


class Then(click.ParamType[tuple[str, str]]):
    """STEM=MODEL."""

    name = "STEM=MODEL"
    envvar_list_splitter = "\n"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """`vocals=karaoke` to ("vocals", "karaoke")."""
        if isinstance(value, tuple):
            return value
        stem, equals, model = (part.strip() for part in value.partition("="))
        if not equals or not stem or not model:
            self.fail(f"{value!r} names no stem and model; write STEM=NAME", param, ctx)
        return stem, model


class Shard(click.ParamType[tuple[int, int]]):
    """I/N."""

    name = "I/N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        """`2/8` to (2, 8)."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d+)/(\d+)", value)
        if not match:
            self.fail(f"{value!r} is no shard; write I/N, such as 2/8", param, ctx)
        return int(match[1]), int(match[2])


class Whole(click.ParamType[int]):
    """A whole number of at least `least`."""

    name = "number"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`3` to 3."""
        if isinstance(value, int):
            return value
        if not value.isdecimal() or int(value) < self.least:
            self.fail(f"{value!r} is no whole number from {self.least} on", param, ctx)
        return int(value)


class Bitrate(click.ParamType[int]):
    """Bits per second, such as 192k."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """`192k` to 192000."""
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d+)(k?)", value.lower())
        if not match:
            self.fail(f"{value!r} is no bit rate; write it as 192k", param, ctx)
        return int(match[1]) * (1000 if match[2] else 1)


class Keep(click.ParamType[int | str]):
    """A whole number or one of some words, such as `keep`."""

    name = "keep|N"

    def __init__(self, *words: str) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """`48000` to 48000; `keep` stays."""
        if isinstance(value, int):
            return value
        if value in self.words:
            return str(value)
        if not value.isdecimal():
            self.fail(f"{value!r} is neither {' nor '.join(self.words)} nor a number", param, ctx)
        return int(value)

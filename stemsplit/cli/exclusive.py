"""Options that exclude each other: a typed one comes before the environment, and two typed ones fail."""

from collections.abc import Iterator
from dataclasses import dataclass

import click
from click.core import ParameterSource

from stemsplit.cli.failures import usage_error


@dataclass(frozen=True)
class Exclusive:
    """An option that can't be used together with some others.

    Attributes:
        one: name of the option's value.
        others: names of the others' values; they may be used together.
        hint: what to do instead.
    """

    one: str
    others: tuple[str, ...]
    hint: str | None = None


EXCLUSIVE = (
    Exclusive("duration", ("end_s",)),
    Exclusive("karaoke", ("stems", "rest", "mixes")),
    Exclusive(
        "karaoke_lead",
        ("model", "stems", "rest", "mixes", "karaoke"),
        "with a karaoke model of your own: -m MODEL --karaoke",
    ),
    Exclusive("layout", ("template",)),
    Exclusive("mux", ("start_s", "end_s", "duration")),
)


def settle(ctx: click.Context) -> None:
    """Drop options of the environment that exclude typed ones; refuse what is left of `EXCLUSIVE`.

    Raises:
        SettingsError: two options that exclude each other are typed, or both are environment variables.
    """
    for one, other, _ in _conflicts(ctx):
        if _typed(ctx, one) != _typed(ctx, other):
            dropped = other if _typed(ctx, one) else one
            ctx.params[str(dropped.name)] = () if dropped.multiple else None
    for one, other, hint in _conflicts(ctx):
        if _typed(ctx, one):
            raise usage_error(f"{one.opts[-1]} and {other.opts[-1]} exclude each other", hint=hint)
        variables = f"{one.envvar} and {other.envvar}"
        raise usage_error(f"the environment variables {variables} exclude each other", hint="unset one")


def _conflicts(ctx: click.Context) -> Iterator[tuple[click.Option, click.Option, str | None]]:
    """Yield two options that are given and exclude each other, and the hint."""
    given = {
        str(option.name): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and _is_given(ctx.params.get(str(option.name)))
    }
    for group in EXCLUSIVE:
        for other in group.others:
            if group.one in given and other in given and _is_given(ctx.params[group.one]):
                yield given[group.one], given[other], group.hint


def _is_given(value: object) -> bool:
    return value is not None and value is not False and value != ()


def _typed(ctx: click.Context, option: click.Option) -> bool:
    return ctx.get_parameter_source(str(option.name)) is ParameterSource.COMMANDLINE

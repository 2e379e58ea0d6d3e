"""Options made from the fields of the settings; `fields.collect` makes settings from their values."""

from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from itertools import chain
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import click
from click.types import FuncParamType

from stemsplit.cli.progress import STYLES
from stemsplit.fields import Option, flag_of, option_of
from stemsplit.settings import Request
from stemsplit.stems import BEST


def option_fields(cls: Any) -> dict[str, tuple[Field[Any], Option]]:
    """Return the fields of `cls`, and of the settings nested in it, that are options, by name."""
    found: dict[str, tuple[Field[Any], Option]] = {}
    for one in fields(cls):
        if is_dataclass(one.type):
            found |= option_fields(one.type)
        elif declared := option_of(one):
            found[one.name] = one, declared
    return found


FIELDS = option_fields(Request)


def setting(name: str, *, note: str = "", **attributes: Any) -> click.Option:
    """Return the option that fills the field `name`; its value is None unless it is given.

    Args:
        name: name of a field of `Request` or of the settings nested in it, and of the option's value.
        note: a sentence that the command adds to the field's help.
        attributes: attributes of click's option that override those derived from the field.
    """
    one, declared = FIELDS[name]
    long = flag_of(one)
    if one.default is True and "/" not in long:
        long = f"{long}/--no-{long.removeprefix('--')}"
    flags = [declared.short, long] if declared.short else [long]
    help = f"{declared.help} {note}".rstrip()
    shown = declared.default or _in_words(one.default, _long(flags))
    return _option([*flags, name], help, shown, **{**_attributes(one, declared), **attributes})


def flag(*flags: str, help: str, default: Any = None, **attributes: Any) -> click.Option:
    """Return an option that fills no field but has an environment variable, as settings do."""
    return _option([*flags], help, _in_words(default, _long(flags)), default=default, **attributes)


def _option(flags: list[str], help: str, shown: str, default: Any = None, **attributes: Any) -> click.Option:
    variable = "STEMSPLIT_" + _long(flags).upper().replace("-", "_")
    text = f"{help} [default: {shown}]" if shown else help
    return click.Option(flags, help=text, default=default, envvar=variable, **attributes)


def _long(flags: Sequence[str]) -> str:
    """Return the name of the long flag without hyphens; of a pair, the first one's."""
    return next(name for name in flags if name.startswith("--")).partition("/")[0].removeprefix("--")


def _in_words(default: Any, name: str) -> str:
    """Return the default of the flag `name` as the help shows it; empty if it is off or empty."""
    if default is None or default is False or default == ():
        return ""
    return name if default is True else str(default)


def _attributes(one: Field[Any], declared: Option) -> dict[str, Any]:
    """Return the attributes of click's option that follow from a field's type and declaration."""
    kind = _without_none(one.type)
    if kind is bool:
        return {"is_flag": True}
    open_ended = get_origin(kind) is tuple and get_args(kind)[-1] is ...
    action = declared.action or ("append" if open_ended else "store")
    return {
        "type": _value_type(kind, declared),
        "metavar": declared.metavar or ("N" if kind is int else None),
        "multiple": action != "store",
        "callback": _joined if action == "extend" else None,
    }


def _without_none(kind: Any) -> Any:
    """Return the first member of a union that isn't None; any other type as it is."""
    if get_origin(kind) not in (Union, UnionType):
        return kind
    return next(each for each in get_args(kind) if each is not NoneType)


def _value_type(kind: Any, declared: Option) -> Any:
    """Return the type of an option's value for click: a type, or a function that parses text."""
    if declared.lines:
        return Lines(declared.parse or str)
    if get_origin(kind) is Literal:
        return (
            ParsedChoice(get_args(kind), declared.parse) if declared.parse else click.Choice(get_args(kind))
        )
    if declared.parse:
        return declared.parse
    return get_args(kind)[0] if get_origin(kind) is tuple else kind


class ParsedChoice(click.Choice):  # type: ignore[type-arg]  # click 8.2 has it without parameters
    """Type of values that a shell completes from `choices` and that `parse` reads or refuses."""

    def __init__(self, choices: Sequence[Any], parse: Callable[[str], Any]) -> None:
        super().__init__(choices)
        self.convert = FuncParamType(parse).convert  # type: ignore[method-assign]


class Lines(FuncParamType):  # type: ignore[type-arg]  # click 8.2 has it without parameters
    """Type of values that may hold spaces: an environment variable has one per line."""

    envvar_list_splitter = "\n"


def _joined(ctx: click.Context, param: click.Parameter, values: tuple[tuple[Any, ...], ...]) -> Any:
    """Return the elements of all repeated values, without duplicates."""
    return tuple(dict.fromkeys(chain.from_iterable(values)))


PROGRESS = flag(
    "--progress",
    "style",
    type=click.Choice(STYLES),
    default="auto",
    help="How to show progress on stderr.",
)


def choose_best(options: dict[str, Any]) -> list[str]:
    """Replace models such as best:vocals by the best one's name; return the reasons."""
    asked, reasons = options["model"], list[str]()
    names = [asked] if isinstance(asked, str) else [*(asked or ())]
    for place, name in enumerate(names):
        if name.startswith(BEST):
            names[place], why = _best(name.removeprefix(BEST), options)
            reasons.append(why)
    if reasons:
        options["model"] = names[0] if isinstance(asked, str) else tuple(names)
    return reasons


def _best(stem: str, options: dict[str, Any]) -> tuple[str, str]:
    """Return the name of the best model for a stem, under the licence and for the device, and the reason."""
    from stemsplit.core.devices import free_memory
    from stemsplit.hub.access import licenses_of
    from stemsplit.hub.choose import best

    device = options["device"] or ""
    free = free_memory(device if device.startswith("cuda") else "cpu")
    spec, why = best(stem, licenses_of(options.get("license")), free)
    return spec.name, why

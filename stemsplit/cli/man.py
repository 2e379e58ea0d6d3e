"""`stemsplit man`: the manual page, made from the commands and options that `--help` shows."""

from collections.abc import Iterator

import click

from stemsplit import __version__
from stemsplit.cli.failures import EXIT_CODES


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def man() -> None:
    """Print the manual page.

    \b
    stemsplit man | man -l -
    stemsplit man > ~/.local/share/man/man1/stemsplit.1
    """
    from stemsplit.cli.main import main

    click.echo("\n".join(page(main)))


def page(root: click.Group) -> Iterator[str]:
    """Yield the lines of the page, in troff's man macros."""
    yield f'.TH STEMSPLIT 1 "" "stemsplit {__version__}" "User Commands"'
    yield from (".SH NAME", "stemsplit \\- separate music into stems")
    yield from (".SH SYNOPSIS", ".B stemsplit", "[\\fICOMMAND\\fR] [\\fIOPTION\\fR]... [\\fIINPUT\\fR]...")
    yield ".SH DESCRIPTION"
    yield from _prose(root.help or "")
    for name, command in commands(root):
        yield f'.SH "{name.upper()}"'
        yield from _prose(command.help or "")
        yield from _options(command)
    yield ".SH EXIT STATUS"
    for code, meaning in EXIT_CODES.items():
        yield from (".TP", f".B {code}", _escaped(meaning))


def commands(group: click.Group, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield every command below a group, with its name such as "models list"."""
    context = click.Context(group)
    for name in group.list_commands(context):
        if (command := group.get_command(context, name)) is None:
            continue
        yield prefix + name, command
        if isinstance(command, click.Group):
            yield from commands(command, f"{prefix}{name} ")


def _options(command: click.Command) -> Iterator[str]:
    context = click.Context(command)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and (record := parameter.get_help_record(context)):
            flags, text = record
            yield from (".TP", f"\\fB{_escaped(flags)}\\fR", _escaped(text))


def _prose(text: str) -> Iterator[str]:
    """Yield the paragraphs of a help; those that begin with a backspace character keep their lines."""
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            yield from (".PP", ".nf", ".RS", *(_escaped(line.strip()) for line in lines[1:]), ".RE", ".fi")
        else:
            yield from (".PP", _escaped(" ".join(line.strip() for line in lines)))


def _escaped(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + escaped if escaped.startswith((".", "'")) else escaped

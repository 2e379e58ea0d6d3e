"""The `stemsplit` command: a group whose default is `separate`; commands are imported when chosen."""

import importlib
import io
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

import click

from stemsplit import __version__
from stemsplit.cli import failures
from stemsplit.cli.habits import command_of, dashed

COMMANDS = {
    "separate": ("stemsplit.cli.separate:separate", "Separate files and folders into stems (the default)."),
    "blend": ("stemsplit.cli.blend:blend", "Blend several files, such as one stem from several models."),
    "models": ("stemsplit.cli.models:models", "List, download, check and convert models."),
    "evaluate": (
        "stemsplit.cli.evaluate:evaluate",
        "Score models on data sets, or stems against references.",
    ),
    "report": ("stemsplit.cli.report:report", "Join the reports of several runs and machines."),
    "play": ("stemsplit.cli.play:play", "Open a page to hear, mix, compare and separate."),
    "serve": ("stemsplit.cli.play:serve", "Serve the page and its HTTP API without a browser."),
    "train": ("stemsplit.cli.train:train", "Train and fine-tune models; find mislabelled stems."),
    "tune": ("stemsplit.cli.tune:tune", "Find out how a model runs fastest here, for later runs."),
    "doctor": ("stemsplit.cli.doctor:doctor", "Show versions, devices, codecs, folders and free space."),
    "completion": ("stemsplit.cli.completion:completion", "Print a shell's completion script."),
    "man": ("stemsplit.cli.man:man", "Print the manual page."),
}
DEBUG = "STEMSPLIT_DEBUG"
SPINS = 20_000  # of a thread without work, before it sleeps: a fraction of a millisecond
NAME, COMPLETE = "stemsplit", "_STEMSPLIT_COMPLETE"


class Commands(click.Group):
    """Group of commands that are imported when chosen; any other word is an input of `separate`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return all names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the command called `cmd_name`."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Insert `separate` where the first word names no command."""
        own = {option for param in self.get_params(ctx) for option in (*param.opts, *param.secondary_opts)}
        first = next((i for i, arg in enumerate(args) if arg not in own), None)
        if first is not None and args[first] not in COMMANDS:
            if args[first] in ("--", "-") or not args[first].startswith("-"):
                self._refuse_misspelling(args[first])
            args = [*args[:first], *command_of(args[first:])]
        elif first is not None and args[first] != "separate":  # which translates more than this
            args = [*args[: first + 1], *map(dashed, args[first + 1 :])]
        return super().parse_args(ctx, args)

    def _refuse_misspelling(self, word: str) -> None:
        near = get_close_matches(word, COMMANDS, n=1, cutoff=0.75)
        if near and not os.path.exists(word):
            raise failures.usage_error(
                f"no command and no file named {word!r}", hint=f"did you mean {near[0]}?"
            )

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        """Return commands, and files as inputs of `separate`."""
        from click.shell_completion import CompletionItem

        return [*super().shell_complete(ctx, incomplete), CompletionItem(incomplete, type="file")]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, "-V", "--version", message="%(prog)s %(version)s")
@click.option(
    "--debug", is_flag=True, expose_value=False, envvar=DEBUG, help="Show a traceback when something fails."
)
def main() -> None:
    """Separate music into stems: drums, bass, vocals and the rest.

    \b
    stemsplit song.mp3                   stems/song/{drums,bass,other,vocals}.wav
    stemsplit album/ -o out -f flac      a folder, recursively
    stemsplit song.mp3 -s vocals --rest  vocals and everything else
    stemsplit separate --help            all options

    Write ./NAME for a file that has the name of a command.
    """


def run(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    _open_streams()
    _wait_briefly()
    debug = "--debug" in arguments or os.environ.get(DEBUG, "").lower() in (
        "1",
        "true",
        "yes",
        "on",
        "t",
        "y",
    )
    sys.exit(failures.guarded(lambda: _invoke(arguments), debug=debug))


def _wait_briefly() -> None:
    """Let torch's threads sleep soon when they have no work; call it before torch is imported.

    GNU's OpenMP lets a thread that waits for the others spin for milliseconds. Beside other programs it takes
    their cores, and the core that the thread it waits for needs. The user's own choice stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def _open_streams() -> None:
    """Reopen closed standard streams, so that no other file gets their descriptors, and escape on stdout.

    Stdout is reopened for reading, so that writing to it fails as for every other program. Characters that
    its encoding lacks are escaped, such as the bytes of a file's name.
    """
    for name, flags, mode in (
        ("stdin", os.O_RDONLY, "r"),
        ("stdout", os.O_RDONLY, "w"),
        ("stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _invoke(arguments: Sequence[str]) -> int:
    if not arguments and COMPLETE not in os.environ:
        click.echo(main.get_help(click.Context(main, info_name=NAME, **main.context_settings)), err=True)
        return failures.USAGE
    if COMPLETE in os.environ:
        main.main(args=list(arguments), prog_name=NAME)
    # `main.main` would report a closed pipe as an ordinary failure.
    with main.make_context(NAME, list(arguments)) as context:
        main.invoke(context)
    return 0

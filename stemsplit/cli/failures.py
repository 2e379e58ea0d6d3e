"""How every failure looks from outside: one line, a hint, an exit code. The one place that catches all."""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

import click

from stemsplit.errors import AudioError, Cancelled, ResourceError, SettingsError, StemsplitError

FAILED, USAGE = 1, 2
INTERRUPTED, TERMINATED, CLOSED_PIPE = 130, 143, 141
EXIT_CODES = {
    "0": "everything done or skipped",
    "1": "failed: nothing separated, or an internal error",
    "2": "usage: bad option, template, stem, model name, absent device, no audio found",
    "3": "partial: some tracks done or skipped, some failed",
    "4": "model unavailable: download, checksum, offline, unsafe or unknown checkpoint",
    "5": "out of memory or disk",
    "130, 143, 141": "interrupted, terminated, closed pipe",
}


class Terminated(BaseException):
    """SIGTERM came."""


def usage_error(reason: str, hint: str | None = None) -> SettingsError:
    """An error about the command line itself."""
    return SettingsError(reason, hint=hint)


def say(error: str, hint: str | None = None) -> None:
    """Print an error and its hint on stderr."""
    click.echo(f"stemsplit: {click.style('error', fg='red')}: {error}", err=True)
    if hint:
        click.echo(f"  hint: {hint}", err=True)


def guarded(work: Callable[[], int], *, debug: bool = False) -> int:
    """Do `work` and return its exit code, or the code of whatever stopped it.

    Args:
        work: returns an exit code.
        debug: show tracebacks.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BaseException as error:
        if debug and not isinstance(error, (click.exceptions.Exit, BrokenPipeError)):
            traceback.print_exc()
        return explain(error)


def explain(error: BaseException) -> int:
    """Tell what happened, and return the exit code that it means."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case click.ClickException():
            say(error.format_message(), _where_to_look(error))
            return USAGE
        case KeyboardInterrupt() | click.Abort() | Cancelled():
            click.echo("stemsplit: interrupted", err=True)
            return INTERRUPTED
        case Terminated():
            return TERMINATED
        case BrokenPipeError():
            # What is still buffered has nowhere to go; without this the interpreter complains on its way out.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return CLOSED_PIPE
        case AudioError():
            say(str(error), error.hint)
        case StemsplitError():
            say(error.reason, error.hint)
        case MemoryError():
            say("out of memory", "use a shorter --segment")
            return ResourceError.code
        case OSError(errno=errno.ENOSPC):
            say("no space left where the output goes")
            return ResourceError.code
        case _:
            say(f"{type(error).__name__}: {error}", "this is a bug; --debug shows where")
    return error.code if isinstance(error, StemsplitError) else FAILED


def _where_to_look(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help shows the options" if context else None


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated

"""How every failure looks from outside: one line, a hint, an exit code. The one place that catches all."""

import errno
import io
import os
import signal
import stat
import sys
import traceback
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import click

from stemsplit.errors import AudioError, Cancelled, ResourceError, SettingsError, StemsplitError

FAILED, USAGE = 1, 2
INTERRUPTED, TERMINATED, CLOSED_PIPE = 130, 143, 141
POSTPONED_S = 0.05  # until a signal that came during an import is looked at again
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
    """Print an error and its hint on stderr, a line each."""
    click.echo(f"stemsplit: {click.style('error', fg='red')}: {one_line(error)}", err=True)
    if hint:
        click.echo(f"  hint: {one_line(hint)}", err=True)


def one_line(text: str) -> str:
    """`text` with its control characters escaped: names of files may hold line breaks and worse."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text
    )


def guarded(work: Callable[[], int], *, debug: bool = False) -> int:
    """Do `work` and return its exit code, or the code of whatever stopped it.

    Args:
        work: returns an exit code.
        debug: show tracebacks.
    """
    _listen()
    if debug:
        _show_log()
    try:
        code = work()
        sys.stdout.flush()
        return code
    except BaseException as error:
        if debug and not isinstance(error, (click.exceptions.Exit, SystemExit, BrokenPipeError)):
            traceback.print_exc()
        return explain(error)


def _show_log() -> None:
    """The log has the tracebacks of tracks that failed while the batch went on."""
    import logging

    log = logging.getLogger("stemsplit")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.DEBUG)


def explain(error: BaseException) -> int:
    """Tell what happened, and return the exit code that it means."""
    _deafen()
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit(code=int(code)):  # click's, once a shell has its completions
            return code
        case click.ClickException():
            say(" ".join(error.format_message().split()), _where_to_look(error))
            return USAGE
        case KeyboardInterrupt() | click.Abort() | Cancelled():
            click.echo("stemsplit: interrupted", err=True)
            return INTERRUPTED
        case Terminated():
            click.echo("stemsplit: terminated", err=True)
            return TERMINATED
        case BrokenPipeError():
            _give_up_stdout()
            return CLOSED_PIPE
        case AudioError():
            say(str(error), error.hint)
        case StemsplitError():
            say(error.reason, error.hint)
        case MemoryError():
            say("out of memory", "use a shorter --segment")
            return ResourceError.code
        case ImportError() if str(error).endswith("failed to map segment from shared object"):
            say("out of memory: PyTorch's libraries don't fit")
            return ResourceError.code
        case OSError(errno=errno.EBADF, filename=None):
            _give_up_stdout()
            say("stdout is closed")
        case OSError(errno=errno.ENOSPC):
            _give_up_stdout()
            say("no space left where the output goes", "free some space, or choose another disk")
            return ResourceError.code
        case OSError(strerror=str(reason)):
            # Without a name it was the working folder that was asked for.
            say(f"{error.filename or 'the working folder'}: {reason}")
        case _:
            say(f"{type(error).__name__}: {error}", "this is a bug; --debug shows where")
    return error.code if isinstance(error, StemsplitError) else FAILED


def _give_up_stdout() -> None:
    # What is still buffered has nowhere to go; without this the interpreter complains on its way out.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def require_stdout() -> None:
    """Check that stdout can be written to, before work whose result goes there.

    Raises:
        OSError: it is closed.
    """
    with suppress(io.UnsupportedOperation):  # within another Python program it need be no file
        os.write(sys.stdout.fileno(), b"")


def require_writable(option: str, file: str | None) -> None:
    """Check before the work that the file of an option can be written, if one is given.

    Raises:
        SettingsError: it can't.
    """
    if file is None:
        return
    try:
        kind = os.stat(file).st_mode
    except FileNotFoundError:  # a link to a file that is yet to be made is as good as the file
        place = os.path.dirname(os.path.realpath(file))
        if not os.path.isdir(place):
            raise usage_error(f"{option} {file}: no such folder") from None
    except OSError as error:
        raise usage_error(f"{option} {file}: {error.strerror}") from None
    else:
        place = file
        if stat.S_ISDIR(kind):
            raise usage_error(f"{option} {file}: is a folder")
    if not os.access(place, os.W_OK):
        raise usage_error(f"{option} {file}: no permission to write it")


def _where_to_look(error: click.ClickException) -> str | None:
    context = getattr(error, "ctx", None)
    return f"{context.command_path} --help shows the options" if context else None


# ---------------------------------------------------------------- signals


def _listen() -> None:
    """Let SIGTERM and SIGINT raise; where the caller has us ignore SIGINT, as nohup does, that stays so."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def _deafen() -> None:
    """Nothing disturbs the threads that still remove what they began."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    # An exception in the middle of an import leaves its locks taken, and other threads wait for ever.
    if hasattr(signal, "setitimer") and _importing(frame):
        signal.signal(signal.SIGALRM, lambda _, later: _stop(number, later))
        signal.setitimer(signal.ITIMER_REAL, POSTPONED_S)
        return
    _deafen()  # an impatient person's second signal would interrupt the removing of parts
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False

"""Turn every failure into one line, a hint and an exit code; the one place that catches all exceptions."""

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

from stemsplit.errors import Cancelled, ResourceError, SettingsError
from stemsplit.listing import AUDIO_SUFFIXES
from stemsplit.outcome import Failure

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
STDOUT = "-"  # in place of a file's name
FAILED, USAGE = 1, 2
INTERRUPTED, TERMINATED, CLOSED_PIPE = 130, 143, 141
SIGNAL_RETRY_S = (
    0.05  # delay after which a signal is handled again that came where an exception would be lost
)
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
    """Raised by SIGTERM, and by SIGHUP when the terminal is closed."""


def usage_error(reason: str, hint: str | None = None) -> SettingsError:
    """Return an error about the command line itself."""
    return SettingsError(reason, hint=hint)


def say(error: str, hint: str | None = None) -> None:
    """Print an error and its hint on stderr, a line each."""
    click.echo(f"stemsplit: {click.style('error', fg='red')}: {one_line(error)}", err=True)
    if hint:
        click.echo(f"  hint: {one_line(hint)}", err=True)


def one_line(text: str) -> str:
    """Return `text` with control characters escaped: names of files may hold line breaks."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) == "Cc" else c for c in text
    )


def guarded(work: Callable[[], int], *, debug: bool = False) -> int:
    """Run `work` and return its exit code, or the exit code of the exception that ended it.

    Args:
        work: function that returns an exit code.
        debug: show tracebacks.
    """
    _catch_signals()
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
    """Print the package's log, which has the tracebacks of tracks that failed in a batch."""
    import logging

    log = logging.getLogger("stemsplit")
    log.addHandler(logging.StreamHandler())
    log.setLevel(logging.DEBUG)


def explain(error: BaseException) -> int:
    """Report an exception on stderr, and return its exit code."""
    _ignore_signals()
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit(code=int(code)):  # raised by click after it has printed completions
            return code
        case click.exceptions.NoArgsIsHelpError():  # a group without a command; its message is the help
            click.echo(error.format_message(), err=True)
            return USAGE
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
            _discard_stdout()
            return CLOSED_PIPE
        case ImportError() if str(error).endswith("failed to map segment from shared object"):
            say("out of memory: PyTorch's libraries don't fit")
            return ResourceError.code
        case OSError(errno=errno.EBADF, filename=None):
            _discard_stdout()
            say("stdout is closed")
            return FAILED
        case OSError(errno=errno.ENOSPC):
            _discard_stdout()
            say("no space left on the output's disk", "free some space, or choose another disk")
            return ResourceError.code
        case OSError(strerror=str(reason)):
            # Only looking up the working folder fails without a file name.
            say(f"{error.filename or 'the working folder'}: {reason}")
            return FAILED
        case _:
            failure = Failure.of(error, name_input=True)
            say(failure.message, failure.hint)
            return failure.code


def _discard_stdout() -> None:
    # Send what is still buffered to the null device; else the interpreter prints an error when it exits.
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def require_stdout() -> None:
    """Check before the work that stdout, where the result goes, can be written.

    Raises:
        OSError: it is closed.
    """
    with suppress(io.UnsupportedOperation):  # another Python program may have replaced it by a buffer
        os.write(sys.stdout.fileno(), b"")


def require_writable(option: str, file: str | None) -> None:
    """Check before the work that the file that an option names, if any, can be written as text.

    Raises:
        SettingsError: it can't, or its name is that of a song, a stem or a film, which would be lost.
    """
    if file is None:
        return
    if not file:
        raise usage_error(f"{option}: is empty")
    if file == STDOUT:
        raise usage_error(f"{option} {file}: must be a file", hint=f"./{STDOUT} is a file of that name")
    names = (file, os.path.realpath(file))
    if any(os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES for name in names):
        raise usage_error(f"{option} {file}: is the name of an audio file or a film")
    try:
        kind = os.stat(file).st_mode
    except FileNotFoundError:  # a link to a file that doesn't exist yet is followed
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


def _catch_signals() -> None:
    """Let SIGTERM, SIGINT and SIGHUP raise exceptions; keep ignoring the last two if the caller does."""
    signal.signal(signal.SIGTERM, _stop)
    for number in SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    sys.unraisablehook = _raise_again


def _ignore_signals() -> None:
    """Ignore further signals while worker threads clean up."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(number: int, frame: FrameType | None) -> None:
    if hasattr(signal, "setitimer") and _would_be_lost(frame):
        _stop_later(number)
        return
    _ignore_signals()  # a second Ctrl-C would interrupt the removal of part files
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


def _stop_later(number: int) -> None:
    signal.signal(signal.SIGALRM, lambda _, frame: _stop(number, frame))
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_RETRY_S)


def _would_be_lost(frame: FrameType | None) -> bool:
    """Return whether an exception in a frame would do harm, or never arrive.

    During an import it would leave import locks taken, and other threads waiting for ever. libsndfile, which
    calls soundfile's functions for reading and seeking, would take it for a damaged file.
    """
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith("<frozen importlib") or code.co_name.startswith("vio_"):
            return True
        frame = frame.f_back
    return False


def _raise_again(lost: "sys.UnraisableHookArgs") -> None:
    """Raise a signal's exception again that Python dropped, such as in a destructor; report others."""
    numbers = {KeyboardInterrupt: signal.SIGINT, Terminated: signal.SIGTERM}
    if lost.exc_type in numbers and hasattr(signal, "setitimer"):
        _stop_later(numbers[lost.exc_type])
    else:
        sys.__unraisablehook__(lost)

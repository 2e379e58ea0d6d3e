"""Failures of single tracks as data, and the exit code that they result in."""

from collections.abc import Sequence
from dataclasses import dataclass

from stemsplit.errors import AudioError, OutputError, ResourceError, StemsplitError
from stemsplit.files import is_full

SCHEMA = 1  # version of all JSON that the commands print or write
PARTIAL = 3  # exit code if some tracks of a batch failed, but not all


@dataclass(frozen=True)
class Failure:
    """Reason why a track failed.

    Attributes:
        code: exit code of a run with this track only.
        message: the reason, one sentence.
        hint: what to do about it, None if there is nothing to suggest.
    """

    code: int
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: BaseException, *, name_input: bool = False) -> "Failure":
        """Return the failure for an exception.

        Args:
            error: the exception.
            name_input: start the message with an input's name too, which reports have separately.
        """
        if isinstance(error, StemsplitError):
            of_input = isinstance(error, AudioError) and not isinstance(error, OutputError)
            message = error.reason if of_input and not name_input else str(error)
            return cls(error.code, message, error.hint)
        if isinstance(error, MemoryError):
            return cls(ResourceError.code, "out of memory", "use a shorter --segment")
        if isinstance(error, OSError) and error.strerror:
            code = ResourceError.code if is_full(error) else StemsplitError.code
            return cls(code, f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return cls(
            StemsplitError.code, f"{type(error).__name__}: {error}", "this is a bug; --debug shows where"
        )


def exit_code(failures: Sequence[Failure | None]) -> int:
    """Return 0 if nothing failed, 3 if some tracks failed, and if all did their common code 4 or 5, else 1.

    Args:
        failures: one per track, None for a track that succeeded.
    """
    codes = {failure.code for failure in failures if failure}
    if not codes:
        return 0
    if None in failures:
        return PARTIAL
    return codes.pop() if codes in ({4}, {5}) else 1

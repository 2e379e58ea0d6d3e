"""What came of a piece of work, as data: why it failed, and the exit code that this means."""

from collections.abc import Sequence
from dataclasses import dataclass

from stemsplit.errors import AudioError, OutputError, ResourceError, StemsplitError
from stemsplit.files import is_full

SCHEMA = 1  # of all JSON that the commands print or write
PARTIAL = 3  # the exit code of a batch of which only some failed


@dataclass(frozen=True)
class Failure:
    """Why a track failed: the exit code that it would have caused alone, and the sentence."""

    code: int
    message: str
    hint: str | None = None

    @classmethod
    def of(cls, error: BaseException, *, name_input: bool = False) -> "Failure":
        """Return the failure that an exception means.

        Args:
            error: what was raised.
            name_input: begin with the file also where it's an input, which a report of inputs names anyway.
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
    """Return 0 if nothing failed, 3 if some did, and if all did their common class (4 or 5) or 1.

    Args:
        failures: of every piece of work, None for what was done.
    """
    codes = {failure.code for failure in failures if failure}
    if not codes:
        return 0
    if None in failures:
        return PARTIAL
    return codes.pop() if codes in ({4}, {5}) else 1

"""What comes of a track: its scores or a failure."""

from dataclasses import dataclass

from stemsplit.errors import ResourceError, StemsplitError
from stemsplit.evaluation.score import Scores


@dataclass(frozen=True)
class Failure:
    """Why a track has no scores: the exit code that it would have caused alone, and the sentence."""

    code: int
    message: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """The failure that an exception means."""
        if isinstance(error, StemsplitError):
            return cls(error.code, str(error))
        if isinstance(error, MemoryError):
            return cls(ResourceError.code, "out of memory")
        return cls(StemsplitError.code, f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class Outcome:
    """What came of a track: scores or a failure."""

    name: str
    duration_s: float | None = None
    scores: Scores | None = None
    failure: Failure | None = None
    reused: bool = False
    wall_s: float = 0.0

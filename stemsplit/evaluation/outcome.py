"""What comes of a track: its scores or a failure."""

from dataclasses import dataclass

from stemsplit.evaluation.score import Scores
from stemsplit.outcome import Failure


@dataclass(frozen=True)
class Outcome:
    """What came of a track: scores or a failure."""

    name: str
    duration_s: float | None = None
    scores: Scores | None = None
    failure: Failure | None = None
    reused: bool = False
    wall_s: float = 0.0

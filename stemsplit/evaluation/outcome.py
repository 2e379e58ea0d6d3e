"""The outcome of one track of an evaluation; `run` makes them, `results` puts them together."""

from dataclasses import dataclass

from stemsplit.evaluation.score import Scores
from stemsplit.outcome import Failure


@dataclass(frozen=True)
class Outcome:
    """The scores of a track, or the failure.

    Attributes:
        name: the track.
        duration_s: its length in seconds, None if it can't be read.
        scores: None if it failed.
        failure: the first failure; a track may have scores by one method and a failure by another.
        reused: True if the scores are from an earlier run.
        wall_s: the time that it took, in seconds.
    """

    name: str
    duration_s: float | None = None
    scores: Scores | None = None
    failure: Failure | None = None
    reused: bool = False
    wall_s: float = 0.0

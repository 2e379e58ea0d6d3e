"""The events of a training run, beside those of `stemsplit.events`."""

from collections.abc import Mapping
from dataclasses import dataclass

from stemsplit.events import Event


@dataclass(frozen=True)
class Preparing(Event):
    """Song `number` of `count` is looked at, and decoded if a cache is wanted."""

    name: str
    number: int
    count: int


@dataclass(frozen=True)
class Trained(Event):
    """`step` of `steps` steps are done; this is epoch `epoch` of `epochs`.

    Attributes:
        name: of the run.
        loss: the mean since the last event.
        eta_s: seconds to the end, validations included.
    """

    name: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    eta_s: float


@dataclass(frozen=True)
class Validated(Event):
    """Whole songs were separated after `step` steps.

    Attributes:
        name: of the run. epoch: that is over, 0 before the first.
        scores: in dB, by candidate and stem, None where no song has it; `mean` is of the stems that count.
        best: the highest mean so far, None while no song gave one. improved: whether it is of now.
    """

    name: str
    epoch: int
    step: int
    scores: Mapping[str, Mapping[str, float | None]]
    best: float | None
    improved: bool


@dataclass(frozen=True)
class Finished(Event):
    """A run is over.

    Attributes:
        name: of the run. folder: where the model is. step: how many were done.
        best: score in dB, None without validation.
    """

    name: str
    folder: str
    step: int
    best: float | None

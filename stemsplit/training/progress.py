"""Events of a training run, in addition to those of `stemsplit.events`."""

from collections.abc import Mapping
from dataclasses import dataclass

from stemsplit.events import Event


@dataclass(frozen=True)
class Preparing(Event):
    """Song `number` of `count` is being measured, and decoded if there is a cache."""

    name: str
    number: int
    count: int


@dataclass(frozen=True)
class Trained(Event):
    """`step` of `steps` optimiser steps are done, in epoch `epoch` of `epochs`.

    Attributes:
        name: of the run.
        loss: mean since the last event.
        eta_s: estimated seconds to the end, including validations.
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
    """The validation songs were separated after `step` steps.

    Attributes:
        name: of the run. epoch: epoch that ended, 0 before the first step.
        scores: by candidate and stem; None if no song has the stem. `mean` is over weighted stems.
        best: highest mean so far; None before the first score. improved: true if this validation reached it.
        unit: of the scores, such as dB; empty if they have none.
    """

    name: str
    epoch: int
    step: int
    scores: Mapping[str, Mapping[str, float | None]]
    best: float | None
    improved: bool
    unit: str


@dataclass(frozen=True)
class Finished(Event):
    """The run ended.

    Attributes:
        name: of the run. folder: folder of the model. step: number of steps done.
        best: score; None without validation. unit: of the score, such as dB; empty if it has none.
    """

    name: str
    folder: str
    step: int
    best: float | None
    unit: str


@dataclass(frozen=True)
class Footprint(Event):
    """Memory of a training step, in bytes, measured for one sample on the CPU.

    Attributes:
        parameters: weights and buffers. trained: number of trained weights. of: number of all weights.
        gradients: of the trained weights. optimizer: state of the optimiser. averages: of the weights.
        activations: most that the forward and the backward pass of one sample keep at a time.
        samples: in a micro-batch of one device. precision: of the activations.
    """

    parameters: int
    trained: int
    of: int
    gradients: int
    optimizer: int
    averages: int
    activations: int
    samples: int
    precision: str

    @property
    def total(self) -> int:
        """Return the bytes of a step with a whole micro-batch."""
        kept = self.parameters + self.gradients + self.optimizer + self.averages
        return kept + self.samples * self.activations

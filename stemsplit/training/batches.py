"""Batches of training samples: which process gets which samples, from any step on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch.utils.data import DataLoader, Sampler

from stemsplit.training.data import Sample, Samples


@dataclass(frozen=True)
class MicroBatches:
    """Division of every step's batch among processes and gradient-accumulation micro-batches.

    Attributes:
        batch_size: samples per step, over all processes.
        steps: steps of a checkpoint interval.
        accumulate: micro-batches of a process per step.
        rank: of this process.
        world: number of processes.
    """

    batch_size: int
    steps: int
    accumulate: int = 1
    rank: int = 0
    world: int = 1

    def of_step(self, step: int) -> Iterator[list[int]]:
        """Yield the global sample indices of each of this process's micro-batches in `step` (from 0)."""
        size = self.batch_size // (self.world * self.accumulate)
        for number in range(self.accumulate):
            first = step * self.batch_size + (number * self.world + self.rank) * size
            yield list(range(first, first + size))


class ResumableSampler(Sampler[list[int]]):
    """Batch sampler of one checkpoint interval, which starts at the run's current step.

    Args:
        micro_batches: of this process.
        position: returns the number of steps done so far.
    """

    def __init__(self, micro_batches: MicroBatches, position: Callable[[], int]) -> None:
        self.micro_batches, self.position = micro_batches, position

    def __len__(self) -> int:
        """Return the number of micro-batches in an interval."""
        return self.micro_batches.steps * self.micro_batches.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of global sample indices."""
        first = self.position()
        for step in range(first, first + self.micro_batches.steps):
            yield from self.micro_batches.of_step(step)


def data_loader(samples: Samples, sampler: ResumableSampler, workers: int, pin: bool) -> DataLoader[Sample]:
    """Return a loader of micro-batches; with `workers`, processes of its own prepare them."""
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
    )

"""Mean and standard deviation of a whole track, which some models want their input standardised by."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class TrackStats:
    """Mean and unbiased standard deviation of a whole track's mono mix."""

    mean: float = 0.0
    std: float = 1.0

    # 1e-8 keeps silence finite; it is part of Demucs' definition and so of its published outputs.
    def standardise(self, mix: Tensor) -> Tensor:
        """[…] to zero mean and unit variance."""
        return (mix - self.mean) / (self.std + 1e-8)

    def undo(self, stems: Tensor) -> Tensor:
        """The inverse of `standardise`."""
        return stems * (self.std + 1e-8) + self.mean


class StatsMeter:
    """Measures `TrackStats` block by block (Chan, Golub, LeVeque 1979), in float64.

    In numpy, which stays in one thread: helpers of torch's would slow the thread that computes beside this.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def push(self, block: Tensor) -> None:
        """Take the next samples, [C, n]."""
        mono = block.numpy().mean(axis=0, dtype=np.float64)
        if not (count := len(mono)):
            return
        mean = float(mono.mean())
        delta, total = mean - self.mean, self.count + count
        self.squares += float(np.square(mono - mean).sum()) + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def stats(self) -> TrackStats:
        """The statistics of all samples so far."""
        return TrackStats(self.mean, (self.squares / max(1, self.count - 1)) ** 0.5)


def track_stats(blocks: Iterable[Tensor]) -> TrackStats:
    """Return the statistics of a whole track, [C, n] each, that is read again afterwards.

    Raises:
        ValueError: it can't be, being an iterator.
    """
    if isinstance(blocks, Iterator):
        raise ValueError("a model that normalises needs the track's statistics, or blocks to be read twice")
    meter = StatsMeter()
    for block in blocks:
        meter.push(block)
    return meter.stats()

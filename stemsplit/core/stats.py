"""Mean and standard deviation of a whole track, by which some models' input is standardised."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class TrackStats:
    """Mean and unbiased standard deviation of a whole track's mono mix."""

    mean: float = 0.0
    std: float = 1.0

    def standardise(self, mix: Tensor) -> Tensor:
        """Return audio of any shape with zero mean and unit variance."""
        # 1e-8 keeps silence finite; Demucs' published outputs were made with it.
        return (mix - self.mean) / (self.std + 1e-8)

    def undo(self, stems: Tensor) -> Tensor:
        """Undo `standardise` on stems of any shape."""
        return stems * (self.std + 1e-8) + self.mean


class StatsMeter:
    """Measure `TrackStats` block by block in float64 (Chan, Golub, LeVeque 1979).

    It uses numpy, which stays in one thread: torch's thread pool would slow the inference thread.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def push(self, block: Tensor) -> None:
        """Add the next samples, [C, n]."""
        mono = block.numpy().mean(axis=0, dtype=np.float64)  # [n]
        if not (count := len(mono)):
            return
        mean = float(mono.mean())
        delta, total = mean - self.mean, self.count + count
        # Σ(x − mean)² of the union of two sets: both sums, and δ²·n₁·n₂/(n₁ + n₂) for their means' distance.
        self.squares += float(np.square(mono - mean).sum()) + delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def stats(self) -> TrackStats:
        """Return the statistics of all samples so far."""
        return TrackStats(self.mean, (self.squares / max(1, self.count - 1)) ** 0.5)


def track_stats(blocks: Iterable[Tensor]) -> TrackStats:
    """Return the statistics of a whole track, whose blocks are read again afterwards.

    Args:
        blocks: [C, n] each.

    Raises:
        ValueError: `blocks` is an iterator, which can be read only once.
    """
    if isinstance(blocks, Iterator):
        raise ValueError("a model that normalises needs the track's statistics, or blocks to be read twice")
    meter = StatsMeter()
    for block in blocks:
        meter.push(block)
    return meter.stats()

"""Measures of a whole track by which some models' input is scaled, and the meters that take them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from torch import Tensor

from stemsplit.core.overlap import Chunk, Split

PEAK = 0.9  # louder tracks are scaled down to it by `PeakMeter`


@dataclass(frozen=True)
class TrackStats:
    """Offset and scale of a whole track: what is subtracted from it, and what it is divided by.

    Attributes:
        mean: of the mono mix; 0 for other measures than the deviation.
        std: unbiased standard deviation of the mono mix, or another measure of the track's level.
    """

    mean: float = 0.0
    std: float = 1.0

    def standardise(self, mix: Tensor) -> Tensor:
        """Return audio of any shape with zero mean and unit variance."""
        # 1e-8 keeps silence finite; Demucs' published outputs were made with it.
        return (mix - self.mean) / (self.std + 1e-8)

    def undo(self, stems: Tensor) -> Tensor:
        """Undo `standardise` on stems of any shape."""
        return stems * (self.std + 1e-8) + self.mean


class Meter(Protocol):
    """Measures a track block by block."""

    def push(self, block: Tensor) -> None:
        """Add the next samples, [C, n]."""

    def stats(self) -> TrackStats:
        """Return the measures of all samples so far."""


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


class PeakMeter:
    """Measure the level that brings a track's peak down to `PEAK`; a quieter track keeps its own."""

    def __init__(self) -> None:
        self.peak = 0.0

    def push(self, block: Tensor) -> None:
        """Add the next samples, [C, n]."""
        if block.shape[-1]:
            self.peak = max(self.peak, float(np.abs(block.numpy()).max()))

    def stats(self) -> TrackStats:
        """Return the scale of all samples so far."""
        return TrackStats(std=max(1.0, self.peak / PEAK))


class MagnitudeMeter:
    """Measure the largest magnitude of a track's spectrogram, as a model computes it chunk by chunk.

    Args:
        split: cuts the track into the model's chunks.
        magnitude: returns the largest magnitude of a chunk with its context, [C, n].
    """

    def __init__(self, split: Split, magnitude: Callable[[Tensor], float]) -> None:
        self.split, self.magnitude, self.largest = split, magnitude, 0.0

    def push(self, block: Tensor) -> None:
        """Add the next samples, [C, n]."""
        self._measure(self.split.push(block))

    def stats(self) -> TrackStats:
        """Return the scale of the whole track; nothing may be pushed afterwards."""
        self._measure(self.split.finish())
        return TrackStats(std=self.largest)

    def _measure(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            self.largest = max(self.largest, self.magnitude(chunk.audio))


def track_stats(blocks: Iterable[Tensor], meter: Meter) -> TrackStats:
    """Return the measures of a whole track, whose blocks are read again afterwards.

    Args:
        blocks: [C, n] each.
        meter: takes the measures.

    Raises:
        ValueError: `blocks` is an iterator, which can be read only once.
    """
    if isinstance(blocks, Iterator):
        raise ValueError("a model that normalises needs the track's statistics, or blocks to be read twice")
    for block in blocks:
        meter.push(block)
    return meter.stats()

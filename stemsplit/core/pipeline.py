"""The separation core: a stream of audio in, a stream of stems out, in bounded memory.

It knows nothing of files, names of stems or classes of networks. Whatever satisfies `Separable` can be run:
single networks, ensembles, narrowed networks, and plain functions in tests.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from stemsplit.core import compute as computing
from stemsplit.core import heap
from stemsplit.core.compute import Compute
from stemsplit.core.overlap import Chunk, Fifo, Merge, Split, stride_samples
from stemsplit.settings import DEFAULT_OVERLAP, ChunkSettings

CALLS_PER_TRIM = 8
LONGEST_SHIFT_S = 0.5  # the largest random delay of a time-shifted pass (Demucs, "shift trick")


class Separable(Protocol):
    """What the core can run.

    Attributes:
        stems: names, in the order of the output's stem axis.
        sample_rate: that the model works at, in Hz.
        channels: of mix and stems.
        segment_samples: the length of a chunk.
        context_samples: real audio that it wants on each side of every chunk.
        normalise: whether it wants the mix standardised over the whole track.
        overlap: the fraction of a chunk shared with the next that it was made for, None for the default.
    """

    stems: tuple[str, ...]
    sample_rate: int
    channels: int
    segment_samples: int
    context_samples: int
    normalise: bool
    overlap: float | None

    def __call__(self, mix: Tensor, /) -> Tensor:
        """[B, C, context + n + context] to [B, S, C, n], for any 0 < n ≤ segment_samples."""
        ...


class Piece(NamedTuple):
    """The stems [S, C, n] of a track from sample `start` on."""

    start: int
    stems: Tensor


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


class _Pass:
    """One pass over the track, delayed by `lead` samples: its chunks, and what came of them."""

    def __init__(self, model: Separable, settings: ChunkSettings, lead: int) -> None:
        stride = stride_samples(model.segment_samples, overlap_of(model, settings))
        self.split = Split(model.segment_samples, stride, model.context_samples, model.channels, lead)
        self.merge = Merge(model.segment_samples, stride, (len(model.stems), model.channels))
        self.ready = Fifo(skip=lead)


def overlap_of(model: Separable, settings: ChunkSettings) -> float:
    """Return the overlap of a model's chunks: the one that was asked for, its own, or the default."""
    asked = (settings.overlap, model.overlap, DEFAULT_OVERLAP)
    return next(overlap for overlap in asked if overlap is not None)


def separate_stream(
    model: Separable,
    blocks: Iterable[Tensor],
    settings: ChunkSettings = ChunkSettings(),
    stats: TrackStats | None = None,
    compute: Compute = Compute(),
) -> Iterator[Piece]:
    """Separate a stream; the memory held doesn't depend on its length.

    Args:
        model: on `compute.device` already.
        blocks: [C, any] each, at the model's rate and channels, float32 on the CPU.
        settings: overlap, shifts, seed and batch size.
        stats: of the whole track; a model that normalises can't do without.
        compute: the model's device and precision.

    Yields:
        Consecutive pieces that cover the track exactly.

    Raises:
        ValueError: the model normalises and `stats` is None.
        ResourceError: one chunk doesn't fit the device's memory.
    """
    if model.normalise and stats is None:
        raise ValueError("a model that normalises needs the track's statistics")
    scale, start = stats if model.normalise else None, 0
    prepared = (scale.standardise(block) for block in blocks) if scale else blocks
    for stems in _run_passes(model, prepared, settings, compute):
        yield Piece(start, scale.undo(stems) if scale else stems)
        start += stems.shape[-1]


def _run_passes(
    model: Separable, blocks: Iterable[Tensor], settings: ChunkSettings, compute: Compute
) -> Iterator[Tensor]:
    """The mean of all passes over the stream, [S, C, n] at a time. They advance in lockstep."""
    passes = [_Pass(model, settings, lead) for lead in _leads(model, settings)]
    batch = _Batch(model, settings.batch_size, compute)
    for one, chunk in _chunks(passes, blocks):
        batch.add(one, chunk)
        yield from _mean(passes)
    batch.flush()
    for one in passes:
        one.ready.push(one.merge.finish())
    yield from _mean(passes)


def _chunks(passes: list[_Pass], blocks: Iterable[Tensor]) -> Iterator[tuple[_Pass, Chunk]]:
    for block in blocks:
        for one in passes:
            yield from ((one, chunk) for chunk in one.split.push(block))
    for one in passes:
        yield from ((one, chunk) for chunk in one.split.finish())


def _mean(passes: list[_Pass]) -> Iterator[Tensor]:
    if count := min(one.ready.samples for one in passes):
        first, *others = (one.ready.pop(count) for one in passes)
        yield sum(others, first) / len(passes) if others else first


class _Batch:
    """Chunks of equal length that wait to be computed in one call.

    Without a given size the first is computed alone, which shows how many fit.
    """

    def __init__(self, model: Separable, size: int | None, compute: Compute) -> None:
        self.model, self.compute = model, compute
        self.size, self.measured = size or 1, size is not None
        self.waiting: list[tuple[_Pass, Chunk]] = []
        self.calls = 0

    def add(self, one: _Pass, chunk: Chunk) -> None:
        if self.waiting and self.waiting[0][1].samples != chunk.samples:
            self.flush()
        self.waiting.append((one, chunk))
        if len(self.waiting) == self.size:
            self.flush()

    def flush(self) -> None:
        if not self.waiting:
            return
        batch = torch.stack([chunk.audio for _, chunk in self.waiting])
        with computing.evaluating(self.model):
            outputs = computing.run(self.model, batch, self.compute)
        if not self.measured:
            self.size, self.measured = computing.batch_size(self.compute), True
        for (one, chunk), stems in zip(self.waiting, outputs, strict=True):
            one.ready.push(one.merge.push(chunk.start, stems))
        self.waiting.clear()
        self.calls += 1
        if self.calls % CALLS_PER_TRIM == 0:
            heap.trim()


def _leads(model: Separable, settings: ChunkSettings) -> list[int]:
    longest = int(LONGEST_SHIFT_S * model.sample_rate)
    generator = random.Random(settings.seed)
    return [longest - generator.randint(0, longest) for _ in range(settings.shifts)] or [0]


def separate_array(
    model: Separable,
    mix: Tensor,
    settings: ChunkSettings = ChunkSettings(),
    compute: Compute = Compute(),
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Separate a whole track that is in memory: the concatenation of `separate_stream`.

    Args:
        model: on `compute.device` already.
        mix: [C, T] at the model's rate and channels, float32 on the CPU.
        settings: overlap, shifts, seed and batch size.
        compute: the model's device and precision.
        progress: called with the number of finished samples.

    Returns:
        [S, C, T].
    """
    meter = StatsMeter()
    if model.normalise:
        meter.push(mix)
    stems = torch.empty(len(model.stems), *mix.shape)
    for piece in separate_stream(model, [mix], settings, meter.stats(), compute):
        end = piece.start + piece.stems.shape[-1]
        stems[..., piece.start : end] = piece.stems
        if progress is not None:
            progress(end)
    return stems

"""The separation core: a stream of audio in, a stream of stems out, in bounded memory.

It knows nothing of files or classes of networks. Whatever satisfies `Separable` can be run: networks, also
narrowed ones, a user's own module, and plain functions in tests.

A model is run in passes. Passes over one stream are averaged: time-shifted passes of one model, the members
of a bag, or both. They may differ in segment, context, overlap, normalisation and stems.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from stemsplit.core import compute as computing
from stemsplit.core import memory
from stemsplit.core.compute import Compute
from stemsplit.core.overlap import Chunk, Fifo, Merge, Split, stride_samples
from stemsplit.settings import DEFAULT_OVERLAP, ChunkSettings

CALLS_PER_TRIM = 8
LONGEST_SHIFT_S = 0.5  # the largest random delay of a time-shifted pass (Demucs, "shift trick")


class Separable(Protocol):
    """A model that the core can run.

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


class Several(Protocol):
    """Models that are averaged (a bag).

    Attributes:
        members: the models, of one sample rate and number of channels.
        weights: for each of them, how much it counts for each stem.
        stems: names of all stems.
        sample_rate: that the models work at, in Hz.
        channels: of mix and stems.
        normalise: whether one of them wants the mix standardised over the whole track.
    """

    @property
    def members(self) -> Sequence[Separable]:
        """The models."""

    @property
    def weights(self) -> Sequence[Mapping[str, float]]:
        """The weight of each model for each stem."""

    stems: tuple[str, ...]

    @property
    def sample_rate(self) -> int:
        """In Hz."""

    @property
    def channels(self) -> int:
        """Audio channels."""

    @property
    def normalise(self) -> bool:
        """True if one of them normalises."""


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


@dataclass(frozen=True)
class Pass:
    """One run of a model over a stream. Several of them are averaged.

    Attributes:
        model: on the device that computes.
        chunks: how the stream is cut.
        delay: samples of silence before the stream, for a pass that is shifted in time.
        weights: how much each of the model's stems counts; None counts each of them once.
    """

    model: Separable
    chunks: ChunkSettings = ChunkSettings()
    delay: int = 0
    weights: Mapping[str, float] | None = None

    def weight(self, stem: str) -> float:
        """Return how much the pass counts for a stem, 0 for one that it doesn't give."""
        if self.weights is None:
            return float(stem in self.model.stems)
        return self.weights.get(stem, 0.0)


class PerChannel:
    """A mono model that separates each channel of a stream by itself.

    Args:
        model: of one channel.
        channels: of the stream.
    """

    def __init__(self, model: Separable, channels: int) -> None:
        self.model, self.channels = model, channels
        self.stems, self.sample_rate = model.stems, model.sample_rate
        self.segment_samples, self.context_samples = model.segment_samples, model.context_samples
        self.normalise, self.overlap = model.normalise, model.overlap

    def __call__(self, mix: Tensor, /) -> Tensor:
        """Separate [B, C, context + n + context] to [B, S, C, n]."""
        alone = self.model(mix.flatten(0, 1)[:, None])  # [B·C, 1, T] -> [B·C, S, 1, n]
        stems: Tensor = alone.unflatten(0, mix.shape[:2])[:, :, :, 0].transpose(1, 2)  # [B, S, C, n]
        return stems


def each_channel(passes: Sequence[Pass], channels: int) -> tuple[Pass, ...]:
    """Return the passes of mono models over a stream of several channels."""
    models = {id(one.model): PerChannel(one.model, channels) for one in passes}
    return tuple(replace(one, model=models[id(one.model)]) for one in passes)


def passes_of(model: "Separable | Several", chunks: ChunkSettings = ChunkSettings()) -> tuple[Pass, ...]:
    """Return the passes that a model or a bag of models means: one for each member and shift.

    Args:
        model: a bag has `members` and their `weights`; anything else is its own only member.
        chunks: overlap, shifts, seed and batch size.
    """
    members = cast(Sequence[Separable], getattr(model, "members", (model,)))
    weights = cast(Sequence[Mapping[str, float] | None], getattr(model, "weights", (None,)))
    return tuple(
        Pass(member, chunks, delay, own)
        for member, own in zip(members, weights, strict=True)
        for delay in _delays(member, chunks)
    )


def stems_of(passes: Sequence[Pass]) -> tuple[str, ...]:
    """Return the stems that some pass gives, in the order of the passes."""
    stems = dict.fromkeys(stem for one in passes for stem in one.model.stems)
    return tuple(stem for stem in stems if any(one.weight(stem) for one in passes))


def overlap_of(model: Separable, chunks: ChunkSettings) -> float:
    """Return the overlap of a model's chunks: the one that was asked for, its own, or the default."""
    asked = (chunks.overlap, model.overlap, DEFAULT_OVERLAP)
    return next(overlap for overlap in asked if overlap is not None)


def separate_stream(
    passes: Sequence[Pass],
    blocks: Iterable[Tensor],
    stats: TrackStats | None = None,
    compute: Compute = Compute(),
    stems: Sequence[str] | None = None,
) -> Iterator[Piece]:
    """Separate a stream by the weighted mean of some passes, which advance in lockstep.

    The memory held doesn't depend on the stream's length.

    Args:
        passes: of models with the same sample rate and channels.
        blocks: [C, any] each, at the models' rate and channels, float32 on the CPU.
        stats: of the whole track; a model that normalises can't do without.
        compute: the models' device and precision.
        stems: which are wanted, in which order; None is `stems_of`.

    Yields:
        Consecutive pieces that cover the track exactly.

    Raises:
        ValueError: a model normalises and `stats` is None, or the models differ in rate or channels.
        ResourceError: one chunk doesn't fit the device's memory.
    """
    if len({(one.model.sample_rate, one.model.channels) for one in passes}) != 1:
        raise ValueError("passes over one stream need models of one sample rate and number of channels")
    if stats is None and any(one.model.normalise for one in passes):
        raise ValueError("a model that normalises needs the track's statistics")
    start = 0
    wanted = tuple(stems_of(passes) if stems is None else stems)
    for found in _lockstep([_Run(one, stats) for one in passes], wanted, blocks, compute):
        yield Piece(start, found)
        start += found.shape[-1]


class _Run:
    """A pass on its way: the chunks that wait for audio, and what came of the others."""

    def __init__(self, one: Pass, stats: TrackStats | None) -> None:
        model = one.model
        self.what, self.model = one, model
        self.scale = stats if model.normalise else None
        stride = stride_samples(model.segment_samples, overlap_of(model, one.chunks))
        self.split = Split(model.segment_samples, stride, model.context_samples, model.channels, one.delay)
        self.merge = Merge(model.segment_samples, stride, (len(model.stems), model.channels))
        self.ready = Fifo(skip=one.delay)

    def push(self, block: Tensor) -> Iterator[Chunk]:
        """Take the next samples of the stream, [C, n]; yield the chunks that they complete."""
        yield from self.split.push(self.scale.standardise(block) if self.scale else block)

    def done(self, stems: Tensor) -> None:
        """Take the next samples of the stems, [S, C, n]."""
        self.ready.push(self.scale.undo(stems) if self.scale else stems)


def _lockstep(
    runs: list[_Run], stems: Sequence[str], blocks: Iterable[Tensor], compute: Compute
) -> Iterator[Tensor]:
    """Yield the weighted mean of all runs, [S, C, n] at a time."""
    batches = {id(run.model): _Batch(run.model, run.what.chunks.batch_size, compute) for run in runs}
    for run, chunk in _chunks(runs, blocks):
        batches[id(run.model)].add(run, chunk)
        yield from _mean(runs, stems)
    for batch in batches.values():
        batch.flush()
    for run in runs:
        run.done(run.merge.finish())
    yield from _mean(runs, stems)


def _chunks(runs: list[_Run], blocks: Iterable[Tensor]) -> Iterator[tuple[_Run, Chunk]]:
    for block in blocks:
        for run in runs:
            yield from ((run, chunk) for chunk in run.push(block))
    for run in runs:
        yield from ((run, chunk) for chunk in run.split.finish())


def _mean(runs: list[_Run], stems: Sequence[str]) -> Iterator[Tensor]:
    """Yield what is ready in all runs, averaged stem by stem; nothing where one has to wait."""
    if not (count := min(run.ready.samples for run in runs)):
        return
    parts = [(run.what, run.ready.pop(count)) for run in runs]  # [S of the model, C, n] each
    if len(parts) == 1 and runs[0].what.weights is None and stems == runs[0].model.stems:
        yield parts[0][1]
        return
    yield torch.stack([_weighted(parts, stem) for stem in stems])  # [S, C, n]


def _weighted(parts: Sequence[tuple[Pass, Tensor]], stem: str) -> Tensor:
    """Return a stem's mean over the passes that give it, [C, n]."""
    total, weights = None, 0.0
    for one, samples in parts:
        if weight := one.weight(stem):
            part = samples[one.model.stems.index(stem)]
            part = part if weight == 1 else weight * part
            total = part if total is None else total + part
            weights += weight
    if total is None:
        raise ValueError(f"no pass gives {stem}")
    return total if weights == 1 else total / weights


class _Batch:
    """Chunks of equal length that wait to be computed in one call.

    Without a given size the first is computed alone, which shows how many fit.
    """

    def __init__(self, model: Separable, size: int | None, compute: Compute) -> None:
        self.model, self.compute = model, compute
        self.size, self.measured = size or 1, size is not None
        self.waiting: list[tuple[_Run, Chunk]] = []
        self.calls = 0

    def add(self, run: _Run, chunk: Chunk) -> None:
        if self.waiting and self.waiting[0][1].samples != chunk.samples:
            self.flush()
        self.waiting.append((run, chunk))
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
        for (run, chunk), stems in zip(self.waiting, outputs, strict=True):
            run.done(run.merge.push(chunk.start, stems))
        self.waiting.clear()
        self.calls += 1
        if self.calls % CALLS_PER_TRIM == 0:
            memory.trim()


def _delays(model: Separable, chunks: ChunkSettings) -> list[int]:
    """Return the delay of each shifted pass in samples, [0] for a single pass that isn't shifted."""
    longest = int(LONGEST_SHIFT_S * model.sample_rate)
    generator = random.Random(chunks.seed)
    return [longest - generator.randint(0, longest) for _ in range(chunks.shifts)] or [0]


def separate_array(
    model: "Separable | Several",
    mix: Tensor,
    chunks: ChunkSettings = ChunkSettings(),
    compute: Compute = Compute(),
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Separate a whole track that is in memory: the concatenation of `separate_stream`.

    Args:
        model: a model or a bag, on `compute.device` already.
        mix: [C, T] at the model's rate and channels, float32 on the CPU.
        chunks: overlap, shifts, seed and batch size.
        compute: the model's device and precision.
        progress: called with the number of finished samples.

    Returns:
        [S, C, T].
    """
    meter = StatsMeter()
    if model.normalise:
        meter.push(mix)
    stems = torch.empty(len(model.stems), *mix.shape)
    passes = passes_of(model, chunks)
    for piece in separate_stream(passes, [mix], meter.stats(), compute, model.stems):
        end = piece.start + piece.stems.shape[-1]
        stems[..., piece.start : end] = piece.stems
        if progress is not None:
            progress(end)
    return stems

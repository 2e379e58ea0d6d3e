"""The separation core: a stream of audio in, a stream of stems out, in bounded memory.

It knows no files and no classes of networks. Anything that satisfies `Separable` can run: networks, a user's
own module, plain functions in tests.

A model runs in passes. Passes over one stream are averaged: time-shifted passes of one model, the members of
a bag, or both. They may differ in segment, context, overlap, normalisation and stems.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from stemsplit.core import compute as computing
from stemsplit.core import memory
from stemsplit.core.compute import Compute
from stemsplit.core.overlap import Chunk, Fifo, Merge, Split, stride_samples
from stemsplit.core.separable import Separable, Several, chunking_of, level_of, meter_of, overlap_of
from stemsplit.core.stats import TrackStats, track_stats
from stemsplit.errors import SettingsError
from stemsplit.settings import ChunkSettings

CALLS_PER_TRIM = 8  # of the model, between two trims of the heap
LONGEST_SHIFT_S = 0.5  # the largest random delay of a time-shifted pass (Demucs, "shift trick")


class Piece(NamedTuple):
    """The stems of a stretch of the track.

    Attributes:
        start: its first sample.
        stems: [S, C, n].
    """

    start: int
    stems: Tensor


@dataclass(frozen=True)
class Pass:
    """One run of a model over a stream; several are averaged.

    Attributes:
        model: on the device that computes.
        chunks: overlap, batch size and the like.
        delay: samples of silence before the stream, for a time-shifted pass.
        weights: weight of each of the model's stems in the mean; None weighs each by 1.
        inverted: invert the polarity of the model's input, and of its output again.
        swapped: swap left and right in the model's input, and in its output again.
    """

    model: Separable
    chunks: ChunkSettings = ChunkSettings()
    delay: int = 0
    weights: Mapping[str, float] | None = None
    inverted: bool = False
    swapped: bool = False

    def turned(self, audio: Tensor) -> Tensor:
        """Return audio [..., C, n] inverted and swapped as the pass says; doing so twice undoes it."""
        audio = audio.flip(-2) if self.swapped else audio  # the channels, [..., C, n]
        return -audio if self.inverted else audio

    def weight(self, stem: str) -> float:
        """Return the weight of a stem, 0 if the pass doesn't give it."""
        if self.weights is None:
            return float(stem in self.model.stems)
        return self.weights.get(stem, 0.0)


class PerChannel:
    """A mono model, applied to each channel of a stream.

    Args:
        model: of one channel.
        channels: of the stream.
    """

    def __init__(self, model: Separable, channels: int) -> None:
        self.model, self.channels = model, channels
        self.stems, self.sample_rate = model.stems, model.sample_rate
        self.segment_samples, self.context_samples = model.segment_samples, model.context_samples
        self.normalise, self.overlap = model.normalise, model.overlap
        self.chunking, self.normalised_by = chunking_of(model), level_of(model)

    def magnitude(self, mix: Tensor) -> float:
        """Return the largest magnitude of [1, C, context + n + context]."""
        return float(cast(Any, self.model).magnitude(mix.flatten(0, 1)[:, None]))

    def __call__(self, mix: Tensor, /) -> Tensor:
        """Separate [B, C, context + n + context] to [B, S, C, n]."""
        mono = self.model(mix.flatten(0, 1)[:, None])  # [B·C, 1, T] -> [B·C, S, 1, n]
        stems: Tensor = mono.unflatten(0, mix.shape[:2])[:, :, :, 0].transpose(1, 2)  # [B, S, C, n]
        return stems


def each_channel(passes: Sequence[Pass], channels: int) -> tuple[Pass, ...]:
    """Return passes of mono models that take each channel of a stream separately."""
    # One wrapper per model, so that passes of one model still share its batches.
    models = {id(one.model): PerChannel(one.model, channels) for one in passes}
    return tuple(replace(one, model=models[id(one.model)]) for one in passes)


def passes_of(model: "Separable | Several", chunks: ChunkSettings = ChunkSettings()) -> tuple[Pass, ...]:
    """Return the passes of a model or a bag: one for each member, shift and augmentation.

    Args:
        model: a bag has `members` and `weights`; any other model counts as its only member.
        chunks: overlap, shifts, seed, batch size and test-time augmentation.
    """
    members = cast(Sequence[Separable], getattr(model, "members", (model,)))
    weights = cast(Sequence[Mapping[str, float] | None], getattr(model, "weights", (None,)))
    return tuple(
        Pass(member, chunks, delay, own, inverted, swapped)
        for member, own in zip(members, weights, strict=True)
        for delay in _delays(member, chunks)
        for inverted, swapped in _augmentations(member, chunks)
    )


def stems_of(passes: Sequence[Pass]) -> tuple[str, ...]:
    """Return the stems that the passes give, in the order of the passes."""
    stems = dict.fromkeys(stem for one in passes for stem in one.model.stems)
    return tuple(stem for stem in stems if any(one.weight(stem) for one in passes))


def separate_stream(
    passes: Sequence[Pass],
    blocks: Iterable[Tensor],
    stats: TrackStats | None = None,
    compute: Compute = Compute(),
    stems: Sequence[str] | None = None,
) -> Iterator[Piece]:
    """Separate a stream by the weighted mean of several passes, which advance in lockstep.

    The memory in use doesn't depend on the stream's length.

    Args:
        passes: of models with the same sample rate and channels.
        blocks: [C, any] each, at the models' rate and channels, float32 on the CPU.
        stats: of the whole track. If a model normalises and they are None, `blocks` are read twice.
        compute: the models' device and precision.
        stems: to return, in this order; None for `stems_of`.

    Yields:
        Consecutive pieces that cover the track exactly.

    Raises:
        ValueError: the models differ in rate or channels, or a model normalises, `stats` is None and `blocks`
            is an iterator, which can be read only once.
        ResourceError: one chunk doesn't fit the device's memory.
        SettingsError: a model returns another shape than [B, S, C, n].
    """
    if len({(one.model.sample_rate, one.model.channels) for one in passes}) != 1:
        raise ValueError("passes over one stream need models of one sample rate and number of channels")
    if stats is None and any(one.model.normalise for one in passes):
        stats = track_stats(blocks, meter_of(next(one.model for one in passes if one.model.normalise)))
    start = 0
    wanted = tuple(stems_of(passes) if stems is None else stems)
    for separated in _lockstep([_Run(one, stats) for one in passes], wanted, blocks, compute):
        yield Piece(start, separated)
        start += separated.shape[-1]


class _Run:
    """The state of a pass: audio that waits for a full chunk, and stems that wait for the other passes."""

    def __init__(self, one: Pass, stats: TrackStats | None) -> None:
        model = one.model
        self.one, self.model = one, model
        self.scale = stats if model.normalise else None
        segment, shape = model.segment_samples, (len(model.stems), model.channels)
        self.chunking = chunking_of(model)
        stride = stride_samples(segment, overlap_of(model, one.chunks))
        self.lead = one.delay + self.chunking.lead
        self.split = Split(segment, stride, model.context_samples, model.channels, self.lead)
        self.merge = Merge(segment, stride, shape, self.chunking.window)
        self.merged = 0  # samples, the lead included
        self.end: int | None = None  # of the stream, in these samples, once it is known
        self.ready = Fifo(skip=self.lead)  # [S, C, n], realigned with the stream

    def push(self, block: Tensor) -> Iterator[Chunk]:
        """Add the next samples of the stream, [C, n]; yield the chunks that they complete."""
        scaled = self.scale.standardise(block) if self.scale else block
        yield from self.split.push(self.one.turned(scaled))

    def finish(self) -> Iterator[Chunk]:
        """Yield the chunks that waited for more of the stream, which has ended."""
        self.end = self.split.received
        return self.split.finish(self.chunking.tail_samples(self.end - self.lead))

    def done(self, stems: Tensor) -> None:
        """Add the next samples of the stems, [S, C, n]; those after the end of the stream are dropped."""
        if self.end is not None:
            stems = stems[..., : self.end - self.merged]
        self.merged += stems.shape[-1]
        turned = self.one.turned(stems)
        self.ready.push(self.scale.undo(turned) if self.scale else turned)


def _lockstep(
    runs: list[_Run], stems: Sequence[str], blocks: Iterable[Tensor], compute: Compute
) -> Iterator[Tensor]:
    """Yield the weighted mean of all runs, [S, C, n] at a time."""
    # Passes of one model fill its batches together.
    batches = {id(run.model): _Batch(run.model, run.one.chunks.batch_size, compute) for run in runs}
    for run, chunk in _chunks(runs, blocks):
        batches[id(run.model)].add(run, chunk)
        yield from _mean(runs, stems)
    for batch in batches.values():
        batch.flush()
        batch.collect()
    for run in runs:
        run.done(run.merge.finish())
    yield from _mean(runs, stems)


def _chunks(runs: list[_Run], blocks: Iterable[Tensor]) -> Iterator[tuple[_Run, Chunk]]:
    for block in blocks:
        for run in runs:
            yield from ((run, chunk) for chunk in run.push(block))
    for run in runs:
        yield from ((run, chunk) for chunk in run.finish())


def _mean(runs: list[_Run], stems: Sequence[str]) -> Iterator[Tensor]:
    """Yield the mean, stem by stem, of the samples that are ready in all runs, if any."""
    if not (count := min(run.ready.samples for run in runs)):
        return
    parts = [(run.one, run.ready.pop(count)) for run in runs]  # [S of the model, C, n] each
    if len(parts) == 1 and runs[0].one.weights is None and stems == runs[0].model.stems:
        yield parts[0][1]
        return
    yield torch.stack([_weighted(parts, stem) for stem in stems])  # [S, C, n]


def _weighted(parts: Sequence[tuple[Pass, Tensor]], stem: str) -> Tensor:
    """Return a stem's weighted mean over the passes that give it, [C, n]."""
    total, weights = None, 0.0
    for one, samples in parts:
        if weight := one.weight(stem):
            part = samples[one.model.stems.index(stem)]
            part = part if weight == 1 else weight * part  # times 1 would be a copy for nothing
            total = part if total is None else total + part
            weights += weight
    if total is None:
        raise ValueError(f"no pass gives {stem}")
    return total if weights == 1 else total / weights  # Σ w·x / Σ w


class _Batch:
    """Chunks of equal length that wait to be computed in one call.

    If no size is given, the first chunk is computed by itself, to measure how many fit into memory. CUDA
    computes a batch while the stems of the one before are copied and added up here.
    """

    def __init__(self, model: Separable, size: int | None, compute: Compute) -> None:
        self.model, self.compute = model, compute
        self.size, self.measured = size or 1, size is not None
        self.waiting: list[tuple[_Run, Chunk]] = []
        self.started: list[tuple[list[tuple[_Run, Chunk]], Callable[[], Tensor]]] = []  # one at most
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
        batch = torch.stack([chunk.audio for _, chunk in self.waiting])  # [B, C, context + n + context]
        with computing.evaluating(self.model):
            outputs = computing.start(self.model, batch, self.compute)
        if not self.measured:
            self.size, self.measured = computing.batch_size(self.compute), True
        self.collect()
        self.started.append((self.waiting, outputs))
        self.waiting = []
        if self.compute.device.type != "cuda":
            self.collect()
        self.calls += 1
        if self.calls % CALLS_PER_TRIM == 0:
            memory.trim()

    def collect(self) -> None:
        """Wait for the batch that was started, and add its stems up."""
        while self.started:
            chunks, outputs = self.started.pop()
            found = outputs()  # [B, S, C, n]
            expected = (len(chunks), len(self.model.stems), self.model.channels, chunks[0][1].samples)
            if found.shape != expected:
                name = type(getattr(self.model, "model", self.model)).__name__
                what = f"model {name}: returns the shape {list(found.shape)} where {list(expected)} is due"
                raise SettingsError(what, setting="model")
            for (run, chunk), stems in zip(chunks, found, strict=True):
                run.done(run.merge.push(chunk.start, stems))


def _delays(model: Separable, chunks: ChunkSettings) -> list[int]:
    """Return the delays of the time-shifted passes in samples, [0] without shifts."""
    longest = int(LONGEST_SHIFT_S * model.sample_rate)
    generator = random.Random(chunks.seed)
    return [longest - generator.randint(0, longest) for _ in range(chunks.shifts)] or [0]


def _augmentations(model: Separable, chunks: ChunkSettings) -> list[tuple[bool, bool]]:
    """Return (inverted, swapped) of each pass of test-time augmentation; one plain pass without it."""
    augmentations = [(False, False)]
    if chunks.tta:
        augmentations += [(True, False)] + [(False, True)] * (model.channels == 2)
    return augmentations


def separate_array(
    model: "Separable | Several",
    mix: Tensor,
    chunks: ChunkSettings = ChunkSettings(),
    compute: Compute = Compute(),
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Separate a track in memory: the concatenation of `separate_stream`.

    Args:
        model: a model or a bag, on `compute.device` already.
        mix: [C, T] at the model's rate and channels, float32 on the CPU.
        chunks: overlap, shifts, seed and batch size.
        compute: the model's device and precision.
        progress: callback that gets the number of finished samples.

    Returns:
        [S, C, T].
    """
    stems = torch.empty(len(model.stems), *mix.shape)
    passes = passes_of(model, chunks)
    for piece in separate_stream(passes, [mix], compute=compute, stems=model.stems):
        end = piece.start + piece.stems.shape[-1]
        stems[..., piece.start : end] = piece.stems
        if progress is not None:
            progress(end)
    return stems

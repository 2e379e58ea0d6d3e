"""One track as a stream: decoded, brought to the model's rate, separated, and brought back.

The outputs have the source's rate and channels (or those asked for) and exactly its length.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np
import torch

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.resample import Resampler
from stemsplit.core.compute import Compute
from stemsplit.core.overlap import Fifo
from stemsplit.core.stream import (
    Piece,
    Separable,
    Several,
    StatsMeter,
    TrackStats,
    each_channel,
    passes_of,
    separate_stream,
)
from stemsplit.separation.mixes import MIX, Output, mix_down
from stemsplit.separation.source import Audio, Shape, Source
from stemsplit.settings import ChunkSettings


class OverflowingError(Exception):
    """The outputs have NaN or infinite samples, the first at `at_s` seconds."""

    def __init__(self, at_s: float) -> None:
        super().__init__(at_s)
        self.at_s = at_s


@dataclass(frozen=True)
class Measured:
    """What a first pass over a source found; both are None if the model needs no such pass."""

    frames: int | None
    stats: TrackStats | None


def measure(source: Source, model: Separable | Several) -> Measured:
    """Read the source once, if the model needs the whole track's statistics."""
    if not model.normalise:
        return Measured(None, None)
    meter, frames = StatsMeter(), 0
    to_model = Resampler(model.channels, source.sample_rate, model.sample_rate)
    for block in source.blocks():
        frames += block.shape[-1]
        meter.push(_tensor(to_model.push(convert_channels(block, model.channels, source.layout))))
    meter.push(_tensor(to_model.finish()))
    return Measured(frames, meter.stats())


def separate_track(
    source: Source,
    model: Separable | Several,
    outputs: Sequence[Output],
    shape: Shape,
    *,
    chunks: ChunkSettings = ChunkSettings(),
    compute: Compute = Compute(),
    measured: Measured | None = None,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Audio]:
    """Separate a track from end to end.

    Args:
        source: the audio.
        model: a model or a bag, on `compute.device`; gives at least the stems that `outputs` need.
        outputs: what to make of the stems.
        shape: of the outputs.
        chunks: overlap, shifts, seed, batch size.
        compute: the model's device and precision.
        measured: the source's `measure`, where it was taken before.
        progress: called with the seconds of audio separated.

    Yields:
        [O, C, n], consecutive; their lengths sum to the source's (at the rate of `shape`).

    Raises:
        OverflowingError: an output isn't finite.
    """
    measured = measured or measure(source, model)
    for_model, for_output = tee(source.blocks())
    original = converted(for_output, source, shape.channels, shape.sample_rate)
    mix, stems, start = Fifo(), Fifo(), 0

    def taken(count: int) -> Audio:
        nonlocal start
        terms = dict(zip(model.stems, stems.pop(count).numpy(), strict=True)) | {MIX: mix.pop(count).numpy()}
        block = mix_down(outputs, terms)
        require_finite(block, start, shape.sample_rate)
        start += count
        return block

    found = model_stems(for_model, source, model, shape, chunks, measured.stats, compute, progress)
    for block in found:
        stems.push(torch.from_numpy(block))
        fill(mix, original, stems.samples)
        if count := min(stems.samples, mix.samples):
            yield taken(count)
    fill(mix, original)
    if missing := max(0, mix.samples - stems.samples):
        stems.push(torch.zeros(len(model.stems), shape.channels, missing))
    if mix.samples:
        yield taken(mix.samples)


def require_finite(block: Audio, start: int, sample_rate: int) -> None:
    """Check outputs [O, C, n] that begin at sample `start`.

    Raises:
        OverflowingError: one isn't finite.
    """
    if not (finite := np.isfinite(block)).all():
        raise OverflowingError((start + int(np.argmin(finite.all(axis=(0, 1))))) / sample_rate)


def fill(fifo: Fifo, blocks: Iterator[Audio], samples: int | None = None) -> None:
    """Push blocks [..., n] into a queue until it holds `samples`, or all of them."""
    while samples is None or fifo.samples < samples:
        if (block := next(blocks, None)) is None:
            return
        fifo.push(_tensor(block))


def converted(blocks: Iterable[Audio], source: Source, channels: int, sample_rate: int) -> Iterator[Audio]:
    """Yield a source's blocks at another rate and with other channels, [C, n] each."""
    resampler = Resampler(channels, source.sample_rate, sample_rate)
    for block in blocks:
        yield resampler.push(convert_channels(block, channels, source.layout))
    yield resampler.finish()


def model_stems(
    blocks: Iterable[Audio],
    source: Source,
    model: Separable | Several,
    shape: Shape,
    chunks: ChunkSettings,
    stats: TrackStats | None,
    compute: Compute,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Audio]:
    """Separate a source by one model; yield its stems at the rate and channels of `shape`, [S, C, n] each.

    Args:
        blocks: of the source, [C, n] each.
        source: what they are blocks of.
        model: a model or a bag. A mono one separates each channel of a stereo track by itself.
        shape: of the stems.
        chunks: overlap, shifts, seed, batch size.
        stats: of the whole track, for a model that normalises.
        compute: the model's device and precision.
        progress: called with the seconds of audio separated.
    """
    passes, channels = passes_of(model, chunks), model.channels
    if channels == 1 and min(source.channels, shape.channels) > 1:
        channels = shape.channels
        passes = each_channel(passes, channels)
    count = len(model.stems)
    back = Resampler(count * shape.channels, model.sample_rate, shape.sample_rate)
    prepared = map(_tensor, converted(blocks, source, channels, model.sample_rate))
    for piece in separate_stream(passes, prepared, stats, compute, model.stems):
        ready = back.push(_outward(piece, shape.channels))
        if progress is not None:
            progress((piece.start + piece.stems.shape[-1]) / model.sample_rate)
        yield ready.reshape(count, shape.channels, -1)  # [S·C, n] -> [S, C, n]
    yield back.finish().reshape(count, shape.channels, -1)


def _outward(piece: Piece, channels: int) -> Audio:
    """The stems of a piece with the output's channels, flattened to [S·C, n]."""
    stems = piece.stems.numpy()
    return np.concatenate([convert_channels(stem, channels) for stem in stems])


def _tensor(audio: Audio) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio))

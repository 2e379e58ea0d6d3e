"""One track as a stream: decoded, brought to the model's rate, separated, and brought back.

The outputs have the source's rate and channels (or those asked for) and exactly its length.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
        model: a model or a bag, on `compute.device`; gives at least the stems that `outputs` need. A mono one
            separates each channel of a stereo track by itself.
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
    original = Fifo()
    back = Resampler(len(model.stems) * shape.channels, model.sample_rate, shape.sample_rate)
    stems, start = Fifo(), 0

    def taken(count: int) -> Audio:
        nonlocal start
        parts = stems.pop(count).view(len(model.stems), shape.channels, count).numpy()
        terms = dict(zip(model.stems, parts, strict=True)) | {MIX: original.pop(count).numpy()}
        block = mix_down(outputs, terms)
        if not (finite := np.isfinite(block)).all():
            first = start + int(np.argmin(finite.all(axis=(0, 1))))
            raise OverflowingError(first / shape.sample_rate)
        start += count
        return block

    passes, channels = passes_of(model, chunks), model.channels
    if channels == 1 and min(source.channels, shape.channels) > 1:
        channels = shape.channels
        passes = each_channel(passes, channels)
    prepared = _prepared(source, channels, model.sample_rate, shape, original)
    for piece in separate_stream(passes, prepared, measured.stats, compute, model.stems):
        stems.push(_tensor(back.push(_outward(piece, shape.channels))))
        if progress is not None:
            progress((piece.start + piece.stems.shape[-1]) / model.sample_rate)
        if count := min(stems.samples, original.samples):
            yield taken(count)
    stems.push(_tensor(back.finish()))
    if missing := max(0, original.samples - stems.samples):
        stems.push(torch.zeros(len(model.stems) * shape.channels, missing))
    if original.samples:
        yield taken(original.samples)


def _prepared(
    source: Source, channels: int, sample_rate: int, shape: Shape, original: Fifo
) -> Iterator[torch.Tensor]:
    """Yield the source at the model's rate and channels; keep it in the shape of the outputs."""
    to_model = Resampler(channels, source.sample_rate, sample_rate)
    to_output = Resampler(shape.channels, source.sample_rate, shape.sample_rate)
    for block in source.blocks():
        original.push(_tensor(to_output.push(convert_channels(block, shape.channels, source.layout))))
        yield _tensor(to_model.push(convert_channels(block, channels, source.layout)))
    original.push(_tensor(to_output.finish()))
    yield _tensor(to_model.finish())


def _outward(piece: Piece, channels: int) -> Audio:
    """The stems of a piece with the output's channels, flattened to [S·C, n]."""
    stems = piece.stems.numpy()
    return np.concatenate([convert_channels(stem, channels) for stem in stems])


def _tensor(audio: Audio) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio))

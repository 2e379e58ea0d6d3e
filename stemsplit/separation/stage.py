"""One model over one source: decoded audio in, stems at any rate and with any channels out."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.resample import Resampler, resampled_frames
from stemsplit.core.compute import Compute
from stemsplit.core.stats import StatsMeter, TrackStats
from stemsplit.core.stream import Piece, Separable, Several, each_channel, passes_of, separate_stream
from stemsplit.separation.source import Audio, Shape, Source
from stemsplit.settings import ChunkSettings

Model = Separable | Several


@dataclass(frozen=True)
class Measured:
    """What a first pass over a source found.

    Attributes:
        frames: its length in samples, None if no pass was needed.
        stats: by run, of what the models see that normalise.
    """

    frames: int | None = None
    stats: Mapping[int, TrackStats] = field(default_factory=dict)


NOT_MEASURED = Measured()


def measure(source: Source, models: Mapping[int, Model]) -> Measured:
    """Read a source once, if some of the models need its statistics."""
    meters = {
        run: (StatsMeter(), Resampler(model.channels, source.sample_rate, model.sample_rate), model.channels)
        for run, model in models.items()
        if model.normalise
    }
    if not meters:
        return NOT_MEASURED
    frames = 0
    for block in source.blocks():
        frames += block.shape[-1]
        for meter, to_model, channels in meters.values():
            meter.push(_tensor(to_model.push(convert_channels(block, channels, source.layout))))
    for meter, to_model, _ in meters.values():
        meter.push(_tensor(to_model.finish()))
    return Measured(frames, {run: meter.stats() for run, (meter, *_) in meters.items()})


def converted(blocks: Iterable[Audio], source: Source, channels: int, sample_rate: int) -> Iterator[Audio]:
    """Yield a source's blocks at another rate and with other channels, [C, n] each."""
    resampler = Resampler(channels, source.sample_rate, sample_rate)
    for block in blocks:
        yield resampler.push(convert_channels(block, channels, source.layout))
    yield resampler.finish()


def model_stems(
    blocks: Iterable[Audio],
    source: Source,
    model: Model,
    stems: Sequence[str],
    shape: Shape,
    chunks: ChunkSettings,
    stats: TrackStats | None,
    compute: Compute,
    progress: Callable[[float], None],
) -> Iterator[Audio]:
    """Separate a source by one model.

    Args:
        blocks: of the source, [C, n] each.
        source: what they are blocks of.
        model: a model or a bag. A mono one separates each channel of a stereo track by itself.
        stems: which are wanted.
        shape: of the stems.
        chunks: overlap, shifts, seed, batch size.
        stats: of the whole track, for a model that normalises.
        compute: the model's device and precision.
        progress: called with the seconds of audio separated.

    Yields:
        The stems at the rate and channels of `shape`, [S, C, n]; all together as long as the source.
    """
    passes, channels = passes_of(model, chunks), model.channels
    if channels == 1 and min(source.channels, shape.channels) > 1:
        channels = shape.channels
        passes = each_channel(passes, channels)
    count, frames = len(stems), 0

    def counted() -> Iterator[Audio]:
        nonlocal frames
        for block in blocks:
            frames += block.shape[-1]
            yield block

    back = Resampler(count * shape.channels, model.sample_rate, shape.sample_rate)
    prepared = map(_tensor, converted(counted(), source, channels, model.sample_rate))
    for piece in separate_stream(passes, prepared, stats, compute, stems):
        ready = back.push(_outward(piece, shape.channels))
        progress((piece.start + piece.stems.shape[-1]) / model.sample_rate)
        yield ready.reshape(count, shape.channels, -1)  # [S·C, n] -> [S, C, n]
    frames = resampled_frames(frames, source.sample_rate, shape.sample_rate)
    yield back.finish(frames).reshape(count, shape.channels, -1)


def _outward(piece: Piece, channels: int) -> Audio:
    """The stems of a piece with the output's channels, flattened to [S·C, n]."""
    stems = piece.stems.numpy()
    return np.concatenate([convert_channels(stem, channels) for stem in stems])


def _tensor(audio: Audio) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio))

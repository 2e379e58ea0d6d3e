"""Run one model over one source: decoded audio in, stems at any rate and with any channels out.

`track` runs a stage for every model of a recipe; `core.stream` does the separation itself.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.resample import Resampler, resampled_frames
from stemsplit.core.compute import Compute
from stemsplit.core.separable import Separable, Several, meter_of
from stemsplit.core.stats import TrackStats
from stemsplit.core.stream import Piece, each_channel, passes_of, separate_stream
from stemsplit.separation.source import Audio, Shape, Source
from stemsplit.settings import ChunkSettings

Model = Separable | Several


@dataclass(frozen=True)
class Measured:
    """Results of a first pass over a source.

    Attributes:
        frames: its length in samples; None if no pass was needed.
        stats: by run, mean and standard deviation of the input of each model that normalises.
    """

    frames: int | None = None
    stats: Mapping[int, TrackStats] = field(default_factory=dict)


NOT_MEASURED = Measured()


def measure(source: Source, models: Mapping[int, Model]) -> Measured:
    """Read a source once, if some of the models need its statistics; the models are given by run."""
    # Statistics are those of the network's input, so they are taken at the model's rate and channels.
    meters = {
        run: (
            meter_of(model),
            Resampler(model.channels, source.sample_rate, model.sample_rate),
            model.channels,
        )
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
        blocks: the source's blocks, [C, n] each.
        source: rate, channels and layout of the blocks.
        model: a model or a bag. A mono model separates each channel of a stereo track by itself.
        stems: the S stems to compute.
        shape: rate and channels of the stems.
        chunks: overlap, shifts, seed, batch size.
        stats: mean and standard deviation of the whole track, for a model that normalises.
        compute: the model's device and precision.
        progress: called with the seconds of audio separated so far.

    Yields:
        The stems at the rate and channels of `shape`, [S, C, n]; together as long as the source.
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

    # All channels of all stems go through one resampler.
    to_output = Resampler(count * shape.channels, model.sample_rate, shape.sample_rate)
    prepared = map(_tensor, converted(counted(), source, channels, model.sample_rate))
    for piece in separate_stream(passes, prepared, stats, compute, stems):
        ready = to_output.push(_flattened(piece, shape.channels))  # [S·C, n]
        progress((piece.start + piece.stems.shape[-1]) / model.sample_rate)
        yield ready.reshape(count, shape.channels, -1)  # [S, C, n]
    # Two resamplings may round the length differently than one: cut or fill to the source's length.
    frames = resampled_frames(frames, source.sample_rate, shape.sample_rate)
    yield to_output.finish(frames).reshape(count, shape.channels, -1)  # [S, C, n]


def _flattened(piece: Piece, channels: int) -> Audio:
    """Return the stems of a piece with the output's channels, [S·C, n]."""
    stems = piece.stems.numpy()  # [S, C, n]
    return np.concatenate([convert_channels(stem, channels) for stem in stems])  # [S·C, n]


def _tensor(audio: Audio) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(audio))

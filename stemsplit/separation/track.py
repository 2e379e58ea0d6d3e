"""Separate one track as a stream: decode, bring to each model's rate, separate, blend, and bring back.

The outputs have the source's rate and channels (or those asked for) and exactly its length. The stems of
combined models are added and blended at the track's own rate and channels. `runner` calls this for each
track; `stage` runs a single model, `signals` connects the models.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from stemsplit.audio.channels import channel_groups, convert_channels
from stemsplit.audio.resample import Resampler
from stemsplit.core.blends import make_blend
from stemsplit.core.compute import Compute
from stemsplit.core.stats import TrackStats
from stemsplit.separation.flow import Flow, StemBlend
from stemsplit.separation.outputs import MIX, Output, Sum
from stemsplit.separation.signals import SignalGroup, Signals, Spool
from stemsplit.separation.source import Audio, Shape, Source
from stemsplit.separation.stage import NOT_MEASURED, Measured, Model, converted, measure, model_stems
from stemsplit.separation.surround import ChannelGroup, separate_each
from stemsplit.settings import ChunkSettings

# Returns the model of a run; it may be freed when the context ends.
Models = Callable[[int], AbstractContextManager[Model]]
_SOURCE = "the source"  # name of the signal that is the track at its own rate with all its channels


class OverflowingError(Exception):
    """The outputs have NaN or infinite samples, the first at `at_s` seconds."""

    def __init__(self, at_s: float) -> None:
        super().__init__(at_s)
        self.at_s = at_s


def separate_track(
    source: Source,
    flow: Flow,
    models: Models,
    outputs: Sequence[Output],
    shape: Shape,
    *,
    chunks: ChunkSettings = ChunkSettings(),
    compute: Compute = Compute(),
    sequential: bool = False,
    measured: Measured = NOT_MEASURED,
    progress: Callable[[float], None] | None = None,
) -> Iterator[Audio]:
    """Separate a track from end to end.

    All models advance in step, in memory that doesn't grow with the track. If a model needs the statistics of
    another one's stem, or if only one model may be loaded at a time, stems go through temporary files.

    Args:
        source: the audio.
        flow: the models and the signals that they separate.
        models: returns the model of a run, on `compute.device`.
        outputs: sums of the flow's stems and the mix.
        shape: rate and channels of the outputs.
        chunks: overlap, shifts, seed, batch size.
        compute: the models' device and precision.
        sequential: load one model at a time, one after the other; the result is the same.
        measured: the result of `measure`, if it was called before.
        progress: called with the seconds of audio separated, the mean over all models.

    Yields:
        Consecutive blocks of the outputs, [O, C, n]; their lengths sum to the source's (at the rate of
        `shape`).

    Raises:
        OverflowingError: an output isn't finite.
        ResourceError: the disk has too little room for the temporary files.
    """
    if shape.channels > 2:
        groups = channel_groups(source.channels, source.layout)
        of_groups = _MeanProgress(groups, progress)

        def separate_group(group: ChannelGroup) -> Iterator[Audio]:
            return separate_track(
                group,
                flow,
                models,
                outputs,
                Shape(shape.sample_rate, group.channels),
                chunks=chunks,
                compute=compute,
                sequential=sequential,
                progress=of_groups.of(group.indices),
            )

        yield from separate_each(source, groups, separate_group)
        return
    sums = flow.signals_of(outputs)
    # Stems of several models are combined at the track's rate; those of one model go straight to the
    # output's.
    stream = Shape(source.sample_rate, min(2, source.channels)) if flow.combined else shape
    with ExitStack() as stack:
        overall = _MeanProgress(flow.runs, progress)
        work = _Work(source, flow, stream, stack, chunks, compute, measured, overall)
        last_models = dict[int, Model]()
        if sequential:
            for run in flow.runs:
                with models(run) as model:
                    work.spool({run: model}, sums)
        else:
            loaded = {run: stack.enter_context(models(run)) for run in flow.runs}
            *earlier, last_models = _levels(flow, loaded)
            for level in earlier:
                work.spool(level, sums)
        start = 0
        blocks = work.signals(last_models).read(sums)
        for block in _reshaped(blocks, len(sums), stream, shape):
            _require_finite(block, start, shape.sample_rate)
            yield block
            start += block.shape[-1]


def _levels(flow: Flow, models: Mapping[int, Model]) -> list[dict[int, Model]]:
    """Group the runs into levels of models that advance together, one level after the other.

    A model that normalises needs the statistics of its whole input, so it is one level above the models that
    compute that input.
    """
    level = dict[int, int]()
    for number, run in flow.runs.items():
        before = {flow.run_of(signal) for signal in flow.direct([run.input])} - {None}
        waits = bool(before) and models[number].normalise
        level[number] = max((level[one] for one in before if one is not None), default=0) + waits
    return [
        {run: model for run, model in models.items() if level[run] == number}
        for number in range(max(level.values(), default=0) + 1)
    ]


@dataclass
class _Work:
    """State of a track that is being separated: the signals of running models, and those in temporary files.

    Attributes:
        source, flow, chunks, compute, measured: see `separate_track`.
        stream: the rate and channels at which stems of several models are combined.
        stack: removes the temporary files at the end.
        progress: combines the progress of all runs.
        spools: the temporary file of each signal by its name.
    """

    source: Source
    flow: Flow
    stream: Shape
    stack: ExitStack
    chunks: ChunkSettings
    compute: Compute
    measured: Measured
    progress: "_MeanProgress"
    spools: dict[str, Spool] = field(default_factory=dict)

    @cached_property
    def folder(self) -> Path:
        """The folder of the temporary files."""
        return Path(self.stack.enter_context(TemporaryDirectory(prefix="stemsplit-")))

    def spool(self, models: Mapping[int, Model], sums: Sequence[Sum]) -> None:
        """Run some models over the whole track, and write to a file the stems that others or `sums` need."""
        later = [run.input for number, run in self.flow.runs.items() if number not in models]
        needed = self.flow.direct([*later, *sums])
        made = [name for number in models for name in self.flow.runs[number].signals(number)]
        names = tuple(name for name in made if name in needed)
        spool = Spool(self.folder / f"{len(self.spools)}.f32", names, self.stream.channels)
        spool.write(self.signals(models).read([Sum((name,)) for name in names]))
        self.spools.update(dict.fromkeys(names, spool))

    def signals(self, models: Mapping[int, Model]) -> Signals:
        """Return the signals of the models that run now, and those in temporary files."""
        return Signals(partial(self._make, models, self._stats(models)))

    def _stats(self, models: Mapping[int, Model]) -> dict[int, TrackStats]:
        """Return mean and standard deviation of the input of each model that normalises, by run."""
        stats = dict(self.measured.stats)
        whole = {run: model for run, model in models.items() if run not in stats and model.normalise}
        direct = {run: model for run, model in whole.items() if self.flow.runs[run].from_mix}
        stats |= measure(self.source, direct).stats
        for run in whole.keys() - direct.keys():
            stats |= measure(self._input(run, self.signals({})), {run: whole[run]}).stats
        return stats

    def _input(self, run: int, signals: Signals) -> Source:
        """Return the input of a run: the track at its own rate, or a sum of signals at the stream's rate."""
        if self.flow.runs[run].from_mix:
            return self.source
        return _SumSource(self.stream.sample_rate, self.stream.channels, signals, self.flow.runs[run].input)

    def _make(
        self, models: Mapping[int, Model], stats: Mapping[int, TrackStats], name: str, signals: Signals
    ) -> SignalGroup:
        """Return the signal of a name and those that are computed with it, for `Signals`."""
        if name == _SOURCE:
            return SignalGroup((name,), (block[None] for block in self.source.blocks()))  # [1, C, n] each
        if name == MIX:  # from the source's signal, so that the file is decoded once for all readers
            original = _single(signals.read([Sum((_SOURCE,))]))
            shaped = converted(original, self.source, self.stream.channels, self.stream.sample_rate)
            return SignalGroup((name,), (block[None] for block in shaped))  # [1, C, n] each
        if name in self.spools:
            return self.spools[name].read()
        if (blend := self.flow.blends.get(name)) is not None:
            return SignalGroup((name,), _blended(blend, signals.read(blend.parts)))
        run = self.flow.run_of(name)
        if run is None:
            raise ValueError(f"no signal is called {name}")
        return self._run(run, models[run], stats.get(run), signals)

    def _run(self, number: int, model: Model, stats: TrackStats | None, signals: Signals) -> SignalGroup:
        run, source = self.flow.runs[number], self._input(number, signals)
        blocks = _single(signals.read([Sum((_SOURCE,))])) if run.from_mix else source.blocks()
        stems = model_stems(
            blocks,
            source,
            model,
            run.stems,
            self.stream,
            self.chunks,
            stats,
            self.compute,
            self.progress.of(number),
        )
        return SignalGroup(run.signals(number), stems)


@dataclass(frozen=True)
class _SumSource:
    """A sum of signals as a source that can be read once."""

    sample_rate: int
    channels: int
    signals: Signals
    sum: Sum
    layout: str | None = None
    notices: Sequence[str] = ()

    def blocks(self) -> Iterator[Audio]:
        """Return the blocks of the sum, [C, n] each."""
        return _single(self.signals.read([self.sum]))


class _MeanProgress:
    """Progress of several parts of the work as one number: the mean of the seconds that they have done."""

    def __init__(self, parts: Iterable[Hashable], progress: Callable[[float], None] | None) -> None:
        self._done = dict.fromkeys(parts, 0.0)
        self._progress = progress

    def of(self, part: Hashable) -> Callable[[float], None]:
        """Return the progress callback of one part."""

        def update(done_s: float) -> None:
            self._done[part] = done_s
            if self._progress is not None:
                self._progress(sum(self._done.values()) / len(self._done))

        return update


def _single(blocks: Iterator[Audio]) -> Iterator[Audio]:
    """Return the blocks [C, n] of a single signal [1, C, n]."""
    return (block[0] for block in blocks)  # [C, n] each


def _blended(blend: StemBlend, blocks: Iterator[Audio]) -> Iterator[Audio]:
    """Blend the M estimates of a stem, [M, C, n] each, into blocks [1, C, n]."""
    blender = make_blend(blend.blend, blend.weights)
    for block in blocks:
        yield blender.push(list(torch.from_numpy(block))).numpy()[None]  # [1, C, n]
    yield blender.finish().numpy()[None]  # [1, C, n]


def _reshaped(blocks: Iterator[Audio], count: int, stream: Shape, shape: Shape) -> Iterator[Audio]:
    """Bring blocks of O outputs, [O, C, n], to the rate and channels of `shape`."""
    if stream == shape:
        yield from blocks
        return
    resampler = Resampler(count * shape.channels, stream.sample_rate, shape.sample_rate)
    for block in blocks:
        flat = np.concatenate([convert_channels(output, shape.channels) for output in block])  # [O·C, n]
        yield resampler.push(flat).reshape(count, shape.channels, -1)  # [O, C, n]
    yield resampler.finish().reshape(count, shape.channels, -1)  # [O, C, n]


def _require_finite(block: Audio, start: int, sample_rate: int) -> None:
    """Check a block of outputs [O, C, n] that begins at sample `start`.

    Raises:
        OverflowingError: a sample is NaN or infinite.
    """
    if not (finite := np.isfinite(block)).all():
        raise OverflowingError((start + int(np.argmin(finite.all(axis=(0, 1))))) / sample_rate)

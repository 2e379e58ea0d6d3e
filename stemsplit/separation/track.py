"""One track as a stream: decoded, brought to each model's rate, separated, blended, and brought back.

The outputs have the source's rate and channels (or those asked for) and exactly its length. Models that are
combined meet at the track's own rate and channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from stemsplit.audio.channels import channel_groups, convert_channels
from stemsplit.audio.resample import Resampler
from stemsplit.core.blends import make_blend
from stemsplit.core.compute import Compute
from stemsplit.core.stats import TrackStats
from stemsplit.separation.flow import Flow, Joint
from stemsplit.separation.outputs import MIX, Output, Sum
from stemsplit.separation.signals import Made, Signals, Spool
from stemsplit.separation.source import Audio, Shape, Source
from stemsplit.separation.stage import NOT_MEASURED, Measured, Model, converted, measure, model_stems
from stemsplit.separation.surround import separate_each
from stemsplit.settings import ChunkSettings

# Gives the model of a run, and lets go of it when the context ends.
Models = Callable[[int], AbstractContextManager[Model]]
_SOURCE = "the source"  # the signal of the track at its own rate and with all its channels


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

    All models advance in lockstep, and nothing that is held grows with the track. Where a model needs the
    statistics of what another one gives, or one model is to be loaded at a time, stems are spooled to
    temporary files instead.

    Args:
        source: the audio.
        flow: which models run over what.
        models: gives them, on `compute.device`.
        outputs: sums of the flow's stems and the mix.
        shape: of the outputs.
        chunks: overlap, shifts, seed, batch size.
        compute: the models' device and precision.
        sequential: load one model at a time, one after the other; the result is the same.
        measured: the source's `measure`, where it was taken before.
        progress: called with the seconds of audio separated, the mean over all models.

    Yields:
        [O, C, n], consecutive; their lengths sum to the source's (at the rate of `shape`).

    Raises:
        OverflowingError: an output isn't finite.
        ResourceError: the stems that wait don't fit the disk.
    """
    if shape.channels > 2:

        def one(part: Source, tell: Callable[[float], None]) -> Iterator[Audio]:
            return separate_track(
                part,
                flow,
                models,
                outputs,
                Shape(shape.sample_rate, part.channels),
                chunks=chunks,
                compute=compute,
                sequential=sequential,
                progress=tell,
            )

        groups = channel_groups(source.channels, source.layout)
        yield from separate_each(source, groups, one, progress)
        return
    outputs = flow.expand(outputs)
    # a single model's stems need no rate in common
    stream = Shape(source.sample_rate, min(2, source.channels)) if flow.combined else shape
    with ExitStack() as stack:
        work = _Work(source, flow, stream, stack, chunks, compute, measured, _Shares(flow.runs, progress))
        last = dict[int, Model]()
        if sequential:
            for run in flow.runs:
                with models(run) as model:
                    work.spool({run: model}, outputs)
        else:
            loaded = {run: stack.enter_context(models(run)) for run in flow.runs}
            *before, last = _levels(flow, loaded)
            for level in before:
                work.spool(level, outputs)
        start = 0
        blocks = work.signals(last).read(outputs)
        for block in _reshaped(blocks, len(outputs), stream, shape):
            _require_finite(block, start, shape.sample_rate)
            yield block
            start += block.shape[-1]


def _levels(flow: Flow, models: Mapping[int, Model]) -> list[dict[int, Model]]:
    """Return the runs that can advance together; a level is needed whole before the next one begins."""
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
    """A track under way: the signals of the models that are run now, and those that were spooled.

    Attributes:
        source, flow, chunks, compute, measured: see `separate_track`.
        stream: the rate and channels at which models meet.
        stack: removes the temporary files.
        shares: hears of the progress of every run.
        spools: by the names of the signals in them.
    """

    source: Source
    flow: Flow
    stream: Shape
    stack: ExitStack
    chunks: ChunkSettings
    compute: Compute
    measured: Measured
    shares: "_Shares"
    spools: dict[str, Spool] = field(default_factory=dict)

    def spool(self, models: Mapping[int, Model], outputs: Sequence[Output]) -> None:
        """Run some models to the end, and keep those of their stems that are needed later."""
        later = [run.input for number, run in self.flow.runs.items() if number not in models]
        needed = self.flow.direct([*later, *(output.sum for output in outputs)])
        made = [name for number in models for name in self.flow.runs[number].signals(number)]
        names = tuple(name for name in made if name in needed)
        if not self.spools:
            folder = self.stack.enter_context(TemporaryDirectory(prefix="stemsplit-"))
        else:
            folder = str(next(iter(self.spools.values())).path.parent)
        spool = Spool(Path(folder) / f"{len(self.spools)}.f32", names, self.stream.channels)
        spool.write(self.signals(models).read([Sum((name,)) for name in names]))
        self.spools.update(dict.fromkeys(names, spool))

    def signals(self, models: Mapping[int, Model]) -> Signals:
        """Return the signals of some models that are run now, and of all that are there already."""
        return Signals(partial(self._make, models, self._stats(models)))

    def _stats(self, models: Mapping[int, Model]) -> dict[int, TrackStats]:
        """Return the statistics of what each model sees that normalises."""
        stats = dict(self.measured.stats)
        whole = {run: model for run, model in models.items() if run not in stats and model.normalise}
        direct = {run: model for run, model in whole.items() if self.flow.runs[run].from_mix}
        stats |= measure(self.source, direct).stats
        for run in whole.keys() - direct.keys():
            stats |= measure(self._input(run, self.signals({})), {run: whole[run]}).stats
        return stats

    def _input(self, run: int, signals: Signals) -> Source:
        """Return what a run separates: the track as it is, or a sum of signals at the stream's rate."""
        if self.flow.runs[run].from_mix:
            return self.source
        return _Derived(self.stream.sample_rate, self.stream.channels, signals, self.flow.runs[run].input)

    def _make(
        self, models: Mapping[int, Model], stats: Mapping[int, TrackStats], name: str, signals: Signals
    ) -> Made:
        if name == _SOURCE:
            return Made((name,), (block[None] for block in self.source.blocks()))
        if name == MIX:
            original = _only(signals.read([Sum((_SOURCE,))]))
            shaped = converted(original, self.source, self.stream.channels, self.stream.sample_rate)
            return Made((name,), (block[None] for block in shaped))
        if name in self.spools:
            return self.spools[name].read()
        if (joint := self.flow.blends.get(name)) is not None:
            return Made((name,), _blended(joint, signals.read(joint.parts)))
        run = self.flow.run_of(name)
        if run is None:
            raise ValueError(f"no signal is called {name}")
        return self._run(run, models[run], stats.get(run), signals)

    def _run(self, run: int, model: Model, stats: TrackStats | None, signals: Signals) -> Made:
        about, source = self.flow.runs[run], self._input(run, signals)
        blocks = _only(signals.read([Sum((_SOURCE,))])) if self.flow.runs[run].from_mix else source.blocks()
        stems = model_stems(
            blocks,
            source,
            model,
            about.stems,
            self.stream,
            self.chunks,
            stats,
            self.compute,
            self.shares.of(run),
        )
        return Made(about.signals(run), stems)


@dataclass(frozen=True)
class _Derived:
    """A sum of signals as a source, which can be read once."""

    sample_rate: int
    channels: int
    signals: Signals
    sum: Sum
    layout: str | None = None
    notices: Sequence[str] = ()

    def blocks(self) -> Iterator[Audio]:
        """Return the blocks, [C, n] each."""
        return _only(self.signals.read([self.sum]))


class _Shares:
    """The progress of all runs as one: the mean of what each has separated."""

    def __init__(self, runs: Iterable[int], progress: Callable[[float], None] | None) -> None:
        self._done = dict.fromkeys(runs, 0.0)
        self._progress = progress

    def of(self, run: int) -> Callable[[float], None]:
        """Return what is to be told the seconds that a run has separated."""

        def tell(done_s: float) -> None:
            self._done[run] = done_s
            if self._progress is not None:
                self._progress(sum(self._done.values()) / len(self._done))

        return tell


def _only(blocks: Iterator[Audio]) -> Iterator[Audio]:
    """Yield the one signal of blocks [1, C, n], [C, n] each."""
    return (block[0] for block in blocks)


def _blended(joint: Joint, blocks: Iterator[Audio]) -> Iterator[Audio]:
    """Blend estimates [M, C, n] into [1, C, n] each."""
    blend = make_blend(joint.blend, joint.weights)
    for block in blocks:
        yield blend.push(list(torch.from_numpy(block))).numpy()[None]
    yield blend.finish().numpy()[None]


def _reshaped(blocks: Iterator[Audio], count: int, stream: Shape, shape: Shape) -> Iterator[Audio]:
    """Bring outputs [O, C, n] to another rate and other channels."""
    if stream == shape:
        yield from blocks
        return
    resampler = Resampler(count * shape.channels, stream.sample_rate, shape.sample_rate)
    for block in blocks:
        flat = np.concatenate([convert_channels(output, shape.channels) for output in block])
        yield resampler.push(flat).reshape(count, shape.channels, -1)  # [O·C, n] -> [O, C, n]
    yield resampler.finish().reshape(count, shape.channels, -1)


def _require_finite(block: Audio, start: int, sample_rate: int) -> None:
    """Check outputs [O, C, n] that begin at sample `start`.

    Raises:
        OverflowingError: one isn't finite.
    """
    if not (finite := np.isfinite(block)).all():
        raise OverflowingError((start + int(np.argmin(finite.all(axis=(0, 1))))) / sample_rate)

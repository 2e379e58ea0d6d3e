"""Load the models of a flow on their device, and separate tracks by them.

`batch` and `Separator` hold a runner for all their tracks; `track` does the work for one of them.
"""

import json
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from time import monotonic

import numpy as np
import torch

from stemsplit.audio.channels import downmix_matrix, usual_layout
from stemsplit.core import compute as computing
from stemsplit.core import memory
from stemsplit.core.devices import free_memory
from stemsplit.core.separable import overlap_of
from stemsplit.core.stream import passes_of
from stemsplit.errors import AudioError, InputError, NotFiniteError, SettingsError, UnknownNameError
from stemsplit.events import Callback, Notice, Progress, emit
from stemsplit.forked import require_own_threads
from stemsplit.hub.access import Access
from stemsplit.hub.describe import joint_digest
from stemsplit.hub.load import Identity, families_of, fetch_model, load_model, options_of
from stemsplit.separation.flow import Flow
from stemsplit.separation.outputs import Output
from stemsplit.separation.source import Audio, Shape, Source
from stemsplit.separation.stage import NOT_MEASURED, Measured, Model, measure
from stemsplit.separation.track import OverflowingError, separate_track
from stemsplit.settings import ChunkSettings, ComputeSettings, Request

# Samples beyond this, 120 dB above full scale, may overflow within models and resamplers.
LOUDEST = 1e6
# A network takes the memory of its weights, and up to half of it again for tensors precomputed from them.
_MEMORY_PER_WEIGHT = 1.5


class Runner:
    """The models of a flow on their device.

    Attributes:
        flow: the models and the signals that they separate.
        compute: the resolved device and precision.
        sequential: True if every track loads one model at a time.

    Args:
        flow: narrowed to the models and stems that are needed.
        compute: device, precision and threads.
        chunks: overlap, shifts, seed and batch size.
        segment_s: the chunk length in seconds; None for the models' own. Not allowed for an object.
        access: conditions under which files are downloaded.
        options: settings of the models' own; each goes to the models that have it.
        sequential: load one model at a time; None does so if all of them don't fit in memory together.
        callback: receives the events of downloads; returning False cancels.

    Raises:
        As `Separator`.
    """

    def __init__(
        self,
        flow: Flow,
        *,
        compute: ComputeSettings = ComputeSettings(),
        chunks: ChunkSettings = ChunkSettings(),
        segment_s: float | None = None,
        access: Access = Access(),
        options: Mapping[str, object] | None = None,
        sequential: bool | None = None,
        callback: Callback | None = None,
    ) -> None:
        self.compute = computing.resolve(compute)  # before anything is downloaded
        self.flow, self.chunks, self._threads = flow, chunks, compute.threads
        self._options = _shared_out(flow, options or {})
        self._segment_s, self._access, self._precision = segment_s, access, compute.precision
        self.sequential = flow.combined and (self._too_large() if sequential is None else sequential)
        if self.sequential and sequential is None:
            emit(callback, Notice("the models don't fit in memory together: each is loaded for every track"))
        self._models: dict[int, Model] = {}
        for number, run in flow.runs.items():
            if self.sequential:  # each track loads the model; check now that its weights are available
                fetch_model(run.about, run.stems, access, callback)
            else:
                self._models[number] = self._load(number, callback)
        self._open = True

    @property
    def device(self) -> str:
        """Name of the device."""
        return str(self.compute.device)

    @property
    def sample_rate(self) -> int:
        """Sample rate of the first model, in Hz."""
        return next(iter(self.flow.runs.values())).about.sample_rate

    @property
    def identity(self) -> Identity | None:
        """Name and digest of the weights of all models together; None if those of a model are unknown."""
        found = [getattr(model, "identity", None) for model in self._models.values()]
        if self.sequential:
            found = [Identity(run.about.name, run.about.sha256) for run in self.flow.runs.values()]
        known: list[Identity] = [one for one in found if one is not None]
        if not known or len(known) < len(found):
            return None
        if len(known) == 1:
            return known[0]
        return Identity(self.flow.name, joint_digest([one.sha256 or "" for one in known]))

    @property
    def fingerprint(self) -> str | None:
        """Text that changes with the weights, the settings and the device; None if weights are unknown."""
        if self.identity is None:
            return None
        overlaps = [
            overlap_of(one.model, self.chunks)
            for model in self._models.values()
            for one in passes_of(model, self.chunks)
        ]
        runs = [(run.about.name, run.about.sha256, str(run.input)) for run in self.flow.runs.values()]
        blends = [asdict(blend) for blend in self.flow.blends.values()]
        chunks, kind = asdict(self.chunks), self.compute.device.type
        settings = [chunks, overlaps, self._precision, self._segment_s, kind, sorted(self._options.items())]
        return json.dumps([asdict(self.identity), runs, blends, *settings])

    def close(self) -> None:
        """Free the models and their memory; no track can be separated any more."""
        self._models, self._open = {}, False
        memory.trim()

    def measure(self, source: Source, shape: Shape) -> Measured:
        """Read the track once if models need its statistics; without this call `run` does it itself."""
        if shape.channels > 2:  # each group of channels is separated, and measured, by itself
            return NOT_MEASURED
        whole = [run for run in self._models if self.flow.runs[run].from_mix]
        return measure(source, {run: self._models[run] for run in whole})

    def run(
        self,
        source: Source,
        outputs: Sequence[Output],
        shape: Shape,
        *,
        measured: Measured = NOT_MEASURED,
        name: str = "audio",
        total_s: float | None = None,
        callback: Callback | None = None,
    ) -> Generator[Audio, None, None]:
        """Separate a track block by block, in bounded memory.

        Args:
            source: the audio.
            outputs: O sums of the flow's stems and the mix.
            shape: rate and channels of the outputs.
            measured: the result of `measure`.
            name: name of the track in events and errors.
            total_s: length of the track in seconds, for the time left.
            callback: receives the track's events; returning False cancels.

        Yields:
            Consecutive blocks of the outputs, [O, C, n].

        Raises:
            InputError: the source can't be read, or its samples are too large to compute with.
            NotFiniteError: a model gave NaN or infinite samples.
            ResourceError: the temporary files don't fit the disk, or a chunk doesn't fit the device's memory.
        """
        if not self._open:
            raise SettingsError("the separator is closed", setting="model")
        require_own_threads()
        if source.channels > 2 >= shape.channels:
            emit(callback, Notice(_downmix(source), name))
        report = _progress(callback, name, total_s)
        report(0.0)  # the models are loaded, but the first chunk may take long

        @contextmanager
        def model(run: int) -> Iterator[Model]:
            yield self._models[run] if run in self._models else self._load(run, callback)
            if self.sequential:
                memory.trim()

        with computing.threads(self._threads):
            try:
                yield from separate_track(
                    source,
                    self.flow,
                    model,
                    outputs,
                    shape,
                    chunks=self.chunks,
                    compute=self.compute,
                    sequential=self.sequential,
                    measured=measured,
                    progress=report,
                )
            except OverflowingError as error:
                raise self._explained(error, source, name) from None
        for notice in source.notices:
            emit(callback, Notice(notice, name))

    def _too_large(self) -> bool:
        """Tell whether the models together need more memory than the device has free."""
        free = free_memory(self.device)
        size = sum(run.about.size for run in self.flow.runs.values())
        return free is not None and size * _MEMORY_PER_WEIGHT > free

    def _load(self, number: int, callback: Callback | None) -> Model:
        """Return the model of a run on its device.

        Raises:
            SettingsError: `segment_s` is set for an object.
            Others: as `load_model`.
        """
        run = self.flow.runs[number]
        if not isinstance(run.model, (str, Path)):
            if self._segment_s is not None:
                what = "segment_s: an object has its own segment_samples"
                raise SettingsError(what, setting="segment_s")
            own: Model = computing.place(run.model, self.compute)
            return own
        network = load_model(
            run.model,
            stems=run.stems,
            segment_s=self._segment_s,
            offline=self._access.offline,
            options=self._options[number],
            callback=callback,
            about=run.about,
        )
        return computing.place(network, self.compute)

    def _explained(self, error: OverflowingError, source: Source, name: str) -> AudioError:
        """Return the error of an overflow: the input's if its samples are too large, else the models'."""
        if (at_s := _first_above(LOUDEST, source)) is not None:
            return InputError(
                name,
                f"has samples too large to compute with (the first at {at_s:.3f} s; full scale is 1)",
                hint="export it again; an effect or a plug-in may have gone wrong",
            )
        identity, several = self.identity, len(self.flow.runs) > 1
        models = f"model{'s' * several} {identity.name}" if identity else f"model{'s' * several}"
        full = self.compute.dtype == torch.float32
        return NotFiniteError(
            name,
            f"the {models} gave NaN or infinite samples at {error.at_s:.1f} s",
            hint="its weights may be damaged" if full else "--precision fp32 computes in a wider range",
        )


def _shared_out(flow: Flow, options: Mapping[str, object]) -> dict[int, dict[str, object]]:
    """Return for each run the settings that its model has.

    Raises:
        UnknownNameError: no model has one of them.
    """
    if not options:
        return {run: {} for run in flow.runs}
    known = {number: options_of(run.about) for number, run in flow.runs.items()}
    every = sorted(frozenset[str]().union(*known.values()))
    for name in options:
        if name not in every:
            raise UnknownNameError("model option", name, every)
    return {
        number: {name: value for name, value in options.items() if name in own}
        for number, own in known.items()
    }


def check_settings(flow: Flow, request: Request) -> None:
    """Refuse settings that `load_runner` would refuse, as far as that is known without the weights.

    Raises:
        DeviceError: the device isn't there.
        SettingsError: the device or a network doesn't support the precision, or the device compilation.
        UnknownNameError: no model has one of the options.
    """
    compute = computing.resolve(request.compute)
    _shared_out(flow, dict(request.model.model_options))
    families = [family for run in flow.runs.values() for family in families_of(run.about)]
    for family in families if compute.device.type == "cpu" and not compute.optional else ():
        if compute.dtype not in family.precisions:
            raise computing.inaccurate(family, compute)


def load_runner(flow: Flow, request: Request, callback: Callback | None = None, *, jobs: int = 1) -> Runner:
    """Load the models of a flow as a request asks.

    Args:
        flow: narrowed to the models and stems that are needed.
        request: the settings.
        callback: receives the events of downloads; returning False cancels.
        jobs: tracks that are computed at once, which share the CPU threads if the request has no number.

    Raises:
        As `Runner`.
    """
    count = request.compute.threads or max(1, torch.get_num_threads() // jobs)
    # Tracks are computed in other threads; OpenMP threads that loading leaves behind would slow them down.
    with computing.threads(1):
        return Runner(
            flow,
            compute=replace(request.compute, threads=count),
            chunks=request.chunks,
            segment_s=request.model.segment_s,
            access=Access.of(request.model),
            options=dict(request.model.model_options),
            sequential=request.combination.sequential,
            callback=callback,
        )


def _downmix(source: Source) -> str:
    """Return the notice of a mix-down.

    Raises:
        StemsplitError: there is no rule for the source's layout.
    """
    downmix_matrix(source.channels, source.layout)
    layout = source.layout or f"{usual_layout(source.channels)}, which is assumed: the file doesn't tell"
    return f"{source.channels} channels ({layout}) are mixed down to stereo (ITU-R BS.775)"


def _first_above(limit: float, source: Source) -> float | None:
    """Return the time of the first sample whose magnitude exceeds `limit`, in seconds, or None."""
    samples = 0
    for block in source.blocks():
        above = (np.abs(block) > limit).any(axis=0)  # [n]
        if above.any():
            return (samples + int(np.argmax(above))) / source.sample_rate
        samples += block.shape[-1]
    return None


def _progress(callback: Callback | None, name: str, total_s: float | None) -> Callable[[float], None]:
    began = monotonic()

    def report(done_s: float) -> None:
        elapsed = monotonic() - began
        left = (total_s - done_s) * elapsed / done_s if total_s and done_s else None
        emit(callback, Progress(name, done_s, total_s, None if left is None else max(0.0, left)))

    return report

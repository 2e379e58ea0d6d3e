"""The Python API for single tracks: a loaded model that separates arrays and files into arrays.

>>> from stemsplit import Separator
>>> separator = Separator("classic", stems=["vocals"])
>>> separator.stems
('vocals',)
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from types import NoneType, TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from stemsplit.audio.input_file import InputFile
from stemsplit.audio.reader import probe
from stemsplit.blend_names import DEFAULT_BLEND
from stemsplit.core.separable import Separable
from stemsplit.errors import SettingsError
from stemsplit.events import Callback
from stemsplit.fields import require_a
from stemsplit.hub.access import Access
from stemsplit.hub.describe import describe_model
from stemsplit.hub.recipes import Recipe, Step
from stemsplit.separation.flow import Run, resolve
from stemsplit.separation.outputs import plan_outputs
from stemsplit.separation.runner import Runner
from stemsplit.separation.samples import rate_of, samples_of
from stemsplit.separation.source import ArraySource, Audio, FileSource, Shape
from stemsplit.settings import (
    DEFAULT_MODEL,
    ChunkSettings,
    ComputeSettings,
    ModelSettings,
    StemSettings,
)
from stemsplit.stems import names_of

Model = str | Path | Separable


class Separator:
    """A model on its device, for any number of tracks; as a context manager it frees the model at the end.

    A pickled separator consists of the arguments that it was made with: another process loads the model
    again.

    Attributes:
        stems: the stems that it gives, in order.
        sample_rate: sample rate of the first model, in Hz. Input of another rate is resampled, and the stems
            are resampled back.
        callback: receives the events of every track.

    Args:
        model: a name from the registry, a path, hf:OWNER/REPO, a `Recipe`, or your own object that satisfies
            `core.separable.Separable`, such as a module. Several models are an ensemble: stems that mean the
            same are blended.
        stems: load and compute only these; None for all. `instrumental` is the mix less the vocals.
        segment_s: the chunk length in seconds; None for the model's own. Not allowed for an object.
        chunks: overlap, shifts, seed and batch size.
        compute: device, precision and threads.
        offline: never open a connection.
        trust_first: take weights of which no hash is known if their size and shapes agree.
        license: refuse models under other licences: `permissive`, or names separated by commas.
        model_options: settings of the models' own, such as `denoise` of an MDX-Net.
        blend: how the stems of several models are blended, one of `blend_names.BLENDS`.
        weights: one for each model, for `avg_wave` and `avg_fft` only; None weighs all the same.
        sequential: load one model at a time for every track, with stems in temporary files in between; None
            does so if the weights of all models don't fit the device's memory together.
        callback: receives the events of a download and of every track; returning False cancels.

    Raises:
        SettingsError: an argument is invalid; the message names it.
        UnknownNameError: no such model or stem.
        DeviceError: no such device.
        ModelUnavailableError: the weights can't be downloaded or read.
    """

    def __init__(
        self,
        model: Model | Recipe | Sequence[Model | Recipe] = DEFAULT_MODEL,
        *,
        stems: Sequence[str] | None = None,
        segment_s: float | None = None,
        chunks: ChunkSettings = ChunkSettings(),
        compute: ComputeSettings = ComputeSettings(),
        offline: bool = False,
        trust_first: bool = False,
        license: str | None = None,
        model_options: Mapping[str, object] | None = None,
        blend: str = DEFAULT_BLEND,
        weights: Sequence[float] | None = None,
        sequential: bool | None = None,
        callback: Callback | None = None,
    ) -> None:
        require_a("chunks", chunks, ChunkSettings)
        require_a("compute", compute, ComputeSettings)
        require_a("callback", callback, Callable, NoneType)
        require_a("model_options", model_options, Mapping, NoneType)
        require_a("weights", weights, tuple[float, ...], NoneType)
        require_a("blend", blend, str)
        require_a("sequential", sequential, bool, NoneType)
        for option in model_options or ():
            require_a("model_options", option, str)
        self._arguments = {
            "model": model,
            "stems": stems,
            "segment_s": segment_s,
            "chunks": chunks,
            "compute": compute,
            "offline": offline,
            "trust_first": trust_first,
            "license": license,
            "model_options": model_options,
            "blend": blend,
            "weights": weights,
            "sequential": sequential,
        }
        self.chunks, self.callback = chunks, callback
        access = Access.of(ModelSettings(offline=offline, trust_first=trust_first, license=license))
        describe = partial(describe_model, access=access, callback=callback)
        flow = resolve(_recipe(model, blend, weights), describe)
        self._outputs = plan_outputs(flow.stems, StemSettings(stems=names_of(stems)), flow.divided)
        self.stems = tuple(output.name for output in self._outputs)
        self._runner = Runner(
            flow.narrow(self._outputs),
            compute=compute,
            chunks=chunks,
            segment_s=segment_s,
            access=access,
            options=model_options,
            sequential=sequential,
            callback=callback,
        )
        self.identity = self._runner.identity
        self.sample_rate = self._runner.sample_rate

    @property
    def fingerprint(self) -> str | None:
        """Text that changes with everything but the audio that the stems depend on; None if unknown."""
        known = self._runner.fingerprint
        return known and json.dumps([known, [(output.name, str(output.sum)) for output in self._outputs]])

    @property
    def models(self) -> tuple[Run, ...]:
        """The models, and the stems that are taken from each."""
        return tuple(self._runner.flow.runs.values())

    def close(self) -> None:
        """Free the model and its memory; the separator can't be used any more."""
        self._runner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, arguments: dict[str, Any]) -> None:
        self.__init__(**arguments)  # type: ignore[misc]

    def separate(
        self, source: str | Path | ArrayLike | Tensor, sample_rate: float | None = None
    ) -> Mapping[str, Audio]:
        """Separate a whole track.

        Args:
            source: a file; or samples [C, T] or [T], floating-point with full scale 1 or integers.
            sample_rate: the rate of samples, a whole number of Hz; not needed for a file.

        Returns:
            An array [C, T] for every stem by its canonical name, at the source's rate and length. C is 1 for
            a mono source, else 2: surround is mixed down.

        Raises:
            SettingsError: the samples or their rate are invalid, or the process was forked from one that had
                loaded a model.
            InputError: the file can't be read, or its samples are too large to compute with.
            NotFiniteError: the model gave NaN or infinite samples.
            Cancelled: the callback returned False.
        """
        blocks = [[*found.values()] for found in self.stream(source, sample_rate)]  # of stems, [C, n] each
        return dict(zip(self.stems, map(np.hstack, zip(*blocks, strict=True)), strict=True))  # [C, T] each

    def stream(
        self, source: str | Path | ArrayLike | Tensor, sample_rate: float | None = None
    ) -> Iterator[Mapping[str, Audio]]:
        """Separate a track block by block, in bounded memory.

        Args:
            source: as for `separate`.
            sample_rate: as for `separate`.

        Yields:
            An array [C, n] for every stem; concatenated they are what `separate` returns.

        Raises:
            As `separate`.
        """
        with _opened(source, sample_rate) as (opened, name):
            shape = Shape(opened.sample_rate, min(2, opened.channels))
            yield dict.fromkeys(self.stems, np.zeros((shape.channels, 0), np.float32))
            blocks = self._runner.run(
                opened, self._outputs, shape, name=name, total_s=opened.duration_s, callback=self.callback
            )
            with closing(blocks):
                for block in blocks:
                    yield dict(zip(self.stems, block, strict=True))


def separate(
    source: str | Path | ArrayLike | Tensor,
    model: Model | Recipe | Sequence[Model | Recipe] = DEFAULT_MODEL,
    *,
    sample_rate: float | None = None,
    stems: Sequence[str] | None = None,
    callback: Callback | None = None,
) -> Mapping[str, Audio]:
    """Separate one track; for several tracks, or with other settings, make a `Separator`.

    Args:
        source: a file; or samples [C, T] or [T], floating-point with full scale 1 or integers.
        model: as for `Separator`.
        sample_rate: the rate of samples, a whole number of Hz; not needed for a file.
        stems: compute only these; None for all.
        callback: receives events; returning False cancels.

    Returns:
        An array [C, T] for every stem by its canonical name, at the source's rate and length. C is 1 for a
        mono source, else 2: surround is mixed down.

    Raises:
        As `Separator` and its `separate`.
    """
    with Separator(model, stems=stems, callback=callback) as separator:
        return separator.separate(source, sample_rate)


def _recipe(
    model: Model | Recipe | Sequence[Model | Recipe], blend: str, weights: Sequence[float] | None
) -> Recipe:
    models = tuple(model) if isinstance(model, (list, tuple)) else (model,)
    return Recipe((Step(models, blend=blend, weights=None if weights is None else tuple(weights)),))


@contextmanager
def _opened(
    source: str | Path | ArrayLike | Tensor, sample_rate: float | None
) -> Iterator[tuple[ArraySource | FileSource, str]]:
    """Open a file, or check samples, for the `with` block; return the source and its name."""
    if isinstance(source, (str, Path)):
        with InputFile(source) as file:
            yield FileSource(file.path, probe(file), file=file), str(source)
        return
    if sample_rate is None:
        raise SettingsError("samples need their sample_rate", setting="sample_rate")
    yield ArraySource(samples_of(source), rate_of(sample_rate)), "audio"

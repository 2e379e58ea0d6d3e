"""Public functions that combine separation with another layer."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from stemsplit.core.stream import Separable
from stemsplit.datasets.names import MIXTURE
from stemsplit.engines import Engine
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.evaluation import run
from stemsplit.evaluation.oracles import ORACLES
from stemsplit.evaluation.plan import plan_dataset, plan_files
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.store import Store
from stemsplit.events import Callback
from stemsplit.hub.recipes import Recipe
from stemsplit.separation.samples import samples_of
from stemsplit.separation.separator import Separator
from stemsplit.settings import DEFAULT_MODEL, ChunkSettings, ComputeSettings
from stemsplit.stems import canonical

Array = npt.NDArray[np.float32]
# Returns stems [C, T] by name for a mix [C, T] and its sample rate in Hz
Function: TypeAlias = Callable[[Array, int], Mapping[str, npt.ArrayLike]]
Model: TypeAlias = str | Path | Separable | Recipe | Separator | Function


def evaluate(
    dataset: str | Path,
    models: Model | Sequence[Model] | Mapping[str, Model] | None = None,
    *,
    estimates: str | Path | None = None,
    oracles: Sequence[str] = (),
    only: Sequence[str] = (),
    bss: bool = True,
    jobs: int = 1,
    engine: Engine | None = None,
    fresh: bool = False,
    segment_s: float | None = None,
    chunks: ChunkSettings = ChunkSettings(),
    compute: ComputeSettings = ComputeSettings(),
    offline: bool = False,
    callback: Callback | None = None,
) -> Evaluation:
    """Score models on a data set, or files against references, like `stemsplit evaluate`.

        results = evaluate("musdb18hq/test", "htdemucs")
        results.summary()["htdemucs"]["vocals"]["usdr"]

    The mixture is always scored too, as the estimate of every stem. Scores of models with known weights are
    cached in the user's cache folder; those of functions and other objects are not.

    Args:
        dataset: a folder of tracks in any of the layouts of `datasets.layouts`, or a manifest.
        models: the models; None is the default model. Each is a name, a path, hf:OWNER/REPO, a `Recipe`, a
            `Separator`, an object that satisfies `core.stream.Separable`, a function of a mix [C, T] and its
            sample rate in Hz that returns arrays [C, T] by stem, or an object with such a method `separate`.
            With several, the first is scored and the others are shown beside it; a mapping names them.
        estimates: a folder of stems to score instead of models.
        oracles: `irm`, `mixphase` or both, to be scored as well.
        only: patterns of track names; empty for all tracks.
        bss: also compute cSDR, ISR, SIR and SAR, which take longest.
        jobs: number of tracks at once, each in its own process. Models must then be picklable, and a script
            needs `if __name__ == "__main__":`.
        engine: engine that maps the tracks over workers, instead of these processes.
        fresh: score again, ignoring cached scores.
        segment_s: chunk length in seconds; this and the following don't apply to a `Separator`.
        chunks: overlap, shifts, seed and batch size.
        compute: device, precision and threads.
        offline: never open a connection.
        callback: receives the events of downloads and of every track; returning False cancels.

    Raises:
        InputError: there is no track.
        SettingsError: an argument is invalid; the message names it.
        UnknownNameError: there is no such model or oracle.
        DeviceError: there is no such device.
        ModelUnavailableError: the weights can't be downloaded or read.
        Cancelled: by the callback.
    """
    if models is not None and estimates is not None:
        raise SettingsError("give either models or estimates", setting="estimates")
    if jobs < 1:
        raise SettingsError(f"jobs {jobs}: must be positive", setting="jobs")
    for name in oracles:
        if name not in ORACLES:
            raise UnknownNameError("oracle", name, tuple(ORACLES))
    if estimates is not None:
        planned = plan_files(dataset, estimates, only)
        methods = [run.Method(_label(estimates))]
    else:
        planned = plan_dataset(dataset, only)
        make = partial(
            Separator, segment_s=segment_s, chunks=chunks, compute=compute, offline=offline, callback=callback
        )
        methods = [_method(name, model, make) for name, model in _named(models)]
    return run.evaluate(
        planned,
        methods,
        oracles=oracles,
        bss=bss,
        workers=jobs,
        engine=engine,
        store=Store(),
        fresh=fresh,
        callback=callback,
    )


def _label(folder: str | Path) -> str:
    """Return the name of a folder of estimates in tables, different from those of the baselines."""
    return os.path.join(".", folder) if str(folder) in (MIXTURE, *ORACLES) else str(folder)


# ---------------------------------------------------------------- models


@dataclass
class _Called:
    """Adapter of a function to the interface of a separator."""

    function: Function
    callback: Callback | None = None

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        """Return the function's stems as float32 arrays [C, T] under canonical names."""
        found = self.function(source, int(sample_rate))
        return {canonical(stem): samples_of(audio) for stem, audio in found.items()}


def _named(models: Model | Sequence[Model] | Mapping[str, Model] | None) -> list[tuple[str, Model]]:
    """Return the models with their names in tables."""
    if isinstance(models, Mapping):
        return list(models.items())
    if models is None:
        models = DEFAULT_MODEL
    several = list(models) if isinstance(models, (list, tuple)) else [cast(Model, models)]
    named = [(_name(model), model) for model in several]
    for name, model in named:
        if any(other == name and one != model for other, one in named):
            raise SettingsError(f"two models are called {name}; name them in a mapping", setting="models")
    return list(dict(named).items())


def _name(model: Model) -> str:
    if isinstance(model, (str, Path)):
        return str(model)
    known = getattr(model, "identity", None)
    return str(getattr(known, "name", None) or getattr(model, "__name__", type(model).__name__))


def _method(
    name: str, model: Model, make: Callable[[str | Path | Separable | Recipe], Separator]
) -> run.Method:
    if isinstance(model, Separator):
        return run.Method(name, model, model.fingerprint)
    if hasattr(model, "separate"):
        return run.Method(name, _Called(model.separate))
    if isinstance(model, (str, Path, Recipe)) or hasattr(model, "stems"):
        separator = make(cast(str | Path | Separable | Recipe, model))
        separator.callback = None  # it was only for the download
        return run.Method(name, separator, separator.fingerprint)
    if callable(model):
        return run.Method(name, _Called(model))
    raise SettingsError(f"{model!r} is not a model", setting="models")

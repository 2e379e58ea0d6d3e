"""Public functions above the services: `evaluate` separates the tracks of a data set and scores the stems."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from stemsplit.cluster import Ray
from stemsplit.core.separable import Separable
from stemsplit.datasets.names import MIXTURE
from stemsplit.engines import Engine, check_call
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.evaluation import run
from stemsplit.evaluation.oracles import ORACLES
from stemsplit.evaluation.plan import Job, plan_dataset, plan_files
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.store import Store
from stemsplit.evaluation.table import DEFAULT_METRICS, METRICS
from stemsplit.events import Callback
from stemsplit.fields import require, require_a
from stemsplit.hub.access import Access
from stemsplit.hub.describe import describe_model
from stemsplit.hub.recipes import MIX, Recipe
from stemsplit.separation.nodes import check_nodes
from stemsplit.separation.samples import samples_of
from stemsplit.separation.separator import Separator
from stemsplit.settings import DEFAULT_MODEL, ChunkSettings, ComputeSettings
from stemsplit.stems import canonical

Array = npt.NDArray[np.float32]
# A function that returns the stems [C, T] by name of a mix [C, T] with its rate in Hz.
Function: TypeAlias = Callable[[Array, int], Mapping[str, npt.ArrayLike]]
BASELINES = (MIXTURE, *ORACLES)
Model: TypeAlias = str | Path | Separable | Recipe | Separator | Function


def evaluate(
    dataset: str | Path,
    models: Model | Sequence[Model] | Mapping[str, Model] | None = None,
    *,
    members: bool = False,
    estimates: str | Path | None = None,
    oracles: Sequence[str] = (),
    only: Sequence[str] = (),
    metrics: Sequence[str] | None = None,
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
    """Score models on a data set, or files against references, as `stemsplit evaluate` does.

        results = evaluate("musdb18hq/test", "htdemucs")
        results.summary()["htdemucs"]["vocals"]["usdr"]

    The mixture is always scored too, as the estimate of every stem. Scores of models whose weights are known
    are stored in the user's cache folder for later calls; those of functions and of your own objects are not.

    Args:
        dataset: a folder of tracks in any of the layouts of `datasets.layouts`, or a manifest.
        models: the models to score; None is the default model. A model is a name, a path, hf:OWNER/REPO, a
            `Recipe`, a `Separator`, an object that satisfies `core.separable.Separable`, or a function that
            takes a mix [C, T] and its rate in Hz and returns arrays [C, T] by stem; the function may also be
            the method `separate` of an object. Of several models, the first is scored and the others are its
            baselines; a mapping gives them names.
        members: also score the models of the first one's recipe that separate the mix, as baselines.
        estimates: a folder of stems to score in place of models.
        oracles: names of oracles to score too, `irm` and `mixphase`.
        only: patterns of track names; none for all tracks.
        metrics: names of `evaluation.table.METRICS`; None for the usual ones.
        bss: False leaves out cSDR, ISR, SIR and SAR, which take longest.
        jobs: the number of tracks that are scored at the same time, each in a process. Models must then be
            picklable, and a script needs `if __name__ == "__main__":`.
        engine: maps the tracks over workers, in place of such processes.
        fresh: compute again the scores that are stored.
        segment_s: the chunk length in seconds. This and the settings below are for models that aren't a
            `Separator` yet.
        chunks: overlap, shifts, seed and batch size.
        compute: device, precision and threads.
        offline: never open a connection.
        callback: receives the events of downloads and of every track; returning False cancels.

    Returns:
        The scores of all tracks, and the summary.

    Raises:
        InputError: there is no track.
        SettingsError: an argument is invalid; the message names it.
        UnknownNameError: no such model, oracle or metric.
        DeviceError: no such device.
        ModelUnavailableError: the weights can't be downloaded or read.
        ResourceError: a node of the cluster has too little room.
        Cancelled: the callback returned False.
    """
    given = locals()
    for name, kinds in _KINDS.items():
        require_a(name, given[name], *kinds)
    check_call(engine, callback)
    require(jobs > 0, "jobs", "must be positive", jobs)
    _check_names("oracle", oracles, tuple(ORACLES))
    _check_names("metric", metrics or (), tuple(METRICS))
    if models is not None and estimates is not None:
        raise SettingsError("give either models or estimates", setting="estimates")
    if estimates is not None:
        planned = plan_files(dataset, estimates, only)
        methods = [run.Method(_label(estimates))]
    else:
        planned = plan_dataset(dataset, only)
        make = partial(
            Separator, segment_s=segment_s, chunks=chunks, compute=compute, offline=offline, callback=callback
        )
        named = _named(models)
        if members:
            named = _with_members(named, Access(offline=offline), callback)
        methods = [_method(name, model, make) for name, model in named]
    with _connected(engine, planned, methods, Access(offline=offline), callback):
        return run.evaluate(
            planned,
            methods,
            oracles=oracles,
            metrics=DEFAULT_METRICS if metrics is None else metrics,
            bss=bss,
            workers=jobs,
            engine=engine,
            store=Store(),
            fresh=fresh,
            callback=callback,
        )


# The types of `evaluate`'s arguments; other classes check the others.
_KINDS: Mapping[str, tuple[object, ...]] = {
    "dataset": (str,),
    "members": (bool,),
    "estimates": (str, NoneType),
    "oracles": (tuple[str, ...],),
    "only": (tuple[str, ...],),
    "metrics": (tuple[str, ...], NoneType),
    "bss": (bool,),
    "jobs": (int,),
    "fresh": (bool,),
    "segment_s": (float, NoneType),
}


def _check_names(kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError(kind, name, known)


@contextmanager
def _connected(
    engine: Engine | None,
    jobs: Sequence[Job],
    methods: Sequence[run.Method],
    access: Access,
    callback: Callback | None,
) -> Iterator[None]:
    """Connect to the engine's cluster, if it is one, for the `with` block, and check its nodes.

    Raises:
        As `check_nodes`.
    """
    if not isinstance(engine, Ray):
        yield
        return
    with engine.connected():
        separators = [method.separator for method in methods if isinstance(method.separator, Separator)]
        models = [model for separator in separators for model in separator.models]
        check_nodes(
            engine, models, [path for job in jobs for path in job.paths], access=access, callback=callback
        )
        yield


def _label(name: str | Path) -> str:
    """Return the name of a model or of a folder of estimates in tables, with `./` if a baseline has it."""
    return os.path.join(".", name) if str(name) in BASELINES else str(name)


# ---------------------------------------------------------------- models


@dataclass
class _FunctionSeparator:
    """A function with the interface of a separator."""

    function: Function
    callback: Callback | None = None

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        """Return the result of the function, checked, as arrays [C, T] by canonical names."""
        found = self.function(source, int(sample_rate))
        return {canonical(stem): samples_of(audio) for stem, audio in found.items()}


def _named(models: Model | Sequence[Model] | Mapping[str, Model] | None) -> list[tuple[str, Model]]:
    """Return the models with their names in tables.

    Raises:
        SettingsError: there is no model, or two models, or a model and a baseline, have one name.
    """
    if isinstance(models, (Mapping, list, tuple)) and not models:
        raise SettingsError("models: is empty", setting="models")
    if isinstance(models, Mapping):
        for name in models:
            require_a("models", name, str)
            require(name not in BASELINES, "models", "is the name of a baseline; choose another one", name)
        return list(models.items())
    if models is None:
        models = DEFAULT_MODEL
    several = list(models) if isinstance(models, (list, tuple)) else [cast(Model, models)]
    named = [(_label(_name(model)), model) for model in several]
    for name, model in named:
        if any(other == name and one != model for other, one in named):
            raise SettingsError(f"two models are called {name}; name them in a mapping", setting="models")
    return list(dict(named).items())


def _with_members(
    named: list[tuple[str, Model]], access: Access, callback: Callback | None
) -> list[tuple[str, Model]]:
    """Return named models with the members of the first one.

    Raises:
        SettingsError: it isn't a recipe of several models.
        Others: as `describe_model`.
    """
    first, model = named[0]
    recipe = model if isinstance(model, Recipe) else None
    if isinstance(model, (str, Path)):
        recipe = describe_model(model, access=access, callback=callback).recipe
    steps = [step for step in recipe.steps if step.input == MIX] if recipe else []
    members = [member for step in steps for member in step.models]
    if len(members) < 2:
        raise SettingsError(f"--members: {first} isn't an ensemble of models", setting="members")
    found = {**dict(named), **{_label(_name(member)): member for member in members}}
    return list(found.items())


def _name(model: Model) -> str:
    if isinstance(model, (str, Path)):
        return str(model)
    known = getattr(model, "identity", None)
    return str(getattr(known, "name", None) or getattr(model, "__name__", type(model).__name__))


def _method(
    name: str, model: Model, make: Callable[[str | Path | Separable | Recipe], Separator]
) -> run.Method:
    """Return the method of a model; `make` makes a separator of what isn't one yet.

    Raises:
        SettingsError: the object is nothing that separates.
    """
    if isinstance(model, Separator):
        return run.Method(name, model, model.fingerprint)
    if hasattr(model, "separate"):
        return run.Method(name, _FunctionSeparator(model.separate))
    if isinstance(model, (str, Path, Recipe)) or hasattr(model, "stems"):
        separator = make(cast(str | Path | Separable | Recipe, model))
        separator.callback = None  # it was for the download; the evaluation reports the tracks itself
        return run.Method(name, separator, separator.fingerprint)
    if callable(model):
        return run.Method(name, _FunctionSeparator(model))
    raise SettingsError(f"{model!r} is nothing that separates", setting="models")

"""Training runs: from a configuration to a trained model in the run's folder."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.csv_logs import CSVLogger
from lightning.fabric.loggers.logger import Logger
from lightning.fabric.loggers.tensorboard import TensorBoardLogger
from lightning.fabric.plugins.precision import MixedPrecision, Precision
from lightning.fabric.utilities import rank_zero_only
from lightning.pytorch.loggers import WandbLogger

from stemsplit.core.compute import find_device, is_out_of_memory
from stemsplit.errors import ResourceError
from stemsplit.events import Callback, Event, emit
from stemsplit.models.network import Network
from stemsplit.training.adapters import recompute_activations, training_mode
from stemsplit.training.config import Config
from stemsplit.training.configfile import ConfigFile
from stemsplit.training.fit import fit
from stemsplit.training.folder import RunFolder
from stemsplit.training.footprint import measure
from stemsplit.training.per_stem import part_for, stems_to_train, write_bag
from stemsplit.training.prepare import (
    Prepared,
    build_network,
    check_machine,
    check_network,
    prepare,
)
from stemsplit.training.progress import Finished
from stemsplit.training.recorder import RunRecorder, export_again
from stemsplit.training.state import RunState, is_finished
from stemsplit.training.validation import BestCandidate, unit_of


class Autocast(MixedPrecision):
    """Mixed precision that leaves a batch as it is: audio to compare with needs more than half precision."""

    def convert_input(self, data: Any) -> Any:
        """Return the batch."""
        return data


class Result(NamedTuple):
    """Result of a run.

    Attributes:
        folder: folder with the model.
        step: number of steps done in all.
        score: best score, in the unit of the metric; None without validation.
    """

    folder: Path
    step: int
    score: float | None


def train(
    file: ConfigFile,
    *,
    resume: bool = False,
    fresh: bool = False,
    callback: Callback | None = None,
) -> Result:
    """Train, validate and export as a configuration says.

    Args:
        file: the configuration.
        resume: continue from the last checkpoint in the run's folder, if there is one.
        fresh: first remove what an earlier run left in the folder.
        callback: receives the events of `progress.py`, and those of a download.

    Raises:
        SettingsError: the configuration is invalid, or the folder holds a run, or another process uses it.
        StemsplitError: the model or a data set is unusable.
        Cancelled: by the callback.
    """
    callback = callback if is_first_process() else None
    check_machine(file)
    with _lock(file):
        network = build_network(file, callback)
        if file.config.per_stem is not None:
            return _train_per_stem(file, network, resume=resume, fresh=fresh, callback=callback)
        check_network(file, network)
        return _train_one(file, network, "", resume=resume, fresh=fresh, callback=callback)


def _lock(file: ConfigFile) -> AbstractContextManager[None]:
    """Lock the run's folder before anything is prepared; a run's first process holds the lock for all."""
    return RunFolder(file.config.folder).locked() if is_first_process() else nullcontext()


def dry_run(file: ConfigFile, callback: Callback | None = None) -> None:
    """Do everything once: build the network, read data, compute one step; leave nothing behind.

    The validation set is opened and checked, but nothing is scored.

    Args:
        file: the configuration; with `per_stem`, only the network of the file itself is trained.
        callback: receives a `Trained` event with the step's loss, and a `Footprint` with its memory.
    """

    def without_finished(event: Event) -> bool | None:
        return None if callback is None or isinstance(event, Finished) else callback(event)

    check_machine(file)
    with TemporaryDirectory() as folder:
        step: dict[str, Any] = {"fit.epochs": 1, "fit.steps_per_epoch": 1, "fit.checkpoint_steps": None}
        without: dict[str, Any] = {"valid": {}, "data.cache": None, "data.workers": 0, "per_stem": None}
        semi = {"semi": {"promote": False}} if file.config.semi is not None else {}
        once = file.changed({**step, **without, **semi, "loggers": [], "folder": folder}, "--dry-run")
        network = build_network(once, callback)
        check_network(once, network)
        stems_to_train(file, network)
        _train_one(once, network, "", scoring=False, callback=without_finished)
    if is_first_process():
        with torch.random.fork_rng(devices=()):
            training_mode(network)
            emit(callback, measure(network, file.config))


def _train_one(
    file: ConfigFile,
    network: Network,
    name: str,
    *,
    resume: bool = False,
    fresh: bool = False,
    scoring: bool = True,
    callback: Callback | None,
) -> Result:
    config, folder = file.config, RunFolder(file.config.folder)
    if is_first_process():
        folder.check_usable(file, resume=resume, fresh=fresh)
    resuming = resume and folder.last.exists()
    result = _finished_result(folder, config, network) if resuming else None
    if result is None:
        training_mode(network)
        prepared = prepare(file, network, callback)
        if not scoring:
            prepared = replace(prepared, songs=[])
            config = replace(config, data=replace(config.data, valid=()))
        if is_first_process():
            folder.begin(config, fresh=not resuming)
        result = _run(folder, config, prepared, name, resuming=resuming, callback=callback)
    emit(callback, Finished(name, str(result.folder), result.step, result.score, unit_of(config.valid)))
    return result


def _run(
    folder: RunFolder,
    config: Config,
    prepared: Prepared,
    name: str,
    *,
    resuming: bool,
    callback: Callback | None,
) -> Result:
    """Train the remaining steps; `resuming` first loads the last checkpoint."""
    network = prepared.network
    if config.fit.recompute:
        recompute_activations(network)
    state = RunState(network, config, prepared.teacher)
    with _isolated(), _explained_errors():
        fabric = _fabric(config, folder)
        try:
            fabric.launch()
            recorder = RunRecorder(fabric, folder, callback, name)
            fit(fabric, state, prepared, recorder, resuming=resuming)
        finally:
            for logger in fabric.loggers:
                logger.finalize("success" if state.finished else "failed")
    network.cpu().eval()
    return Result(folder.path, state.step, state.best.finite_score)


def _train_per_stem(
    file: ConfigFile, first: Network, *, resume: bool, fresh: bool, callback: Callback | None
) -> Result:
    """Train each stem in a folder of its own, and write the bag of the models."""
    stems = stems_to_train(file, first)
    parts = {stem: part_for(file, stem, callback) for stem in stems}
    results = []
    for stem, part in parts.items():
        with _lock(part):
            network = build_network(part, callback)
            results.append(_train_one(part, network, stem, resume=resume, fresh=fresh, callback=callback))
    folder = Path(file.config.folder).expanduser()
    if is_first_process():
        write_bag(folder, stems)
    scores = [one.score for one in results if one.score is not None]
    return Result(folder, sum(one.step for one in results), fmean(scores) if scores else None)


def is_first_process() -> bool:
    """Return True in the process that writes files, rank 0 of all machines."""
    # before Lightning starts, `rank` counts within this machine only
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _finished_result(folder: RunFolder, config: Config, network: Network) -> Result | None:
    """Return the result of a run that has no steps left or has stopped early; None if it can continue.

    If the model is missing, it is exported again.
    """
    state = folder.state()
    step, best = state["step"], BestCandidate.from_state(state["contest"])
    finished = is_finished(config, step, best)
    if is_first_process() and not folder.model.exists() and (finished or best.finite_score is not None):
        export_again(folder, network, config, best)
    return Result(folder.path, step, best.finite_score) if finished else None


def _fabric(config: Config, folder: RunFolder) -> Fabric:
    """Return the launcher of a run's processes, with its devices, precision and loggers."""
    fit, device = config.fit, find_device(config.fit.device).type
    precisions: dict[str, Callable[[], Precision]] = {
        "fp32": Precision,
        "bf16": lambda: Autocast("bf16-mixed", device),
        "fp16": lambda: Autocast("16-mixed", device),
    }
    return Fabric(
        accelerator=fit.device,
        devices=fit.devices,
        num_nodes=fit.nodes,
        strategy="ddp" if fit.devices * fit.nodes > 1 else "auto",
        plugins=precisions[fit.precision](),
        loggers=_loggers(folder, config.loggers),
    )


def _loggers(folder: RunFolder, names: Sequence[str]) -> list[Logger]:
    """Return loggers; those of files write to a new folder at each start of the run."""
    starts = {int(path.name.removeprefix("start-")) for path in folder.logs.glob("*/start-*")}
    start = f"start-{max(starts, default=-1) + 1}"
    make: dict[str, Callable[[], Logger]] = {
        "tensorboard": lambda: TensorBoardLogger(folder.logs, name="tensorboard", version=start),
        "csv": lambda: CSVLogger(folder.logs, name="csv", version=start),
        "wandb": lambda: WandbLogger(folder.path.resolve().name, folder.logs, project="stemsplit"),
    }
    return [make[name]() for name in dict.fromkeys(names)]


@contextmanager
def _explained_errors() -> Iterator[None]:
    """Turn lack of memory and lost processes into errors that say so."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            hint = "lower fit.batch_size or data.segment_s, or raise fit.accumulate"
            raise ResourceError("out of memory", hint=hint) from error
        if "closed by peer" not in str(error):
            raise
        raise ResourceError(
            "another process of this run has died", hint="continue from the last checkpoint with --resume"
        ) from None


@contextmanager
def _isolated() -> Iterator[None]:
    """Silence Lightning's log messages and keep its changes to random state and warnings inside the block."""
    loggers = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            # Lightning 2.6 uses a pytree API that torch 2.13 deprecates
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

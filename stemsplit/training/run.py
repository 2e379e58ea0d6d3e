"""Training runs: from a configuration to a trained model in the run's folder."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from math import isfinite
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader

from stemsplit.core.compute import is_out_of_memory
from stemsplit.errors import ResourceError
from stemsplit.events import Callback, Event, emit
from stemsplit.models.network import Network
from stemsplit.training.batches import MicroBatches, ResumableSampler, data_loader
from stemsplit.training.config import Config
from stemsplit.training.configfile import ConfigFile
from stemsplit.training.data import Sample
from stemsplit.training.folder import RunFolder
from stemsplit.training.module import TrainingModule
from stemsplit.training.per_stem import part_for, stems_to_train, write_bag
from stemsplit.training.prepare import (
    Prepared,
    build_network,
    check_machine,
    check_network,
    prepare,
)
from stemsplit.training.progress import Finished
from stemsplit.training.recorder import RunRecorder

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Result(NamedTuple):
    """Result of a run.

    Attributes:
        folder: folder with the model.
        step: number of steps done in all.
        score: best score in dB; None without validation.
    """

    folder: Path
    step: int
    score: float | None


class TrainingDataModule(LightningDataModule):
    """Training samples and validation songs of the process that this object is in."""

    def __init__(self, prepared: Prepared, config: Config) -> None:
        super().__init__()
        self.prepared, self.config = prepared, config

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return a loader of this process's micro-batches, up to the next checkpoint."""
        trainer, fit = self._trainer(), self.config.fit
        micro_batches = MicroBatches(
            fit.batch_size, fit.checkpoint_interval, fit.accumulate, trainer.global_rank, trainer.world_size
        )
        sampler = ResumableSampler(micro_batches, lambda: trainer.global_step)
        pin = trainer.strategy.root_device.type == "cuda"
        return data_loader(self.prepared.samples, sampler, self.config.data.workers, pin)

    def val_dataloader(self) -> DataLoader[int]:
        """Return indices of songs; every process gets equally many, so some songs may be scored twice."""
        rank, world, count = self._trainer().global_rank, self._trainer().world_size, len(self.prepared.songs)
        numbers = [(rank + turn * world) % count for turn in range(-(-count // world))]
        return DataLoader(numbers, batch_size=None)  # type: ignore[arg-type]  # a list is a data set

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("no trainer uses this yet")
        return self.trainer


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

    Args:
        file: the configuration; with `per_stem`, only the network of the file itself is trained.
        callback: receives a `Trained` event with the step's loss.
    """

    def without_finished(event: Event) -> bool | None:
        return None if callback is None or isinstance(event, Finished) else callback(event)

    check_machine(file)
    with TemporaryDirectory() as folder:
        step: dict[str, Any] = {"fit.epochs": 1, "fit.steps_per_epoch": 1, "fit.checkpoint_steps": None}
        without: dict[str, Any] = {"data.valid": [], "valid": {}, "data.workers": 0, "per_stem": None}
        semi = {"semi": {"promote": False}} if file.config.semi is not None else {}
        once = file.changed({**step, **without, **semi, "folder": folder}, "--dry-run")
        network = build_network(once, callback)
        check_network(once, network)
        stems_to_train(file, network)
        _train_one(once, network, "", resume=False, fresh=False, callback=without_finished)


def _train_one(
    file: ConfigFile,
    network: Network,
    name: str,
    *,
    resume: bool,
    fresh: bool,
    callback: Callback | None,
) -> Result:
    config, folder = file.config, RunFolder(file.config.folder)
    if is_first_process():
        folder.check_usable(file, resume=resume, fresh=fresh)
    resuming = resume and folder.last.exists()
    result = _finished_result(folder, config) if resuming else None
    if result is None:
        prepared = prepare(file, network.train(), callback)
        if is_first_process():
            folder.begin(config, fresh=not resuming)
        result = _fit(folder, config, prepared, RunRecorder(folder, config, callback, name), resuming)
    emit(callback, Finished(name, str(result.folder), result.step, result.score))
    return result


def _fit(
    folder: RunFolder, config: Config, prepared: Prepared, recorder: RunRecorder, resuming: bool
) -> Result:
    """Run the remaining steps; `resuming` first loads the last checkpoint."""
    network = prepared.network
    module = TrainingModule(network, config, prepared.songs, prepared.teacher)
    with _isolated():
        first = config.valid.at_start and not resuming
        trainer = Trainer(**_settings(config, folder, recorder), num_sanity_val_steps=-1 if first else 0)
        with _explained_errors(trainer):
            trainer.fit(
                module,
                datamodule=TrainingDataModule(prepared, config),
                ckpt_path=folder.last if resuming else None,
                weights_only=True,
            )
    network.eval()
    return Result(folder.path, trainer.global_step, _finite_or_none(module.best.score))


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


def _finished_result(folder: RunFolder, config: Config) -> Result | None:
    """Return the result of a run that has no steps left or has stopped early; None if it can continue."""
    state, patience = folder.state(), config.valid.patience
    total = config.fit.epochs * config.fit.steps_per_epoch
    stopped_early = patience is not None and state["contest"]["losses"] >= patience
    if state["step"] < total and not stopped_early:
        return None
    return Result(folder.path, state["step"], _finite_or_none(state["contest"]["score"]))


def _finite_or_none(score: float) -> float | None:
    """Return a best score, or None if no validation gave one."""
    return score if isfinite(score) else None


def _settings(config: Config, folder: RunFolder, recorder: RunRecorder) -> dict[str, Any]:
    """Return the arguments of Lightning's trainer; one Lightning epoch is one checkpoint interval."""
    fit = config.fit
    intervals = fit.steps_per_epoch // fit.checkpoint_interval  # per epoch
    return {
        "accelerator": fit.device,
        "devices": fit.devices,
        "num_nodes": fit.nodes,
        "strategy": "ddp" if fit.devices * fit.nodes > 1 else "auto",
        "precision": PRECISIONS[fit.precision],
        "max_epochs": fit.epochs * intervals,
        "check_val_every_n_epoch": intervals * config.valid.every_epochs,
        "limit_val_batches": None if config.data.valid else 0,
        "accumulate_grad_batches": fit.accumulate,
        "gradient_clip_val": config.optim.clip,
        "use_distributed_sampler": False,
        "callbacks": [recorder],
        "logger": _loggers(folder),
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder.path,
    }


def _loggers(folder: RunFolder) -> list[Logger]:
    """Return loggers that write to a new folder at each start of the run."""
    start = f"start-{len(list(folder.logs.glob('csv/start-*')))}"
    return [
        TensorBoardLogger(folder.logs, name="tensorboard", version=start),
        CSVLogger(folder.logs, name="csv", version=start),
    ]


@contextmanager
def _explained_errors(trainer: Trainer) -> Iterator[None]:
    """Turn interrupts, lack of memory and lost processes into errors that say so."""
    try:
        yield
    except SystemExit:
        # Lightning 2.6 turns an interrupt into a bare exit
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
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
            # validation reads one song per batch in this process, where the model is: workers would only wait
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            # Lightning 2.6 uses a pytree API that torch 2.13 deprecates
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

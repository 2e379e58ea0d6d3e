"""From a configuration to a trained model in a run's folder."""

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
from stemsplit.training.config import Config
from stemsplit.training.configfile import ConfigFile
from stemsplit.training.data import LegSampler, Sample, Shares, loader
from stemsplit.training.folder import RunFolder
from stemsplit.training.keeper import Keeper
from stemsplit.training.module import Training
from stemsplit.training.per_stem import part_for, stems_to_train, write_bag
from stemsplit.training.prepare import (
    Prepared,
    build_network,
    check_machine,
    check_network,
    prepare,
)
from stemsplit.training.progress import Finished

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


class Result(NamedTuple):
    """What came of a run.

    Attributes:
        folder: with the model.
        step: how many steps were done in all.
        score: the best in dB, None without validation.
    """

    folder: Path
    step: int
    score: float | None


class Feed(LightningDataModule):
    """Batches for the process that it lives in."""

    def __init__(self, prepared: Prepared, config: Config) -> None:
        super().__init__()
        self.prepared, self.config = prepared, config

    def train_dataloader(self) -> DataLoader[Sample]:
        """This process's share of every step."""
        trainer, fit = self._trainer(), self.config.fit
        shares = Shares(
            fit.batch_size, fit.leg_steps, fit.accumulate, trainer.global_rank, trainer.world_size
        )
        sampler = LegSampler(shares, lambda: trainer.global_step)
        pin = trainer.strategy.root_device.type == "cuda"
        return loader(self.prepared.samples, sampler, self.config.data.workers, pin)

    def val_dataloader(self) -> DataLoader[int]:
        """Numbers of songs; every process has equally many, so some may be scored twice."""
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
        resume: go on from the last checkpoint of the run's folder, if there is one.
        fresh: remove what an earlier run left in the folder.
        callback: receives the events of `progress.py`, and those of a download.

    Raises:
        SettingsError: the configuration doesn't fit together, or the folder holds a run or is trained in.
        StemsplitError: model or data can't be had.
        Cancelled: by the callback.
    """
    callback = callback if is_first_process() else None
    check_machine(file)
    with _own(file):
        network = build_network(file, callback)
        if file.config.per_stem is not None:
            return _train_per_stem(file, network, resume=resume, fresh=fresh, callback=callback)
        check_network(file, network)
        return _train_one(file, network, "", resume=resume, fresh=fresh, callback=callback)


def _own(file: ConfigFile) -> AbstractContextManager[None]:
    """Keep the run's folder from others before anything is prepared; the processes of one run share it."""
    return RunFolder(file.config.folder).locked() if is_first_process() else nullcontext()


def try_out(file: ConfigFile, callback: Callback | None = None) -> None:
    """Do everything once: build, read, one step; nothing stays of it.

    Args:
        file: the configuration; of several networks the first is tried.
        callback: receives a `Trained` event with the step's loss.
    """

    def without_end(event: Event) -> bool | None:
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
        _train_one(once, network, "", resume=False, fresh=False, callback=without_end)


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
        folder.require(file, resume=resume, fresh=fresh)
    going_on = resume and folder.last.exists()
    result = _finished(folder, config) if going_on else None
    if result is None:
        prepared = prepare(file, network.train(), callback)
        if is_first_process():
            folder.begin(config, anew=not going_on)
        result = _fit(folder, config, prepared, Keeper(folder, config, callback, name), going_on)
    emit(callback, Finished(name, str(result.folder), result.step, result.score))
    return result


def _fit(folder: RunFolder, config: Config, prepared: Prepared, keeper: Keeper, going_on: bool) -> Result:
    """All that is left of a run; `going_on` says that its last checkpoint comes first."""
    network = prepared.network
    module = Training(network, config, prepared.songs, prepared.teacher)
    with _contained():
        first = config.valid.at_start and not going_on
        trainer = Trainer(**_settings(config, folder, keeper), num_sanity_val_steps=-1 if first else 0)
        with _said_plainly(trainer):
            trainer.fit(
                module,
                datamodule=Feed(prepared, config),
                ckpt_path=folder.last if going_on else None,
                weights_only=True,
            )
    network.eval()
    return Result(folder.path, trainer.global_step, _known(module.contest.score))


def _train_per_stem(
    file: ConfigFile, first: Network, *, resume: bool, fresh: bool, callback: Callback | None
) -> Result:
    """A run for each stem in a folder of its own, and the bag that puts them together."""
    stems = stems_to_train(file, first)
    parts = {stem: part_for(file, stem, callback) for stem in stems}
    results = []
    for stem, part in parts.items():
        with _own(part):
            network = build_network(part, callback)
            results.append(_train_one(part, network, stem, resume=resume, fresh=fresh, callback=callback))
    folder = Path(file.config.folder).expanduser()
    if is_first_process():
        write_bag(folder, stems)
    scores = [one.score for one in results if one.score is not None]
    return Result(folder, sum(one.step for one in results), fmean(scores) if scores else None)


def is_first_process() -> bool:
    """Whether this is the one of all processes that writes files."""
    # the rank says nothing of other machines before Lightning has begun
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"


def _finished(folder: RunFolder, config: Config) -> Result | None:
    """What a run came to that has nothing left to do."""
    state, patience = folder.state(), config.valid.patience
    total = config.fit.epochs * config.fit.steps_per_epoch
    given_up = patience is not None and state["contest"]["losses"] >= patience
    if state["step"] < total and not given_up:
        return None
    return Result(folder.path, state["step"], _known(state["contest"]["score"]))


def _known(score: float) -> float | None:
    """A contest's score, None where no validation gave one."""
    return score if isfinite(score) else None


def _settings(config: Config, folder: RunFolder, keeper: Keeper) -> dict[str, Any]:
    """Arguments of Lightning's trainer, whose epochs are our legs: checkpoints lie between two of them."""
    fit = config.fit
    legs = fit.steps_per_epoch // fit.leg_steps
    return {
        "accelerator": fit.device,
        "devices": fit.devices,
        "num_nodes": fit.nodes,
        "strategy": "ddp" if fit.devices * fit.nodes > 1 else "auto",
        "precision": PRECISIONS[fit.precision],
        "max_epochs": fit.epochs * legs,
        "check_val_every_n_epoch": legs * config.valid.every_epochs,
        "limit_val_batches": None if config.data.valid else 0,
        "accumulate_grad_batches": fit.accumulate,
        "gradient_clip_val": config.optim.clip,
        "use_distributed_sampler": False,
        "callbacks": [keeper],
        "logger": _loggers(folder),
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "default_root_dir": folder.path,
    }


def _loggers(folder: RunFolder) -> list[Logger]:
    """A folder of logs for each time that the run is started."""
    start = f"start-{len(list(folder.logs.glob('csv/start-*')))}"
    return [
        TensorBoardLogger(folder.logs, name="tensorboard", version=start),
        CSVLogger(folder.logs, name="csv", version=start),
    ]


@contextmanager
def _said_plainly(trainer: Trainer) -> Iterator[None]:
    """Turn what may befall any run into errors that say so."""
    try:
        yield
    except SystemExit:
        # Lightning 2.6 makes an interrupt an exit without a word
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
            "another process of this run is gone", hint="--resume goes on from the last checkpoint"
        ) from None


@contextmanager
def _contained() -> Iterator[None]:
    """Keep Lightning's talk and what it changes of the process inside the block."""
    talk = [logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric")]
    levels = [logger.level for logger in talk]
    for logger in talk:
        logger.setLevel(logging.WARNING)
    devices = range(torch.cuda.device_count())
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            # a song per batch is validated in this process, where the model is: workers would only wait
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            # Lightning 2.6 asks torch 2.13 for its pytrees in the old way
            warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated", FutureWarning)
            yield
    finally:
        for logger, level in zip(talk, levels, strict=True):
            logger.setLevel(level)

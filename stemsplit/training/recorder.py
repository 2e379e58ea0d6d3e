"""Lightning callback that writes checkpoints, exports, metrics and progress events, and stops early."""

import shutil
import time
from contextlib import nullcontext
from math import isfinite
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from stemsplit.errors import StemsplitError
from stemsplit.events import Callback, emit
from stemsplit.files import replacing
from stemsplit.training.config import Config
from stemsplit.training.folder import RunFolder
from stemsplit.training.module import TrainingModule
from stemsplit.training.progress import Trained, Validated

_REPORT_INTERVAL_S = 0.5  # shortest time between two progress events


class RunRecorder(Checkpoint):
    """Callback that keeps a run's folder up to date and emits progress events.

    One Lightning epoch is one checkpoint interval (`run._settings`).

    Args:
        folder: of the run.
        config: of the run.
        callback: receives the events of `progress.py`.
        name: name of the run in the events.
    """

    def __init__(self, folder: RunFolder, config: Config, callback: Callback | None, name: str) -> None:
        self.folder, self.config, self.callback, self.name = folder, config, callback, name
        self.losses: list[torch.Tensor] = []
        self.started = self.reported = time.monotonic()
        self.first_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and drop the metrics that a resumed run measures again."""
        self.started, self.first_step = time.monotonic(), trainer.global_step
        if trainer.is_global_zero and trainer.global_step:
            self.folder.drop_later_metrics(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Force a validation after the last epoch: the last weights are often the best."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collect the loss, and report progress every `_REPORT_INTERVAL_S`."""
        self.losses.append(outputs["loss"].detach())
        stepped = (batch_idx + 1) % self.config.fit.accumulate == 0
        if stepped and trainer.is_global_zero and time.monotonic() - self.reported > _REPORT_INTERVAL_S:
            self._report(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the progress up to here before the scores."""
        if trainer.is_global_zero:
            self._report(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the scores, and export the best weights if they are new."""
        module, step = cast(TrainingModule, pl_module), trainer.global_step
        if not trainer.is_global_zero:
            return
        best, improved = module.best, module.best.stale_validations == 0
        if improved:
            self._export(module, best.candidate, step)
        rows = module.scores.items()
        self._log(trainer, {f"valid/{c}/{s}": v for c, row in rows for s, v in row.items() if v is not None})
        if step == 0:
            self._record({"step": 0, "epoch": 0, **self._scores(module)})
        score = best.score if isfinite(best.score) else None
        scored = Validated(self.name, self._epoch(step), step, module.scores, score, improved)
        emit(self.callback, scored)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save a checkpoint after every interval, and write metrics after the last interval of an epoch."""
        module, step = cast(TrainingModule, pl_module), trainer.global_step
        means = module.mean_losses()
        if trainer.is_global_zero:
            self._report(trainer)
        if step % self.config.fit.steps_per_epoch == 0:
            if trainer.is_global_zero:
                self._finish_epoch(trainer, module, means)
            module.reset_losses()
        self._save(trainer, module)
        patience = self.config.valid.patience
        if patience is not None and module.best.stale_validations >= patience:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Export the last weights if no validation gave a score, so that none is the best."""
        module = cast(TrainingModule, pl_module)
        if trainer.is_global_zero and module.songs and not isfinite(module.best.score):
            self._export(module, next(reversed(module.candidates())), trainer.global_step)

    def _finish_epoch(self, trainer: Trainer, module: TrainingModule, means: list[float]) -> None:
        """Write the metrics of an epoch; without validation songs, also export the last weights."""
        step = trainer.global_step
        record: dict[str, Any] = {
            "step": step,
            "epoch": self._epoch(step),
            "loss": means[0],
            "lr": self._rate(trainer),
        }
        record["loss_by_stem"] = dict(zip(module.network.stems, means[1:], strict=True))
        if not module.songs:
            self._export(module, next(reversed(module.candidates())), step)
        elif module.scored_step == step:
            record.update(self._scores(module))
        self._record({**record, "wall_s": round(time.monotonic() - self.started, 1)})

    def _record(self, record: dict[str, Any]) -> None:
        self.folder.append_metrics(record)
        self.folder.write_page(self.config.valid.metric)

    def _scores(self, module: TrainingModule) -> dict[str, Any]:
        return {"valid": module.scores, "best": module.best.state_dict()}

    def _export(self, module: TrainingModule, candidate: str, step: int) -> None:
        note = {"candidate": candidate, "step": step, "scores": module.scores.get(candidate)}
        self.folder.export(module.network, module.weights(candidate), self.config, note)

    def _save(self, trainer: Trainer, module: TrainingModule) -> None:
        """Save a checkpoint, under its final name only when it's complete; every process takes part."""
        last, writes = self.folder.last, trainer.is_global_zero
        with replacing(last) if writes else nullcontext(last) as part:
            trainer.save_checkpoint(part)
            scored = module.songs and module.scored_step == trainer.global_step
            if writes and scored and module.best.stale_validations == 0:
                with replacing(self.folder.best) as copy:
                    shutil.copyfile(part, copy)
        trainer.strategy.barrier()

    def _report(self, trainer: Trainer) -> None:
        """Log and emit the mean loss since the last report, and stop a run that diverges."""
        if not self.losses:
            return
        fit, step = self.config.fit, trainer.global_step
        loss, steps = torch.stack(self.losses).mean().item(), fit.epochs * fit.steps_per_epoch
        self.losses, self.reported = [], time.monotonic()
        if not isfinite(loss):
            raise StemsplitError(
                f"the loss is {loss} after {step} steps", hint="lower optim.lr, or set optim.clip"
            )
        self._log(trainer, {"loss": loss, "lr": self._rate(trainer)})
        per_step = (self.reported - self.started) / max(1, step - self.first_step)
        eta_s = per_step * (steps - step)  # `per_step` includes past validations
        emit(self.callback, Trained(self.name, self._epoch(step), fit.epochs, step, steps, loss, eta_s))

    def _log(self, trainer: Trainer, values: dict[str, float]) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step=trainer.global_step)

    def _epoch(self, step: int) -> int:
        """Return the epoch, from 1, that a number of steps ends in; 0 before the first step."""
        return -(-step // self.config.fit.steps_per_epoch)

    def _rate(self, trainer: Trainer) -> float:
        rate: float = trainer.optimizers[0].param_groups[0]["lr"]
        return rate

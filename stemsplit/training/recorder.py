"""Recorder of a run: writes checkpoints, exports and metrics, and emits progress events."""

import shutil
import time
from math import isfinite
from typing import Any, Final

import torch
from lightning.fabric import Fabric
from torch import Tensor

from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.events import Callback, emit
from stemsplit.files import replacing
from stemsplit.models.network import Network
from stemsplit.training.config import Config
from stemsplit.training.folder import RunFolder, load_checkpoint
from stemsplit.training.progress import Trained, Validated
from stemsplit.training.state import RunState
from stemsplit.training.validation import BestCandidate, unit_of

_REPORT_INTERVAL_S = 0.5  # shortest time between two progress events
_FRESH: Final = "start over with --fresh"
_SCALER: Final = "MixedPrecision"  # key of the state of fp16's loss scale in a checkpoint


class RunRecorder:
    """Keeps a run's folder up to date, logs, and emits progress events; only the first process writes.

    Args:
        fabric: with the loggers.
        folder: of the run.
        callback: receives the events of `progress.py`.
        name: name of the run in the events.
    """

    def __init__(self, fabric: Fabric, folder: RunFolder, callback: Callback | None, name: str) -> None:
        self.fabric, self.folder, self.callback, self.name = fabric, folder, callback, name
        self.losses: list[Tensor] = []
        self.started = self.reported = time.monotonic()
        self.first_step = 0

    def load(self, state: RunState) -> None:
        """Continue from the last checkpoint."""
        checkpoint = torch.load(self.folder.last, map_location="cpu", weights_only=True)
        state.restore(checkpoint)
        self.fabric.strategy.precision.load_state_dict(checkpoint.get(_SCALER, {}))

    def begin(self, state: RunState) -> None:
        """Start the clock, and drop the metrics that a resumed run measures again."""
        self.started, self.first_step = time.monotonic(), state.step
        if self.fabric.is_global_zero and state.step:
            self.folder.drop_later_metrics(state.step)

    def finish_batch(self, state: RunState, loss: Tensor, *, stepping: bool) -> None:
        """Collect the loss of a micro-batch, [], and report progress every `_REPORT_INTERVAL_S`."""
        if not self.fabric.is_global_zero:
            return
        self.losses.append(loss)
        if stepping and time.monotonic() - self.reported > _REPORT_INTERVAL_S:
            self._report(state)

    def finish_validation(self, state: RunState) -> None:
        """Report the scores, and export the best weights if they are new."""
        self._report(state)
        if not self.fabric.is_global_zero:
            return
        improved = state.best.stale_validations == 0
        if improved:
            self._export(state, state.best.candidate)
        rows = state.scores.items()
        self._log(state, {f"valid/{c}/{s}": v for c, row in rows for s, v in row.items() if v is not None})
        if state.step == 0:
            self._record(state, {"step": 0, "epoch": 0, **self._scores(state)})
        emit(
            self.callback,
            Validated(
                self.name,
                state.epoch,
                state.step,
                state.scores,
                state.best.finite_score,
                improved,
                unit_of(state.config.valid),
            ),
        )

    def finish_interval(self, state: RunState) -> None:
        """Save a checkpoint, and write metrics after the last step of an epoch."""
        self._report(state)
        if state.epoch_done:
            if self.fabric.is_global_zero:
                self._finish_epoch(state)
            state.loss_sums.zero_()
        self._save(state)

    def finish_run(self, state: RunState) -> None:
        """Export the last weights if validations gave no score, so that none is the best."""
        if self.fabric.is_global_zero and state.scores and state.best.finite_score is None:
            self._export(state, next(reversed(state.candidates())))

    def _finish_epoch(self, state: RunState) -> None:
        """Write the metrics of an epoch; without validation, also export the last weights."""
        loss, *by_stem = state.mean_losses()
        record = {
            "step": state.step,
            "epoch": state.epoch,
            "loss": loss,
            "lr": state.learning_rate,
            "loss_by_stem": dict(zip(state.network.stems, by_stem, strict=True)),
        }
        if not state.config.data.valid:
            self._export(state, next(reversed(state.candidates())))
        elif state.scored_step == state.step:
            record |= self._scores(state)
        self._record(state, record | {"wall_s": round(time.monotonic() - self.started, 1)})

    def _record(self, state: RunState, record: dict[str, Any]) -> None:
        self.folder.append_metrics(record)
        self.folder.write_page(state.config.valid.metric)

    def _scores(self, state: RunState) -> dict[str, Any]:
        return {"valid": state.scores, "best": state.best.state_dict()}

    def _export(self, state: RunState, candidate: str) -> None:
        _export(self.folder, state, candidate)

    def _save(self, state: RunState) -> None:
        """Save a checkpoint, under its final name only when it's complete; every process waits for it."""
        if self.fabric.is_global_zero:
            scaler = self.fabric.strategy.precision.state_dict()
            with replacing(self.folder.last) as part:
                torch.save({**state.checkpoint(), _SCALER: scaler}, part)
                if state.scored_step == state.step and state.best.stale_validations == 0:
                    with replacing(self.folder.best) as copy:
                        shutil.copyfile(part, copy)
        self.fabric.barrier()

    def _report(self, state: RunState) -> None:
        """Log and emit the mean loss since the last report, and stop a run that diverges."""
        if not self.losses:
            return
        loss, steps = torch.stack(self.losses).mean().item(), state.total_steps
        self.losses, self.reported = [], time.monotonic()
        if not isfinite(loss):
            raise StemsplitError(
                f"the loss is {loss} after {state.step} steps", hint="lower optim.lr, or set optim.clip"
            )
        self._log(state, {"loss": loss, "lr": state.learning_rate})
        per_step = (self.reported - self.started) / max(1, state.step - self.first_step)
        eta_s = per_step * (steps - state.step)  # `per_step` includes past validations
        epochs = state.config.fit.epochs
        emit(self.callback, Trained(self.name, state.epoch, epochs, state.step, steps, loss, eta_s))

    def _log(self, state: RunState, values: dict[str, float]) -> None:
        self.fabric.log_dict(values, step=state.step)


def export_again(folder: RunFolder, network: Network, config: Config, best: BestCandidate) -> None:
    """Export the model of a run whose model.safetensors is missing from its checkpoints.

    Args:
        folder: of the run.
        network: as before the first step; the checkpoint's weights are loaded into it.
        config: of the run.
        best: best candidate so far; without a score, the last weights are exported.

    Raises:
        CheckpointError: the checkpoint with these weights is missing or damaged.
    """
    state, scored = RunState(network, config), best.finite_score is not None
    if not scored or best.step:  # before the first step, the best weights are those of the network
        source = folder.best if scored else folder.last
        if not source.exists():
            raise CheckpointError(source, f"missing, like {folder.model.name}", hint=_FRESH)
        state.restore(load_checkpoint(source, _FRESH))
    _export(folder, state, best.candidate if scored else next(reversed(state.candidates())))


def _export(folder: RunFolder, state: RunState, candidate: str) -> None:
    note = {"candidate": candidate, "step": state.step, "scores": state.scores.get(candidate)}
    folder.export(state.network, state.weights(candidate), state.config, note)

"""State of a run, everything that an exact resume needs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stemsplit.models.network import Network
from stemsplit.training.config import Config
from stemsplit.training.optim import Ema, build_optimizer, schedule_factor
from stemsplit.training.teacher import Teacher
from stemsplit.training.validation import BestCandidate

RAW = "raw"  # the candidate without averaging
PREFIX = "network."  # of weights in a checkpoint


class RunState:
    """A network in training, its optimiser, the averages of its weights, and the best score of them so far.

    Args:
        network: to train.
        config: of the run.
        teacher: for semi-supervised training.

    Attributes:
        step: optimiser steps done so far.
        averages: of the weights, by name. They lack the frozen parameters.
        loss_sums: sums over this epoch, [2 + S]: micro-batches, loss, loss of each stem.
        best: best candidate of all validations.
        scores: of the last validation by candidate and stem; None if no song has the stem.
        scored_step: step of the last validation; -1 before the first.
    """

    def __init__(self, network: Network, config: Config, teacher: Teacher | None = None) -> None:
        self.network, self.config, self.teacher = network, config, teacher
        self.optimizer = build_optimizer(network, config.optim)

        def factor(step: int) -> float:
            return schedule_factor(config.schedule, step, config.fit.steps_per_epoch, self.total_steps)

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.averages = {
            f"{every} {decay!r}": Ema(network, decay)
            for every, decays in (("step", config.ema.step), ("epoch", config.ema.epoch))
            for decay in decays
        }
        self.loss_sums = torch.zeros(2 + len(network.stems))
        self.best = BestCandidate()
        self.scores: dict[str, dict[str, float | None]] = {}
        self.step, self.scored_step = 0, -1

    @property
    def total_steps(self) -> int:
        """Return the number of steps of the whole run."""
        return self.config.fit.epochs * self.config.fit.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Return the epoch, from 1, that the current step ends in; 0 before the first step."""
        return -(-self.step // self.config.fit.steps_per_epoch)

    @property
    def epoch_done(self) -> bool:
        """Return True after the last step of an epoch."""
        return self.step % self.config.fit.steps_per_epoch == 0

    @property
    def finished(self) -> bool:
        """Return True if no steps are left, or if validations don't improve any more."""
        return is_finished(self.config, self.step, self.best)

    @property
    def validation_due(self) -> bool:
        """Return True where the run validates; the weights after the last step are often the best."""
        fit, valid = self.config.fit, self.config.valid
        every = fit.steps_per_epoch * valid.every_epochs
        return self.step % every == 0 or self.step == self.total_steps

    @property
    def learning_rate(self) -> float:
        """Return the learning rate of the first parameter group."""
        rate: float = self.optimizer.param_groups[0]["lr"]
        return rate

    def to(self, device: torch.device) -> None:
        """Move to the network's device what isn't in the network."""
        self.loss_sums = self.loss_sums.to(device)
        for average in self.averages.values():
            average.to(device)
        if self.teacher is not None:
            self.teacher.network.to(device)

    def add_losses(self, loss: Tensor, per_stem: Tensor) -> None:
        """Add the loss [] of a micro-batch and of each stem [S]."""
        passed = torch.ones_like(per_stem[:1])  # [1], counts the micro-batch
        self.loss_sums += torch.cat([passed, loss[None], per_stem])  # [2 + S]

    def mean_losses(self) -> list[float]:
        """Return the mean loss of this epoch so far and of each stem, [1 + S]."""
        means: list[float] = (self.loss_sums[1:] / self.loss_sums[0]).tolist()
        return means

    def advance(self) -> None:
        """Count an optimiser step: change the learning rate and update the averages."""
        self.step += 1
        self.schedule.step()
        for name, average in self.averages.items():
            if self.epoch_done or name.startswith("step"):
                average.update(self.network)

    def candidates(self) -> dict[str, dict[str, Tensor] | None]:
        """Return the candidates for the export by name, as state dicts; None stands for the network's own."""
        averages = {name: average.values for name, average in self.averages.items() if average.weight}
        return {RAW: None, **averages}

    def weights(self, candidate: str) -> dict[str, Tensor]:
        """Return the state dict of a candidate."""
        return self.network.state_dict() | (self.candidates()[candidate] or {})

    def checkpoint(self) -> dict[str, Any]:
        """Return what `restore` needs; its keys, of which some are Lightning's, never change."""
        return {
            "global_step": self.step,
            "state_dict": {PREFIX + name: value for name, value in self.network.state_dict().items()},
            "optimizer_states": [self.optimizer.state_dict()],
            "lr_schedulers": [self.schedule.state_dict()],
            "stemsplit": {
                "averages": {name: average.state_dict() for name, average in self.averages.items()},
                "contest": self.best.state_dict(),
                "tally": self.loss_sums,
                "teacher": None if self.teacher is None else self.teacher.state_dict(),
            },
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Continue from a checkpoint."""
        weights = checkpoint["state_dict"].items()
        self.network.load_state_dict({name.removeprefix(PREFIX): value for name, value in weights})
        self.optimizer.load_state_dict(checkpoint["optimizer_states"][0])
        self.schedule.load_state_dict(checkpoint["lr_schedulers"][0])
        self.step, state = checkpoint["global_step"], checkpoint["stemsplit"]
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        self.best = BestCandidate.from_state(state["contest"])
        self.loss_sums = state["tally"]
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])


def is_finished(config: Config, step: int, best: BestCandidate) -> bool:
    """Return True if a run has no steps left, or if its validations don't improve any more."""
    patience = config.valid.patience
    stale = patience is not None and best.stale_validations >= patience
    return stale or step >= config.fit.epochs * config.fit.steps_per_epoch

"""Training step, validation step and checkpoint state as a Lightning module."""

from collections.abc import Sequence
from contextlib import nullcontext
from math import isnan
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed

from stemsplit.core.compute import DTYPES, Compute
from stemsplit.models.network import Network
from stemsplit.training.config import Config
from stemsplit.training.criterion import Criterion
from stemsplit.training.data import Sample
from stemsplit.training.library import WholeSong
from stemsplit.training.optim import Ema, build_optimizer, schedule_factor, temporary_weights
from stemsplit.training.rng import derive_seed
from stemsplit.training.teacher import Teacher
from stemsplit.training.validation import BestCandidate, score_song, summary

RAW = "raw"  # the candidate without averaging


class TrainingModule(LightningModule):
    """A network in training, the averages of its weights, and the best score of them so far.

    After every validation, the candidates (the weights as they are, and every average) are compared.

    Args:
        network: to train.
        config: of the run.
        songs: validation songs.
        teacher: for semi-supervised training.
    """

    def __init__(
        self, network: Network, config: Config, songs: Sequence[WholeSong], teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.network, self.config, self.songs, self.teacher = network, config, songs, teacher
        self.criterion = Criterion(config.loss, network.stems)
        self.averages = {
            f"{every} {decay:g}": Ema(network, decay)
            for every, decays in (("step", config.ema.step), ("epoch", config.ema.epoch))
            for decay in decays
        }
        self.best = BestCandidate()
        # [2 + S], sums over this epoch: micro-batches, loss, loss of each stem
        self.loss_sums = torch.zeros(2 + len(network.stems))
        self.song_scores: dict[int, Tensor] = {}  # [candidates, S] by song, in the current validation
        # scores of the last validation by candidate and stem; None if no song has the stem
        self.scores: dict[str, dict[str, float | None]] = {}
        self.scored_step = -1  # step of the last validation

    # ------------------------------------------------------------ training

    def configure_optimizers(self) -> Any:
        """Return the optimiser and the learning-rate schedule, which is updated every step."""
        config, fit = self.config, self.config.fit
        optimizer = build_optimizer(self.network, config.optim)
        total = fit.epochs * fit.steps_per_epoch

        def factor(step: int) -> float:
            return schedule_factor(config.schedule, step, fit.steps_per_epoch, total)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Move to the network's device what Lightning doesn't move."""
        self.loss_sums = self.loss_sums.to(self.device)
        for average in self.averages.values():
            average.to(self.device)
        if self.teacher is not None:
            self.teacher.network.to(self.device)

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Seed dropout with the position in the run, so that a resumed run draws the same numbers."""
        torch.manual_seed(derive_seed(self.config.seed, "step", int(batch.number[0])))

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """Return the loss of a batch, []."""
        mix, stems = (batch.mix, batch.stems) if self.teacher is None else self.teacher.mix_batch(batch)
        loss, per_stem = self.criterion(self.network, mix, stems)
        passed = torch.ones_like(per_stem[:1])  # [1], counts the micro-batch
        self.loss_sums += torch.cat([passed, loss.detach()[None], per_stem])  # [2 + S]
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """Update the step averages after an optimiser step, and the epoch averages after an epoch's last."""
        fit = self.config.fit
        if (batch_idx + 1) % fit.accumulate:
            return
        epoch_done = self.global_step % fit.steps_per_epoch == 0
        for name, average in self.averages.items():
            if epoch_done or name.startswith("step"):
                average.update(self.network)

    def mean_losses(self) -> list[float]:
        """Return the mean loss of this epoch so far and of each stem, [1 + S], over all processes."""
        self.loss_sums = gather_processes(self.loss_sums).mean(dim=0)  # [processes, 2 + S] → [2 + S]
        means: list[float] = (self.loss_sums[1:] / self.loss_sums[0]).tolist()
        return means

    def reset_losses(self) -> None:
        """Clear the losses at the end of an epoch."""
        self.loss_sums = torch.zeros_like(self.loss_sums)

    # ------------------------------------------------------------ validation

    def candidates(self) -> dict[str, dict[str, Tensor] | None]:
        """Return the candidates for the export by name, as state dicts; None stands for the network's own.

        An average lacks the frozen parameters.
        """
        averages = {name: average.values for name, average in self.averages.items() if average.weight}
        return {RAW: None, **averages}

    def weights(self, candidate: str) -> dict[str, Tensor]:
        """Return the state dict of a candidate."""
        return self.network.state_dict() | (self.candidates()[candidate] or {})

    def validation_step(self, index: int, batch_idx: int) -> None:
        """Separate one song with every candidate and score it."""
        song, dtype = self.songs[index], DTYPES[self.config.fit.precision]
        compute = Compute(self.device, torch.float32 if self.device.type == "cpu" else dtype)
        scores = []
        for values in self.candidates().values():
            with nullcontext() if values is None else temporary_weights(self.network, values):
                scores.append(score_song(self.network, song, self.config.valid, compute))
        self.song_scores[index] = torch.stack(scores)  # [candidates, S]

    def on_validation_epoch_end(self) -> None:
        """Compare the candidates by their scores; every process gets the same result."""
        scores = summary(self._gather_scores(), self.config.valid)  # [candidates, S]
        names, columns = list(self.candidates()), (*self.network.stems, "mean")
        counted = scores[:, self.criterion.weights > 0].nanmean(
            dim=1
        )  # [candidates], over stems with a weight
        self.best.update(names, counted, self.global_step)
        rows = torch.cat([scores, counted[:, None]], dim=1).tolist()  # [candidates, S + 1]
        self.scores = {
            name: {stem: None if isnan(score) else score for stem, score in zip(columns, row, strict=True)}
            for name, row in zip(names, rows, strict=True)
        }
        self.scored_step = self.global_step
        if self.teacher is not None:
            best = int(counted.nan_to_num(nan=float("-inf")).argmax())
            self.teacher.promote_if_better(self.weights(names[best]), float(counted[best]))
        self.song_scores = {}

    def _gather_scores(self) -> Tensor:
        """Return the scores of all processes, [songs, candidates, S]; a song may have been scored twice."""
        shape = (len(self.songs), *next(iter(self.song_scores.values())).shape)
        scores = torch.full(shape, -torch.inf, device=self.device)  # not scored by this process
        for index, own in self.song_scores.items():
            # NaN doesn't survive a maximum on every backend, so +∞ stands for it
            scores[index] = own.to(scores).nan_to_num(nan=torch.inf)
        best = gather_processes(scores).amax(dim=0).cpu()
        return best.masked_fill(best == torch.inf, torch.nan)

    # ------------------------------------------------------------ state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add averages, best score, loss sums and teacher; resuming depends on these keys."""
        checkpoint["stemsplit"] = {
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "contest": self.best.state_dict(),
            "tally": self.loss_sums,
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore what `on_save_checkpoint` added."""
        state = checkpoint["stemsplit"]
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        self.best = BestCandidate.from_state(state["contest"])
        self.loss_sums = state["tally"]
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])


def gather_processes(values: Tensor) -> Tensor:
    """Return the values of every process, [processes, *values.shape]."""
    if not distributed.is_available() or not distributed.is_initialized():
        return values[None]
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values)
    return torch.stack(parts)  # [processes, *values.shape]

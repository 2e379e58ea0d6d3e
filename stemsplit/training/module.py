"""The training step and the validation step, as Lightning wants them; everything else is elsewhere."""

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
from stemsplit.training.data import Sample
from stemsplit.training.draws import derive
from stemsplit.training.library import WholeSong
from stemsplit.training.losses import Criterion
from stemsplit.training.optim import Average, build_optimizer, schedule_factor, weights_of
from stemsplit.training.teacher import Teacher
from stemsplit.training.validation import Contest, score_song, summary

RAW = "raw"


class Training(LightningModule):
    """A network, the averages of its weights, and how they are trained and compared.

    Args:
        network: to train.
        config: of the run.
        songs: to validate on.
        teacher: of semi-supervised training.
    """

    def __init__(
        self, network: Network, config: Config, songs: Sequence[WholeSong], teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.network, self.config, self.songs, self.teacher = network, config, songs, teacher
        self.criterion = Criterion(config.loss, network.stems)
        self.averages = {
            f"{every} {decay:g}": Average(network, decay)
            for every, decays in (("step", config.ema.step), ("epoch", config.ema.epoch))
            for decay in decays
        }
        self.contest = Contest()
        self.tally = torch.zeros(2 + len(network.stems))  # of this epoch: passes, sums of losses
        self.found: dict[int, Tensor] = {}  # scores [candidates, S] by song, of a validation under way
        # of the last validation, by candidate and stem, None where no song has it
        self.scores: dict[str, dict[str, float | None]] = {}
        self.scored_step = -1  # when it was

    # ------------------------------------------------------------ training

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule's factor at every step."""
        config, fit = self.config, self.config.fit
        optimizer = build_optimizer(self.network, config.optim)
        total = fit.epochs * fit.steps_per_epoch

        def factor(step: int) -> float:
            return schedule_factor(config.schedule, step, fit.steps_per_epoch, total)

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Put what Lightning doesn't know of where the network is."""
        self.tally = self.tally.to(self.device)
        for average in self.averages.values():
            average.to(self.device)
        if self.teacher is not None:
            self.teacher.network.to(self.device)

    def on_train_batch_start(self, batch: Sample, batch_idx: int) -> None:
        """Seed dropout and the like by where the run stands, so that a resumed run draws the same."""
        torch.manual_seed(derive(self.config.seed, "step", int(batch.number[0])))

    def training_step(self, batch: Sample, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        mix, stems = (batch.mix, batch.stems) if self.teacher is None else self.teacher.blend(batch)
        loss, per_stem = self.criterion(self.network, mix, stems)
        self.tally += torch.cat([torch.ones_like(per_stem[:1]), loss.detach()[None], per_stem])
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Sample, batch_idx: int) -> None:
        """Update the averages after an optimiser step, and after an epoch's last."""
        fit = self.config.fit
        if (batch_idx + 1) % fit.accumulate:
            return
        epoch_done = self.global_step % fit.steps_per_epoch == 0
        for name, average in self.averages.items():
            if epoch_done or name.startswith("step"):
                average.update(self.network)

    def mean_losses(self) -> list[float]:
        """The mean loss of this epoch so far, and that of each stem, over all processes alike."""
        self.tally = from_all_processes(self.tally).mean(dim=0)
        means: list[float] = (self.tally[1:] / self.tally[0]).tolist()
        return means

    def forget_losses(self) -> None:
        """Begin a new epoch."""
        self.tally = torch.zeros_like(self.tally)

    # ------------------------------------------------------------ validation

    def candidates(self) -> dict[str, dict[str, Tensor] | None]:
        """Names and weights of what may be exported; None is the network as it stands."""
        averages = {name: average.values for name, average in self.averages.items() if average.weight}
        return {RAW: None, **averages}

    def weights(self, candidate: str) -> dict[str, Tensor]:
        """The weights of a candidate."""
        values = self.candidates()[candidate]
        return self.network.state_dict() if values is None else values

    def validation_step(self, index: int, batch_idx: int) -> None:
        """Separate one song with every candidate and score it."""
        song, dtype = self.songs[index], DTYPES[self.config.fit.precision]
        compute = Compute(self.device, torch.float32 if self.device.type == "cpu" else dtype)
        scores = []
        for values in self.candidates().values():
            with nullcontext() if values is None else weights_of(self.network, values):
                scores.append(score_song(self.network, song, self.config.valid, compute))
        self.found[index] = torch.stack(scores)

    def on_validation_epoch_end(self) -> None:
        """Compare the candidates, over all processes alike."""
        scores = summary(self._gathered(), self.config.valid)
        names, columns = list(self.candidates()), (*self.network.stems, "mean")
        counted = scores[:, self.criterion.weights > 0].nanmean(dim=1)
        self.contest.enter(names, counted, self.global_step)
        rows = torch.cat([scores, counted[:, None]], dim=1).tolist()
        self.scores = {
            name: {stem: None if isnan(score) else score for stem, score in zip(columns, row, strict=True)}
            for name, row in zip(names, rows, strict=True)
        }
        self.scored_step = self.global_step
        if self.teacher is not None:
            best = int(counted.nan_to_num(nan=float("-inf")).argmax())
            self.teacher.offer(self.weights(names[best]), float(counted[best]))
        self.found = {}

    def _gathered(self) -> Tensor:
        """[songs, candidates, S]: every process has scored some of the songs, perhaps one of them twice."""
        shape = (len(self.songs), *next(iter(self.found.values())).shape)
        scores = torch.full(shape, -torch.inf, device=self.device)
        for index, own in self.found.items():
            # NaN doesn't survive a maximum on every backend
            scores[index] = own.to(scores).nan_to_num(nan=torch.inf)
        best = from_all_processes(scores).amax(dim=0).cpu()
        return best.masked_fill(best == torch.inf, torch.nan)

    # ------------------------------------------------------------ state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what Lightning doesn't know of."""
        checkpoint["stemsplit"] = {
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
            "contest": vars(self.contest),
            "tally": self.tally,
            "teacher": None if self.teacher is None else self.teacher.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Undo `on_save_checkpoint`."""
        state = checkpoint["stemsplit"]
        for name, average in self.averages.items():
            average.load_state_dict(state["averages"][name])
        self.contest = Contest(**state["contest"])
        self.tally = state["tally"]
        if self.teacher is not None:
            self.teacher.load_state_dict(state["teacher"])


def from_all_processes(values: Tensor) -> Tensor:
    """What every process has, along a new first dimension."""
    if not distributed.is_available() or not distributed.is_initialized():
        return values[None]
    parts = [torch.empty_like(values) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, values)
    return torch.stack(parts)

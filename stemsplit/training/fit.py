"""The training loop, on one or more processes, by Lightning Fabric."""

from math import isnan
from typing import cast

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stemsplit.core.compute import DTYPES, Compute
from stemsplit.training.adapters import training_mode
from stemsplit.training.batches import MicroBatches, ResumableSampler, data_loader
from stemsplit.training.criterion import Criterion
from stemsplit.training.data import Sample
from stemsplit.training.library import WholeSong
from stemsplit.training.optim import temporary_weights
from stemsplit.training.prepare import Prepared
from stemsplit.training.recorder import RunRecorder
from stemsplit.training.rng import derive_seed
from stemsplit.training.state import RunState
from stemsplit.training.validation import score_song, summary


class Objective(nn.Module):
    """Loss of a batch as one module, to which autocast and the exchange of gradients apply.

    Args:
        state: network, configuration and teacher.
    """

    def __init__(self, state: RunState) -> None:
        super().__init__()
        self.network, self.teacher = state.network, state.teacher
        self.criterion = Criterion(state.config.loss, state.network.stems)

    def forward(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """Return the loss [] of a batch, and the loss of each stem [S] without a gradient."""
        mix, stems = (batch.mix, batch.stems) if self.teacher is None else self.teacher.mix_batch(batch)
        return self.criterion(self.network, mix, stems)


def fit(fabric: Fabric, state: RunState, data: Prepared, recorder: RunRecorder, *, resuming: bool) -> None:
    """Train until no steps are left or validations don't improve any more.

    Args:
        fabric: launched.
        state: of the run.
        data: samples and validation songs.
        recorder: reports, saves, and loads the last checkpoint.
        resuming: True to continue from that checkpoint.
    """
    config, songs = state.config, data.songs
    objective, optimizer = fabric.setup(Objective(state), state.optimizer)
    loader = _loader(fabric, state, data)
    if resuming:
        recorder.load(state)
    state.to(fabric.device)
    recorder.begin(state)
    if config.valid.at_start and not resuming:
        validate(fabric, state, songs)
        recorder.finish_validation(state)
    while not state.finished:
        for turn, batch in enumerate(loader, 1):  # up to the next checkpoint
            stepping = turn % config.fit.accumulate == 0
            # the position in the run seeds dropout, so that a resumed run draws the same numbers
            torch.manual_seed(derive_seed(config.seed, "step", int(batch.number[0])))
            with fabric.no_backward_sync(objective, enabled=not stepping):
                loss, per_stem = objective(batch)
                fabric.backward(loss / config.fit.accumulate)
            state.add_losses(loss.detach(), per_stem)
            if stepping:
                if (clip := config.optim.clip) is not None:
                    fabric.clip_gradients(objective, optimizer, max_norm=clip, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()
                state.advance()
            recorder.finish_batch(state, loss.detach(), stepping=stepping)
        if songs and state.validation_due:
            validate(fabric, state, songs)
            recorder.finish_validation(state)
        state.loss_sums = _over_processes(fabric, state.loss_sums, "mean")
        recorder.finish_interval(state)
    recorder.finish_run(state)


def _loader(fabric: Fabric, state: RunState, data: Prepared) -> DataLoader[Sample]:
    """Return a loader of this process's micro-batches, from the current step to the next checkpoint."""
    fit = state.config.fit
    micro_batches = MicroBatches(
        fit.batch_size, fit.checkpoint_interval, fit.accumulate, fabric.global_rank, fabric.world_size
    )
    sampler = ResumableSampler(micro_batches, lambda: state.step)
    pin = fabric.device.type == "cuda"
    loader = data_loader(data.samples, sampler, state.config.data.workers, pin)
    return cast(DataLoader[Sample], fabric.setup_dataloaders(loader, use_distributed_sampler=False))


def _over_processes(fabric: Fabric, values: Tensor, operation: str) -> Tensor:
    """Return the mean or the maximum of a tensor over all processes."""
    return cast(Tensor, fabric.all_reduce(values, reduce_op=operation))


@torch.inference_mode()
def validate(fabric: Fabric, state: RunState, songs: list[WholeSong]) -> None:
    """Separate songs with every candidate, and compare the candidates by their scores.

    The processes divide the songs among themselves, and every process gets the same result.
    """
    config, network, candidates = state.config, state.network, state.candidates()
    cpu = fabric.device.type == "cpu"
    compute = Compute(fabric.device, torch.float32 if cpu else DTYPES[config.fit.precision])
    shape = len(songs), len(candidates), len(network.stems)
    scores = torch.full(shape, -torch.inf, device=fabric.device)
    network.eval()
    for index in range(fabric.global_rank, len(songs), fabric.world_size):
        for number, values in enumerate(candidates.values()):
            with temporary_weights(network, values or {}):
                score = score_song(network, songs[index], config.valid, compute)  # [S]
            # NaN doesn't survive a maximum on every backend, so +∞ stands for it
            scores[index, number] = score.to(scores).nan_to_num(nan=torch.inf)
    training_mode(network)
    scores = _over_processes(fabric, scores, "max").cpu()
    scores = scores.masked_fill(scores == torch.inf, torch.nan)
    _compare(state, list(candidates), summary(scores, config.valid))  # [candidates, S]


def _compare(state: RunState, names: list[str], scores: Tensor) -> None:
    """Update the best candidate and the teacher by the scores of candidates [candidates, S]."""
    stems = state.network.stems
    counted = torch.tensor([state.config.loss.weights.get(stem, 1.0) > 0 for stem in stems])  # [S]
    means = scores[:, counted].nanmean(dim=1)  # [candidates]
    state.best.update(names, means, state.step)
    columns, rows = (*stems, "mean"), torch.cat([scores, means[:, None]], dim=1)  # [candidates, S + 1]
    state.scores = {
        name: {stem: None if isnan(score) else score for stem, score in zip(columns, row, strict=True)}
        for name, row in zip(names, rows.tolist(), strict=True)
    }
    state.scored_step = state.step
    if state.teacher is not None:
        best = int(means.nan_to_num(nan=float("-inf")).argmax())
        state.teacher.promote_if_better(state.weights(names[best]), float(means[best]))

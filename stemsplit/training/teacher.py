"""Semi-supervised training ("Music Source Separation with Band-split RNN", section III).

A teacher separates unlabelled mixtures. What it finds takes part like labelled stems do, unless it is 30 dB
below the mixture: then the mixture is clean of it. New training mixes are made of both, and whenever a
student scores better on the validation set, it becomes the teacher.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stemsplit.models.network import Network
from stemsplit.training.augment import rescale_peak
from stemsplit.training.config import AugmentConfig, SemiConfig
from stemsplit.training.data import Sample, draw_factors
from stemsplit.training.draws import generator


def pseudo_stems(mix: Tensor, estimates: Tensor, filter_db: float) -> tuple[Tensor, Tensor]:
    """Stems of unlabelled mixtures, and which of them there are.

    A stem whose energy is more than `filter_db` below the mixture's is absent. If all but one are absent, the
    mixture itself is that one. For a target and its residual these are the paper's two rules.

    Args:
        mix: [B, C, T].
        estimates: of all stems, [B, S, C, T]; they add up to the mixture.
        filter_db: 30 in the paper.

    Returns:
        [B, S, C, T], and [B, S], true for the stems that take part.
    """
    levels = 10 * torch.log10(estimates.square().sum((-2, -1)) / mix.square().sum((-2, -1))[:, None])
    present = levels >= -filter_db
    alone = present & (present.sum(1, keepdim=True) == 1)
    return torch.where(alone[..., None, None], mix[:, None], estimates), present


def with_residual(mix: Tensor, stems: Tensor, covered: bool) -> Tensor:
    """All of the mixture as stems: what the network's leave of it is one more, unless they are `covered`.

    Args:
        mix: [B, C, T].
        stems: [B, S, C, T].
        covered: whether the stems add up to the mix.

    Returns:
        [B, S or S + 1, C, T].
    """
    return stems if covered else torch.cat([stems, (mix - stems.sum(1))[:, None]], dim=1)


class Teacher:
    """Separates unlabelled mixtures, and makes training samples of them and of labelled stems.

    Args:
        network: the first teacher; it is copied.
        config: the filter, and whether better students take over.
        change: gains, polarity, drops and peak, applied to the new samples.
        seed: of the run.
        covered: whether the network's stems add up to the mix.
    """

    def __init__(
        self, network: Network, config: SemiConfig, change: AugmentConfig, seed: int, *, covered: bool
    ) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.config, self.change, self.seed, self.covered = config, change, seed, covered
        self.score = float("-inf")

    def blend(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """New mixes: every stem is the labelled or, where there is one, the pseudo stem, equally likely.

        Args:
            batch: of labelled stems, neither scaled nor mixed yet, and unlabelled mixtures.

        Returns:
            The mix [B, C, T] and the network's stems [B, S, C, T].
        """
        with torch.no_grad():
            estimates = self.network.estimate(batch.unlabelled).float()
        pseudo, present = pseudo_stems(
            batch.unlabelled,
            with_residual(batch.unlabelled, estimates, self.covered),
            self.config.filter_db,
        )
        labelled = with_residual(batch.mix, batch.stems, self.covered)
        made = [
            self._mix(number, *parts)
            for number, *parts in zip(batch.number.tolist(), labelled, pseudo, present, strict=True)
        ]
        mixes, stems = zip(*made, strict=True)
        return torch.stack(mixes), torch.stack(stems)[:, : batch.stems.shape[1]]

    def _mix(self, number: int, labelled: Tensor, pseudo: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """One sample of stems [S, C, T] and their presence [S]."""
        source = generator(self.seed, "semi", number)
        coins = torch.rand(len(labelled), generator=source).to(labelled.device)
        stems = torch.where((present & (coins < 0.5))[:, None, None], pseudo, labelled)
        stems = stems * draw_factors(len(stems), self.change, source).to(stems)[:, None, None]
        mix = stems.sum(0)
        return rescale_peak(mix, stems) if self.change.peak else (mix, stems)

    def offer(self, values: Mapping[str, Tensor], score: float) -> bool:
        """Let a student take over if it scores better and promotion is wanted; the first to score is ours.

        Args:
            values: the student's weights.
            score: its own on the validation set.

        Returns:
            Whether it is the teacher now.
        """
        better = self.config.promote and score > self.score
        if better:
            self.network.load_state_dict(dict(values))
            self.score = score
        return better

    def state_dict(self) -> dict[str, Any]:
        """Everything that an exact resume needs."""
        return {"score": self.score, "values": dict(self.network.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo `state_dict`."""
        self.score = state["score"]
        self.network.load_state_dict(state["values"])

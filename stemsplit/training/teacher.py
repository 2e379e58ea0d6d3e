"""Semi-supervised training (Luo and Yu, "Music Source Separation with Band-split RNN", section III).

A teacher separates unlabelled mixtures, and training mixes are made of its estimates and of labelled stems.
An estimate more than 30 dB below the mixture is discarded: the mixture doesn't contain that stem. A student
that scores better on the validation set becomes the teacher. `B` batch, `S` stems, `C` channels, `T` samples.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from stemsplit.models.network import Network
from stemsplit.training.augment import rescale_peak
from stemsplit.training.config import SemiConfig
from stemsplit.training.data import Sample, random_factors
from stemsplit.training.rng import generator
from stemsplit.training.sampling import AugmentConfig


def pseudo_stems(mix: Tensor, estimates: Tensor, filter_db: float) -> tuple[Tensor, Tensor]:
    """Return stems of unlabelled mixtures, and a mask of those that the mixtures contain.

    A stem whose energy is more than `filter_db` below the mixture's is absent. If all but one are absent, the
    mixture itself is that stem. For a target and its residual, these are the two rules of section III.

    Args:
        mix: [B, C, T].
        estimates: of all stems, [B, S, C, T]; they add up to the mixture.
        filter_db: in dB (the paper: 30).

    Returns:
        Stems [B, S, C, T], and booleans [B, S], true for the stems that are present.
    """
    energies = estimates.square().sum((-2, -1))  # [B, S]
    levels = 10 * torch.log10(energies / mix.square().sum((-2, -1))[:, None])  # [B, S]
    present = levels >= -filter_db
    only = present & (present.sum(1, keepdim=True) == 1)  # [B, S]
    return torch.where(only[..., None, None], mix[:, None], estimates), present  # [B, S, C, T], [B, S]


def with_residual(mix: Tensor, stems: Tensor, complete: bool) -> Tensor:
    """Return stems that add up to the mix, by appending the residual unless they are `complete`.

    Args:
        mix: [B, C, T].
        stems: [B, S, C, T].
        complete: true if the stems already add up to the mix.

    Returns:
        [B, S or S + 1, C, T].
    """
    residual = (mix - stems.sum(1))[:, None]  # [B, 1, C, T]
    return stems if complete else torch.cat([stems, residual], dim=1)  # [B, S or S + 1, C, T]


class Teacher:
    """Separates unlabelled mixtures, and mixes training samples from its estimates and labelled stems.

    Args:
        network: first teacher; it is copied.
        config: threshold of the filter, and promotion of better students.
        change: gain, polarity, drop and peak augmentation of the new samples.
        seed: of the run.
        complete: true if the network's stems add up to the mix.
    """

    def __init__(
        self, network: Network, config: SemiConfig, change: AugmentConfig, seed: int, *, complete: bool
    ) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.config, self.change, self.seed, self.complete = config, change, seed, complete
        self.score = float("-inf")

    def mix_batch(self, batch: Sample) -> tuple[Tensor, Tensor]:
        """Return new mixes: each stem is the labelled one or, if present, the pseudo stem, equally likely.

        Args:
            batch: labelled stems without gains (`SampleSpec.raw_stems`), and unlabelled mixtures.

        Returns:
            The mix [B, C, T] and the network's stems [B, S, C, T].
        """
        with torch.no_grad():
            estimates = self.network.estimate(batch.unlabelled).float()  # [B, S, C, T]
        pseudo, present = pseudo_stems(
            batch.unlabelled,
            with_residual(batch.unlabelled, estimates, self.complete),
            self.config.filter_db,
        )
        labelled = with_residual(batch.mix, batch.stems, self.complete)
        mixed = [
            self._mix_sample(number, *parts)
            for number, *parts in zip(batch.number.tolist(), labelled, pseudo, present, strict=True)
        ]
        mixes, stems = zip(*mixed, strict=True)
        # the residual, if there is one, comes last: it isn't a target
        return torch.stack(mixes), torch.stack(stems)[:, : batch.stems.shape[1]]  # [B, C, T], [B, S, C, T]

    def _mix_sample(
        self, number: int, labelled: Tensor, pseudo: Tensor, present: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the mix [C, T] and stems [S, C, T] of one sample; `present` is [S]."""
        rng = generator(self.seed, "semi", number)
        coins = torch.rand(len(labelled), generator=rng).to(labelled.device)  # [S]
        stems = torch.where((present & (coins < 0.5))[:, None, None], pseudo, labelled)  # [S, C, T]
        stems = stems * random_factors(len(stems), self.change, rng).to(stems)[:, None, None]
        mix = stems.sum(0)  # [C, T]
        return rescale_peak(mix, stems) if self.change.peak else (mix, stems)

    def promote_if_better(self, values: Mapping[str, Tensor], score: float) -> bool:
        """Replace the teacher if promotion is enabled and a student scores better.

        The first score is the teacher's own: `valid.at_start` validates before the first step.

        Args:
            values: state dict of the student.
            score: of the student on the validation set, in dB.

        Returns:
            True if the student is the teacher now.
        """
        better = self.config.promote and score > self.score
        if better:
            self.network.load_state_dict(dict(values))
            self.score = score
        return better

    def state_dict(self) -> dict[str, Any]:
        """Return the state of an exact resume; its keys never change."""
        return {"score": self.score, "values": dict(self.network.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from `state_dict`."""
        self.score = state["score"]
        self.network.load_state_dict(state["values"])

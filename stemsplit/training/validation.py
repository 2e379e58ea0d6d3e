"""Validation: whole songs are separated by the core and scored, to find the best weights so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from stemsplit.core.compute import Compute
from stemsplit.core.stream import separate_array
from stemsplit.evaluation.score import OTHER, parts_of_other, with_channels
from stemsplit.evaluation.table import METRICS, OVER_SONGS, OverSongs, Signals
from stemsplit.models.network import Network
from stemsplit.settings import ChunkSettings
from stemsplit.training.config import ValidConfig
from stemsplit.training.library import WholeSong

# Metrics that a configuration may name, of which the highest score wins, and how to average them over songs.
VALIDATION: dict[str, tuple[Callable[[Signals], Tensor], OverSongs]] = {
    name: (metric.function, metric.over_songs)
    for name, metric in METRICS.items()
    if metric.function and metric.higher_is_better
}
USDR_MEDIAN = "usdr_median"
VALIDATION[USDR_MEDIAN] = (VALIDATION["usdr"][0], "median")
# RMS below which a stem of a song has no score: a tiny residue would count for tens of decibels.
MIN_RMS = 1e-3


def score_song(network: Network, song: WholeSong, config: ValidConfig, compute: Compute) -> Tensor:
    """Separate a song and score the network's stems.

    Args:
        network: on the device of `compute`.
        song: at the network's sample rate and channels.
        config: metric and overlap.
        compute: device and dtype.

    Returns:
        [S] in dB, float64; NaN for stems that the song doesn't have.
    """
    mix = torch.from_numpy(song.mix())  # [C, T]
    found = separate_array(network, mix, ChunkSettings(overlap=config.overlap), compute)  # [S, C, T]
    estimates = dict(zip(network.stems, found, strict=True))
    for stem in parts_of_other(network.stems, song.stems):  # as in an evaluation
        estimates[OTHER] = estimates[OTHER] + estimates[stem]
    scores = [
        _score(song, stem, estimate, mix, config, network.sample_rate) for stem, estimate in estimates.items()
    ]
    return torch.stack(scores)  # [S]


def _score(
    song: WholeSong, stem: str, estimate: Tensor, mix: Tensor, config: ValidConfig, sample_rate: int
) -> Tensor:
    """Return the score of one stem, []; NaN if the song doesn't have it."""
    reference = audible(song, stem)
    if reference is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    function, _ = VALIDATION[config.metric]
    reference, estimate, mix = (with_channels(one, song.channels) for one in (reference, estimate, mix))
    return function(Signals(reference, estimate, mix, sample_rate))


def audible(song: WholeSong, stem: str) -> Tensor | None:
    """Return a stem of a song, [C, T]; None if it is absent or too quiet to score."""
    if stem not in song.stems:
        return None
    reference = torch.from_numpy(song.stems[stem].read(0, song.frames))
    return None if reference.square().mean() < MIN_RMS**2 else reference


def unit_of(config: ValidConfig) -> str:
    """Return the unit of the metric of validations, such as dB; empty if it has none."""
    return METRICS["usdr" if config.metric == USDR_MEDIAN else config.metric].unit


def summary(scores: Tensor, config: ValidConfig) -> Tensor:
    """Average scores over songs.

    Args:
        scores: [songs, candidates, S] in dB.
        config: its metric determines mean or median.

    Returns:
        [candidates, S] in dB; NaN for stems that no song has.
    """
    _, over = VALIDATION[config.metric]
    return OVER_SONGS[over](scores, dim=0)


@dataclass
class BestCandidate:
    """Best candidate of all validations so far.

    Attributes:
        score: in dB.
        candidate: name of the candidate.
        step: step at which it was reached.
        stale_validations: number of validations since then.
    """

    score: float = float("-inf")
    candidate: str = ""
    step: int = 0
    stale_validations: int = 0

    @property
    def finite_score(self) -> float | None:
        """Return the score, or None if no validation gave one."""
        return self.score if isfinite(self.score) else None

    def state_dict(self) -> dict[str, Any]:
        """Return the state, under the keys of checkpoints and metrics.jsonl, which never change."""
        return {
            "score": self.score,
            "candidate": self.candidate,
            "step": self.step,
            "losses": self.stale_validations,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "BestCandidate":
        """Return the object that `state_dict` describes."""
        return cls(state["score"], state["candidate"], state["step"], state["losses"])

    def update(self, names: Sequence[str], scores: Tensor, step: int) -> bool:
        """Compare the candidates of a validation with each other and with the best so far.

        Args:
            names: of the candidates.
            scores: [candidates] in dB; NaN is worse than any number.
            step: current step.

        Returns:
            True if there is a new best.
        """
        values = scores.nan_to_num(nan=float("-inf"))
        first = int(values.argmax())
        better = float(values[first]) > self.score
        if better:
            self.score, self.candidate, self.step = float(values[first]), names[first], step
        self.stale_validations = 0 if better else self.stale_validations + 1
        return better

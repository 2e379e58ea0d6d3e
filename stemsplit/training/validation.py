"""Comparing candidates by what they are for: whole songs through the separation core, scored by a metric."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from stemsplit.core.compute import Compute
from stemsplit.core.stream import separate_array
from stemsplit.evaluation.metrics import METRICS, OVER_SONGS
from stemsplit.models.network import Network
from stemsplit.settings import ChunkSettings
from stemsplit.training.config import ValidConfig
from stemsplit.training.library import WholeSong

# The metrics that a configuration may name: the function, and how it's taken over songs.
VALIDATION = {
    name: (metric.function, over)
    for metric in METRICS.values()
    if metric.function
    for name, over in metric.validation.items()
}
# A stem that is quieter over the whole song (rms) has no score: any residue would count as tens of decibels.
AUDIBLE = 1e-3


def score_song(network: Network, song: WholeSong, config: ValidConfig, compute: Compute) -> Tensor:
    """Separate a song and score the network's stems.

    Args:
        network: on the device of `compute`.
        song: at the network's rate and channels.
        config: metric and overlap.
        compute: where the network is.

    Returns:
        [S] in dB, float64; NaN for stems that the song doesn't have.
    """
    mix = torch.from_numpy(song.mix())
    estimates = separate_array(network, mix, ChunkSettings(overlap=config.overlap), compute)
    scores = [
        _score(song, stem, estimate, config, network.sample_rate)
        for stem, estimate in zip(network.stems, estimates, strict=True)
    ]
    return torch.stack(scores)


def _score(song: WholeSong, stem: str, estimate: Tensor, config: ValidConfig, sample_rate: int) -> Tensor:
    reference = audible(song, stem)
    if reference is None:
        return torch.tensor(torch.nan, dtype=torch.float64)
    function, _ = VALIDATION[config.metric]
    return function(reference, estimate, sample_rate)


def audible(song: WholeSong, stem: str) -> Tensor | None:
    """A stem of a song, [C, T]; None where the song doesn't have it, or too quietly for a score."""
    if stem not in song.stems:
        return None
    reference = torch.from_numpy(song.stems[stem].read(0, song.frames))
    return None if reference.square().mean() < AUDIBLE**2 else reference


def summary(scores: Tensor, config: ValidConfig) -> Tensor:
    """One score per candidate and stem.

    Args:
        scores: [songs, candidates, S].
        config: its metric says whether the mean or the median over songs counts.

    Returns:
        [candidates, S], NaN where no song has the stem.
    """
    _, over = VALIDATION[config.metric]
    return OVER_SONGS[over](scores, dim=0)


@dataclass
class Contest:
    """Which candidate was best so far.

    Attributes:
        score: of the best, in dB.
        candidate: its name.
        step: when it was.
        losses: validations since then.
    """

    score: float = float("-inf")
    candidate: str = ""
    step: int = 0
    losses: int = 0

    def enter(self, names: Sequence[str], scores: Tensor, step: int) -> bool:
        """Compare the candidates with each other and with the best.

        Args:
            names: of the candidates.
            scores: [candidates], NaN being worse than all.
            step: now.

        Returns:
            Whether there is a new best.
        """
        values = scores.nan_to_num(nan=float("-inf"))
        first = int(values.argmax())
        better = float(values[first]) > self.score
        if better:
            self.score, self.candidate, self.step = float(values[first]), names[first], step
        self.losses = 0 if better else self.losses + 1
        return better

"""Verdict on a blend: its gain over the best of its members, or of any models beside it.

The first method of an `Evaluation` is compared with the model that scores best without it, stem by stem. The
tracks are paired, so that an interval of the gain says more than the models' averages.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from stemsplit.datasets.names import MIXTURE
from stemsplit.evaluation.oracles import ORACLES
from stemsplit.evaluation.table import METRICS, OVER_SONGS

if TYPE_CHECKING:
    from stemsplit.evaluation.results import Evaluation

HEADS = ("stem", "metric", "best other", "gain", "95 %", "does it pay")  # of `Gain.cells`
_RESAMPLES, _SEED, _INTERVAL = 4000, 0, (0.025, 0.975)


@dataclass(frozen=True)
class Gain:
    """Gain of the first method over the best other model, for a stem.

    Attributes:
        stem: the stem.
        metric: the metric's name.
        other: the model that scores best without the first.
        gain: the mean or median over tracks of the paired differences, positive if the first is better.
        low: lower end of the gain's interval of 95 %, by a bootstrap over tracks; as `gain` for one track.
        high: its upper end.
        tracks: the number of tracks that both have a score of.
    """

    stem: str
    metric: str
    other: str
    gain: float
    low: float
    high: float
    tracks: int

    @property
    def pays(self) -> str:
        """Return `yes` or `no` if the whole interval says so, else `open`."""
        if self.tracks < 2:
            return "open"
        return "yes" if self.low > 0 else "no" if self.high <= 0 else "open"

    @property
    def cells(self) -> tuple[str, ...]:
        """Return the gain as a row of text, under `HEADS`."""
        interval = f"{self.low:+.2f} to {self.high:+.2f}" if self.tracks > 1 else "one track"
        title = METRICS[self.metric].title
        return self.stem, title, self.other, f"{self.gain:+.2f}", interval, self.pays


def gains(evaluation: "Evaluation", metric: str) -> list[Gain]:
    """Return the gain of each stem by a metric; none if there is no other model."""
    tables, summary = evaluation.tables(), evaluation.summary()
    others = [name for name in tables if name not in (evaluation.method, MIXTURE, *ORACLES)]
    sign = 1 if METRICS[metric].higher_is_better else -1
    found = []
    for stem in summary[evaluation.method]:
        rivals = {n: sign * summary[n].get(stem, {}).get(metric, np.nan) for n in others}
        rivals = {name: score for name, score in rivals.items() if np.isfinite(score)}
        if rivals:
            best = max(rivals, key=lambda name: rivals[name])
            differences = sign * _differences(evaluation, best, stem, metric)
            if len(differences):
                found.append(Gain(stem, metric, best, *_interval(differences, metric), len(differences)))
    return found


def _differences(evaluation: "Evaluation", other: str, stem: str, metric: str) -> torch.Tensor:
    """Return the finite differences between both methods on each track, [tracks]."""
    found = []
    for outcome in evaluation.outcomes:
        if outcome.scores and other in outcome.scores.baselines:
            own, rival = outcome.scores.stems, outcome.scores.baselines[other]
            if metric in own.get(stem, {}) and metric in rival.get(stem, {}):
                found.append(own[stem][metric] - rival[stem][metric])
    differences = torch.tensor(found, dtype=torch.float64)
    return differences[differences.isfinite()]


def _interval(differences: torch.Tensor, metric: str) -> tuple[float, float, float]:
    """Return the average of differences [tracks], and its percentiles over resampled tracks."""
    over = OVER_SONGS[METRICS[metric].over_songs]
    shape = (_RESAMPLES, len(differences))
    chosen = torch.from_numpy(np.random.default_rng(_SEED).integers(len(differences), size=shape))
    averages = over(differences[chosen], dim=-1)  # [resamples]
    low, high = torch.quantile(averages, torch.tensor(_INTERVAL, dtype=torch.float64)).tolist()
    return float(over(differences, dim=0)), low, high

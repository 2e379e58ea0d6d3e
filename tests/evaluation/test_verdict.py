import math

import numpy as np
import pytest

from stemsplit.evaluation.outcome import Outcome
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.score import Scores
from stemsplit.evaluation.verdict import gains


def evaluation(blend: list[float], **members: list[float]) -> Evaluation:
    """An evaluation with one stem, whose SDR is given for each track."""

    def table(score: float) -> dict[str, dict[str, float]]:
        return {"vocals": {"sdr": score}}

    outcomes = [
        Outcome(
            str(i), 10.0, Scores(table(score), {name: table(scores[i]) for name, scores in members.items()})
        )
        for i, score in enumerate(blend)
    ]
    return Evaluation("blend", tuple(outcomes))


def test_a_blend_is_compared_with_its_best_member() -> None:
    (found,) = gains(evaluation([3.0, 5.0, 7.0], weak=[1.0, 1.0, 1.0], strong=[2.0, 4.5, 6.5]), "sdr")
    assert (found.stem, found.other, found.tracks) == ("vocals", "strong", 3)
    assert found.gain == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert (found.low, found.high) == (0.5, 1.0) and found.pays == "yes"


def test_a_blend_below_its_better_member_does_not_pay() -> None:
    (found,) = gains(evaluation([3.0, 5.0], a=[4.0, 5.5], b=[0.0, 0.0]), "sdr")
    assert found.gain == -0.75 and found.pays == "no"


def test_mixture_and_oracles_are_no_members() -> None:
    assert gains(evaluation([3.0], mixture=[0.0], irm=[9.0], mixphase=[9.0]), "sdr") == []


def test_one_track_and_undefined_scores_leave_it_open() -> None:
    (found,) = gains(evaluation([3.0, math.nan], a=[2.0, 1.0]), "sdr")
    assert (found.gain, found.tracks, found.pays) == (1.0, 1, "open")
    assert gains(evaluation([math.nan], a=[2.0]), "sdr") == []


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator, truth, held = np.random.default_rng(1), 0.3, 0
    for _ in range(200):
        differences = generator.normal(truth, 1, 40)
        (found,) = gains(evaluation(list(differences), a=[0.0] * 40), "sdr")
        held += found.low <= truth <= found.high
    assert 0.88 <= held / 200 <= 0.98

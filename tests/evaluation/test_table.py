from typing import get_args

import torch

from stemsplit.evaluation import bsseval
from stemsplit.evaluation.table import DEFAULT_METRICS, METRICS, Signals, ordered
from stemsplit.training.config import ValidMetric
from stemsplit.training.validation import VALIDATION


def test_every_ratio_of_bss_eval_has_a_row() -> None:
    assert [one.bss for one in METRICS.values() if one.bss] == list(bsseval.Scores._fields)
    assert all((one.function is None) is not (one.bss is None) for one in METRICS.values())


def test_every_metric_has_a_paragraph() -> None:
    assert all(one.about.endswith(".") for one in METRICS.values())


def test_files_have_the_metrics_of_bss_eval_last() -> None:
    assert DEFAULT_METRICS == ("usdr", "si_sdr", "median_sdr", "csdr", "isr", "sir", "sar")
    assert ordered(["sar", "bleedless", "usdr", "unknown"]) == ("usdr", "bleedless", "sar")


def test_a_better_estimate_has_a_higher_score_in_every_metric() -> None:
    torch.manual_seed(0)
    reference, other = 0.2 * torch.randn(2, 30000), 0.2 * torch.randn(2, 30000)
    for name, metric in METRICS.items():
        if metric.function and name not in ("fullness", "fullness_mr"):
            good, bad = (
                float(
                    metric.function(
                        Signals(reference, 0.95 * reference + leak * other, reference + other, 44100)
                    )
                )
                for leak in (0.3, 0.6)
            )
            assert good > bad, name


def test_training_may_name_every_metric_that_needs_one_stem() -> None:
    assert set(get_args(ValidMetric)) == set(VALIDATION)
    assert set(VALIDATION) == {name for name, one in METRICS.items() if one.function} | {"usdr_median"}

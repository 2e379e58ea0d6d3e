"""What a run tells: units of scores, and names of averages."""

import pytest
import torch

from stemsplit.cli.train import describe
from stemsplit.training.config import Config, ModelConfig, ValidConfig
from stemsplit.training.learning import EmaConfig
from stemsplit.training.progress import Finished, Validated
from stemsplit.training.sampling import DataConfig, DataSetConfig
from stemsplit.training.state import RunState
from stemsplit.training.validation import unit_of
from tests.training.test_validation import Share


@pytest.mark.parametrize(
    ("metric", "shown"), [("usdr_median", "2.00 dB"), ("si_sdr", "2.00 dB"), ("bleedless", "2.00")]
)
def test_scores_have_the_unit_of_their_metric(metric: str, shown: str) -> None:
    unit = unit_of(ValidConfig(metric=metric))  # type: ignore[arg-type]
    scores = {"raw": {"bass": 1.0, "mean": 2.0}}
    assert describe(Validated("", 1, 4, scores, 2.0, True, unit)) == (
        f"validation after 4 steps: bass 1.00, mean {shown} with raw weights (best so far)"
    )
    line = describe(Finished("", "runs/mine", 4, 2.0, unit))
    assert line == f"runs/mine: 4 steps done, best {shown}; stemsplit SONG -m runs/mine"


def test_averages_with_nearly_equal_decays_are_two() -> None:
    network = Share()
    network.register_parameter("weight", torch.nn.Parameter(torch.zeros(1)))
    ema = EmaConfig(step=(0.9999999, 0.99999991))
    config = Config("x", ModelConfig(start="x"), DataConfig((DataSetConfig("x"),)), ema=ema)
    assert list(RunState(network, config).averages) == ["step 0.9999999", "step 0.99999991"]

"""Memory and speed of families, as they were measured."""

import pytest

from stemsplit.hub.costs import Cost, cost_of
from stemsplit.models import FAMILIES
from tests.benchmarks.families import CASES


def test_every_measured_family_has_its_cost() -> None:
    for family in CASES:
        cost = cost_of(family)
        assert cost is not None and cost.memory_mb > 100 and cost.realtime > 0


def test_other_families_have_none() -> None:
    assert cost_of(None) is None
    assert cost_of("no such family") is None
    assert {*CASES} < {*FAMILIES}


@pytest.mark.parametrize(
    ("realtime", "speed"), [(9.0, "fast"), (2.0, "fast"), (1.99, "medium"), (0.5, "medium"), (0.49, "slow")]
)
def test_classes_of_speed(realtime: float, speed: str) -> None:
    assert Cost(1, realtime).speed == speed

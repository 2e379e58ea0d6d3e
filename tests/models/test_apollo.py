"""Apollo runs over a few sequences at a time; test_published_families.py compares its outputs."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stemsplit.models import apollo, build
from tests.models.test_contract import APOLLO


@pytest.mark.parametrize("steps", [1, 300, 10_000])
@torch.inference_mode()
def test_slices_compute_the_same(
    steps: int, decibels: Callable[[Tensor, Tensor], float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apollo, "SLICE", steps)
    network = build("apollo", APOLLO).eval()
    mix = torch.randn(2, network.channels, 3 * network.segment_samples)
    expected = network.estimate(mix)
    assert decibels(expected, network.prepare().estimate(mix)) >= 110

"""The smallest network of every family that learns, for tests of training."""

import pytest

from tests.models.test_band_unet import SMALL
from tests.models.test_contract import FAMILIES

NETWORKS = [*FAMILIES, ("band_unet", SMALL)]
HEAVY = {"vr", "vr_v51"}  # seconds a step

# Slow are heavy families, and all variants of a family but the first
CASES = [
    pytest.param(
        name,
        arguments,
        id=name,
        marks=[pytest.mark.slow] if name in HEAVY or name in [n for n, _ in NETWORKS[:i]] else [],
    )
    for i, (name, arguments) in enumerate(NETWORKS)
]

"""Settings refuse invalid values, from Python and from a shell."""

import math

import pytest

from stemsplit.errors import SettingsError
from stemsplit.settings import ChunkSettings


@pytest.mark.parametrize("overlap", [-0.1, 0.991, 0.99999999, 1.0, math.nan, math.inf])
def test_overlaps_that_would_take_for_ever_are_refused(overlap: float) -> None:
    with pytest.raises(SettingsError, match="--overlap .*: must be (from 0 to 0.99|a number or None)"):
        ChunkSettings(overlap=overlap)


@pytest.mark.parametrize("overlap", [None, 0, 0.5, 0.99])
def test_overlaps_that_are_taken(overlap: float | None) -> None:
    assert ChunkSettings(overlap=overlap).overlap == overlap

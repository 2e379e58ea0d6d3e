"""The Python API, as far as it isn't the command line's too."""

import pytest

from stemsplit.hub.load import load_model
from stemsplit.separation.separator import Separator
from stemsplit.settings import ChunkSettings


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (ChunkSettings(), ChunkSettings(overlap=0.5)),
        (ChunkSettings(shifts=2, batch_size=3), ChunkSettings(overlap=0.5, shifts=2, batch_size=3)),
        (ChunkSettings(overlap=0.1), ChunkSettings(overlap=0.1)),
        (ChunkSettings(overlap=0.0), ChunkSettings(overlap=0.0)),
    ],
)
def test_an_overlap_that_is_not_given_is_the_models_own(
    monkeypatch: pytest.MonkeyPatch, given: ChunkSettings, used: ChunkSettings
) -> None:
    network = load_model("classic")
    network.overlap = 0.5
    monkeypatch.setattr("stemsplit.separation.separator.load_model", lambda *_, **__: network)
    assert Separator("any", chunks=given).chunks == used

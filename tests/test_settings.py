"""Settings refuse invalid values, from Python and from a shell."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stemsplit.errors import SettingsError
from stemsplit.settings import (
    BatchSettings,
    ChunkSettings,
    CombinationSettings,
    ModelSettings,
    OutputSettings,
    Request,
    StemSettings,
)


@pytest.mark.parametrize("overlap", [-0.1, 0.991, 0.99999999, 1.0, math.nan, math.inf])
def test_overlaps_that_would_take_for_ever_are_refused(overlap: float) -> None:
    with pytest.raises(SettingsError, match="--overlap .*: must be (from 0 to 0.99|a number or None)"):
        ChunkSettings(overlap=overlap)


@pytest.mark.parametrize("overlap", [None, 0, 0.5, 0.99])
def test_overlaps_that_are_taken(overlap: float | None) -> None:
    assert ChunkSettings(overlap=overlap).overlap == overlap


@pytest.mark.parametrize(
    ("kind", "given", "told"),
    [
        (BatchSettings, {"if_exists": "overwritte"}, "--if-exists overwritte: must be one of skip"),
        (BatchSettings, {"include": "*.mp3"}, "--include .*: must be a tuple of text"),
        (BatchSettings, {"start_s": "3"}, "--start '3': must be a number or None"),
        (BatchSettings, {"start_s": math.nan}, "--start nan: must be a number or None"),
        (BatchSettings, {"project": "als"}, "--project 'als': must be rpp or dawproject or None"),
        (BatchSettings, {"audio_stream": "1"}, "--audio-stream '1': must be a whole number or None"),
        (BatchSettings, {"output": None}, "--output None: must be text"),
        (BatchSettings, {"shard": (1, 2, 3)}, r"--shard \(1, 2, 3\): must be a tuple"),
        (StemSettings, {"stems": "vocals"}, "--stem 'vocals': must be a tuple of text or None"),
        (StemSettings, {"stems": (1,)}, "--stem .*: must be a tuple of text or None"),
        (StemSettings, {"rest": "vocals"}, "--rest 'vocals': must be true or false"),
        (OutputSettings, {"format": "mp3", "bitrate": "192k"}, "--bitrate '192k': must be a whole number"),
        (OutputSettings, {"tags": "no"}, "--tags 'no': must be true or false"),
        (CombinationSettings, {"weights": "1,2"}, "--weights '1,2': must be a tuple or None"),
        (CombinationSettings, {"then": ("vocals=tiny",)}, "--then .*: must be a tuple"),
        (Request, {"jobs": 0}, "--jobs 0: must be positive"),
        (Request, {"jobs": "2"}, "--jobs '2': must be a whole number"),
        (Request, {"output": "flac"}, "--output 'flac': must be OutputSettings"),
    ],
)
def test_wrong_types_are_told(kind: Any, given: Mapping[str, Any], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        kind(**given)


def test_paths_lists_and_numpy_numbers_are_taken() -> None:
    assert BatchSettings(output=Path("a/b")).output == "a/b"  # type: ignore[arg-type]
    assert ModelSettings(model=Path("a.th")).model == "a.th"  # type: ignore[arg-type]
    assert StemSettings(stems=["vocals", "bass"]).stems == ("vocals", "bass")  # type: ignore[arg-type]
    others = CombinationSettings(others=[Path("a.th"), "tiny"], weights=[1, 2.5])  # type: ignore[arg-type]
    assert (others.others, others.weights) == (("a.th", "tiny"), (1, 2.5))
    request = Request(jobs=np.int64(2))  # type: ignore[arg-type]
    assert request.jobs == 2 and type(request.jobs) is int

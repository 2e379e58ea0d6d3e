import math
from dataclasses import replace
from pathlib import Path

import pytest

from stemsplit.evaluation.findings import Finding
from stemsplit.evaluation.score import Scores
from stemsplit.evaluation.store import Store


def test_nan_and_findings_are_stored(tmp_path: Path) -> None:
    store, finding = Store(tmp_path), Finding("gain", "bass", "is scaled by +3.0 dB", 3.0, 2.5)
    scores = Scores({"bass": {"usdr": math.nan, "sir": math.inf}}, {"mixture": {}}, (finding,), ("a note",))
    store.put("k", scores)
    found = store.get("k")
    assert found is not None and math.isnan(found.stems["bass"]["usdr"])
    assert replace(found, stems={}) == replace(scores, stems={})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"stems": {}}'])
def test_a_damaged_file_is_ignored(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.json").write_text(text)
    assert Store(tmp_path).get("k") is None


def test_a_store_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Store(tmp_path / "file").put("k", Scores({}, {}))

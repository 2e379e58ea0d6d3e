"""`-m best:STEM`: one metric, the licence, the memory, and the reason."""

import pytest

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.events import Event, Notice
from stemsplit.hub.access import Access, is_under
from stemsplit.hub.choose import best
from stemsplit.hub.describe import describe_model
from stemsplit.hub.registry import all_models


def test_the_highest_score_of_one_metric() -> None:
    found, why = best("vocals")
    (scale,) = [each.scale for each in found.scores if f"({each.data})" in why]
    assert scale.metric == "uSDR"
    usable = [spec for spec in all_models() if not spec.reason]
    scores = [score for spec in usable if (score := spec.score("vocals", scale)) is not None]
    assert found.score("vocals", scale) == max(scores)
    assert why.startswith(f"best:vocals is {found.name}: ") and why.endswith(f"the highest of {len(scores)}")


def test_the_licence_and_the_memory_narrow_the_choice() -> None:
    licensed, why = best("drums", ["MIT"])
    assert is_under(licensed.license, "MIT") and "licence or memory left out" in why
    with pytest.raises(SettingsError, match="best:vocals: none of .* fits the memory that is free"):
        best("vocals", free=1000)
    small, _ = best("vocals", free=1_600_000_000)
    assert 0 < sum(file.size or 1e6 * (file.about_mb or 0) for file in small.files) <= 50e6
    with pytest.raises(SettingsError, match="fits --license BSD,ISC"):
        best("vocals", ["BSD", "ISC"])
    assert best("drums", ["BSD", "MIT"])[0] == licensed
    with pytest.raises(UnknownNameError, match="no stem with a published score named 'theremin'"):
        best("theremin")


def test_from_python_it_stands_for_the_model_s_name() -> None:
    events = list[Event]()
    about = describe_model("best:drums", Access(licenses=("MIT",)), events.append)
    spec, why = best("drums", ["MIT"])
    assert about.name == spec.name and events == [Notice(why)]

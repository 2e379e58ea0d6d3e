"""What the page about the tables of papers calls a model is one."""

import re
from dataclasses import fields

from stemsplit.evaluation.table import METRICS
from stemsplit.hub.registry import find_model
from stemsplit.models import family
from stemsplit.models.blocks.bands import SCHEMES
from tests.docs.pages import DOCS, ROOT

PAGE = DOCS / "papers.md"
RECIPES = {path.stem for path in (ROOT / "stemsplit/training/recipes").glob("*.yaml")}
OTHERS = {"_extra", "-16khz", "hdf5", "archives", ".7z", "hpss", "consecutive", ".stem.mp4", ".zip"}


def words_of_tables() -> list[str]:
    """Return what the tables have in backticks, but for commands, settings with values, and options."""
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("|")]
    words = [word for row in rows for word in re.findall(r"`([^`]+)`", row)]
    return [word for word in words if not re.search(r"[ :]|^--|^(data|augment|fit|loss)\.", word)]


def test_every_name_is_a_model() -> None:
    arguments = {field.name for field in fields(family("mask_transformer").Arguments)}
    known = {*METRICS, *RECIPES, *SCHEMES, *arguments, *OTHERS}
    names = [word for word in words_of_tables() if word not in known]
    assert len(names) > 30
    for name in names:
        find_model(name)

"""What the pages say of signatures, settings, models and measurements is what the code and the files say."""

import re
from pathlib import Path

import pytest

import stemsplit
from stemsplit import errors
from tests.docs.generate import MARKS, PARTS, generated
from tests.docs.pages import DOCS, PAGES, name_of, prose


@pytest.mark.parametrize("page", [page for page in PAGES if MARKS.search(page.read_text())], ids=name_of)
def test_parts_are_up_to_date(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "none.yaml"))
    assert page.read_text() == generated(page.read_text()), "python -m tests.docs.generate"


def test_every_part_has_a_page() -> None:
    assert {found[1] for page in PAGES for found in MARKS.findall(page.read_text())} == PARTS.keys()


def test_the_developers_page_names_everything_public() -> None:
    text = (DOCS / "developer.md").read_text()
    public = {*stemsplit.__all__, *(name for name in vars(errors) if name.endswith("Error"))}
    assert [name for name in public if not re.search(rf"\b{re.escape(name)}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_and_names_exist(page: Path) -> None:
    """A dotted name such as `core.stream.Separable` is one of the package's."""
    rooms = "|".join(path.stem for path in Path(stemsplit.__file__).parent.iterdir() if path.stem[0] != "_")
    for name in re.findall(rf"`(?:stemsplit\.)?((?:{rooms})(?:\.\w+)+)`", prose(page)):
        assert _exists(name), f"there is no {name}"


def _exists(name: str) -> bool:
    parts = name.split(".")
    if name.endswith((".py", ".yaml")):
        return (Path(stemsplit.__file__).parent / name).is_file()
    for count in range(len(parts), 0, -1):
        base = Path(stemsplit.__file__).parent.joinpath(*parts[:count])
        if base.is_dir() or base.with_suffix(".py").is_file():
            source = (base / "__init__.py" if base.is_dir() else base.with_suffix(".py")).read_text()
            left = parts[count:]
            return not left or bool(re.search(rf"^\s*(?:class|def) {left[-1]}\b|\b{left[-1]}\b", source, re.M))
    return False

"""What the pages say of signatures, settings, models and measurements is what the code and the files say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import stemsplit
from stemsplit import errors, settings
from stemsplit.models import FAMILIES
from tests.docs.generate import GENERATED, MARKS, PARTS, generated
from tests.docs.pages import COMMAND_LINE, DOCS, PAGES, ROOT, name_of, prose
from tests.test_layers import BELOW, LOW, PACKAGE

MADE = [page for page in GENERATED if page == COMMAND_LINE or MARKS.search(page.read_text())]


@pytest.mark.parametrize("page", MADE, ids=name_of)
def test_parts_are_up_to_date(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(tmp_path / "none.yaml"))
    assert page.read_text() == generated(page), "python -m tests.docs.generate"


def test_every_part_has_a_page() -> None:
    assert {found[1] for page in MADE for found in MARKS.findall(page.read_text())} == PARTS.keys()


def test_the_developers_page_names_everything_public() -> None:
    text = (DOCS / "developer.md").read_text()
    public = {*stemsplit.__all__, *(name for name in vars(errors) if name.endswith("Error"))}
    assert [name for name in public if not re.search(rf"\b{re.escape(name)}\b", text)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_and_names_exist(page: Path) -> None:
    """A dotted name such as `core.stream.Separable` is one of the package's, and so is a path of a module."""
    rooms = "|".join(path.stem for path in PACKAGE.iterdir() if path.stem[0] != "_")
    for name in re.findall(rf"`(?:stemsplit\.)?((?:{rooms})(?:\.\w+)+)`", prose(page)):
        if not name.endswith((".py", ".yaml", ".json")):
            assert _exists(name.split(".")), f"there is no {name}"
    for path in re.findall(r"`(?:stemsplit/)?(\w+/[\w/]+\.py)`", prose(page)):
        assert any((root / path).is_file() for root in (PACKAGE, ROOT)), f"there is no {path}"


def _exists(parts: list[str]) -> bool:
    folder = PACKAGE.joinpath(*parts)
    if folder.is_dir() or folder.with_suffix(".py").is_file():
        return True
    above = PACKAGE.joinpath(*parts[:-1])
    module = above / "__init__.py" if above.is_dir() else above.with_suffix(".py")
    return module.is_file() and parts[-1] in _names(ast.parse(module.read_text()))


def _names(tree: ast.Module) -> set[str]:
    """Return what a module defines at its top."""
    found = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    targets = [t for node in tree.body if isinstance(node, ast.Assign) for t in node.targets]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return found | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("room", sorted({*BELOW} - {"api"}))
def test_a_rooms_page_says_what_it_may_import(room: str) -> None:
    section = (DOCS / f"rooms/{room}.md").read_text().split("## May import\n")[1].split("\n## ")[0]
    assert {*re.findall(r"`(\w+)`", section)} == BELOW[room]


def test_the_ground_floor_is_complete() -> None:
    page = (DOCS / "rooms/ground-floor.md").read_text()
    assert {*re.findall(r"`(\w+)\.py`", page)} == {*LOW, "api"}
    section = page.split("## May import\n")[1].split("\n## ")[0]
    assert {*re.findall(r"`(\w+)`", section)} == BELOW["api"]


def test_every_family_has_its_paper() -> None:
    table = (DOCS / "researcher.md").read_text().split("## Papers\n")[1]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == FAMILIES.keys()


def test_the_citation_is_that_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["version"] == stemsplit.__version__
    assert citation["title"] and citation["message"] and citation["authors"]


def test_the_page_of_models_names_the_default() -> None:
    assert f"- `{settings.DEFAULT_MODEL}` is the default" in (DOCS / "models.md").read_text()


def read_variables(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield the names in `environ.get(NAME)`, `environ[NAME]`, `NAME in environ` and `getenv(NAME)`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=function, args=[name, *_]):
                if re.search(r"\benviron\.\w+$|\bgetenv$", ast.unparse(function)):
                    yield name
            case ast.Subscript(value=owner, slice=name) | ast.Compare(left=name, comparators=[owner]):
                if ast.unparse(owner).endswith("environ"):
                    yield name


def constants(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the names and values of a module's constants that are text."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(value))):
                yield name, value
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                for name, value in zip(names, values, strict=True):
                    if isinstance(value, ast.Constant):
                        yield ast.unparse(name), str(value.value)


def test_no_environment_variable_is_missing() -> None:
    texts = [path.read_text() for path in (PACKAGE).rglob("*.py")]
    known = {name: value for text in texts for name, value in constants(ast.parse(text))}
    names = {name for text in texts for name in re.findall(r"\b(?:STEMSPLIT|HF|MASTER)_[A-Z_]*[A-Z]\b", text)}
    for text in texts:
        for name in read_variables(ast.parse(text)):
            constant = isinstance(name, ast.Constant)
            names.add(str(name.value) if constant else known[ast.unparse(name).split(".")[-1]])
    page = (DOCS / "environment.md").read_text()
    assert names >= {"STEMSPLIT_DEBUG", "STEMSPLIT_CACHE", "_STEMSPLIT_COMPLETE", "NODE_RANK", "NO_COLOR"}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []

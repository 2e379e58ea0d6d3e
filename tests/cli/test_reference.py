"""The generated parts of docs/ are what the code gives, and docs/environment.md lacks no variable."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stemsplit.cli.reference import MARKS, command_line, with_parts

ROOT = Path(__file__).parents[2]
PAGES = [path for path in sorted((ROOT / "docs").glob("*.md")) if MARKS.search(path.read_text())]
AGAIN = "python -m stemsplit.cli.reference docs"


def test_the_page_of_the_command_line() -> None:
    assert (ROOT / "docs/command-line.md").read_text() == command_line(), AGAIN


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_generated_parts(page: Path) -> None:
    assert page.read_text() == with_parts(page.read_text()), AGAIN


def test_the_pages_with_generated_parts() -> None:
    assert {path.name for path in PAGES} >= {"dj.md", "environment.md"}


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
    texts = [path.read_text() for path in (ROOT / "stemsplit").rglob("*.py")]
    known = {name: value for text in texts for name, value in constants(ast.parse(text))}
    names = {name for text in texts for name in re.findall(r"\b(?:STEMSPLIT|HF)_[A-Z_]*[A-Z]\b", text)}
    for text in texts:
        for name in read_variables(ast.parse(text)):
            constant = isinstance(name, ast.Constant)
            names.add(str(name.value) if constant else known[ast.unparse(name).split(".")[-1]])
    page = (ROOT / "docs/environment.md").read_text()
    assert names >= {"STEMSPLIT_DEBUG", "STEMSPLIT_CACHE", "_STEMSPLIT_COMPLETE", "NODE_RANK", "NO_COLOR"}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []

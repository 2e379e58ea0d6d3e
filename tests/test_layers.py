"""Imports go down only, and nothing heavy is imported for the help."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stemsplit"
LOW = {"errors", "settings", "fields", "events", "files", "outcome", "formats"}
BELOW = {
    "cli": {"api", "separation", "training", "evaluation", "core", "audio", "hub", "datasets"},
    "api": {"separation", "evaluation", "core", "datasets"},
    "separation": {"core", "audio", "hub"},
    "training": {"core", "audio", "hub", "evaluation", "models", "datasets"},
    "evaluation": {"core", "audio", "datasets"},
    "datasets": {"audio"},
    "hub": {"models"},
    "core": set(),
    "audio": set(),
    "models": set(),
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Modules of the package that a file imports, absolutely, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            pytest.fail(f"{path}:{node.lineno}: a relative import")
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_go_down(path: Path) -> None:
    parts = path.relative_to(PACKAGE).parts
    layer = parts[0] if len(parts) > 1 else path.stem  # what isn't named above is the ground floor
    if layer in ("__init__", "__main__"):
        return
    for name, line in imported(path):
        pieces = name.split(".")
        if pieces[0] == "stemsplit" and layer in LOW:
            assert pieces[1] in {*LOW, "__version__"}, f"{path}:{line}: {layer} imports {name}"
        if pieces[0] != "stemsplit" or len(pieces) < 2:
            continue
        if (target := pieces[1]) in BELOW and target != layer:
            assert target in BELOW.get(layer, set()), f"{path}:{line}: {layer} imports {target}"


FAMILIES = {path.stem for path in (PACKAGE / "models").glob("*.py")} - {"__init__", "network", "spectral"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "models").rglob("*.py")), ids=lambda path: path.name)
def test_families_do_not_import_families(path: Path) -> None:
    if path.name == "__init__.py":
        return
    for name, line in imported(path):
        pieces = name.split(".")
        if pieces[:2] == ["stemsplit", "models"] and len(pieces) > 2:
            assert pieces[2] not in FAMILIES - {path.stem}, f"{path}:{line}: {name}"


def test_torchaudio_is_never_imported() -> None:
    for path in FILES:
        assert not any(name.split(".")[0] == "torchaudio" for name, _ in imported(path)), path


def test_nothing_is_printed_or_asserted_below_the_command_line() -> None:
    for path in FILES:
        layer = path.relative_to(PACKAGE).parts[0]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and layer != "cli":
                assert node.func.id != "print", f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.Assert) and layer != "models"), f"{path}:{node.lineno}"

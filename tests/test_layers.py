"""Imports go down only, and the help imports no heavy packages."""

import ast
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stemsplit"
LOW = {
    *("errors", "settings", "fields", "events", "formats", "stems", "chunking", "blend_names"),
    *("files", "folders", "outcome", "documents", "reading", "engines", "listing", "forked"),
    *("engine_settings", "cluster", "actor", "pools", "urls", "claims"),
}
BELOW = {
    "cli": {"api", "web", "separation", "training", "evaluation", "core", "audio", "hub", "datasets"},
    "web": {"separation", "training", "evaluation", "core", "audio", "hub", "datasets"},
    "api": {"separation", "evaluation", "core", "datasets", "hub"},
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
    """Return the modules of the package that a file imports, by absolute name, with the line."""
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
    layer = parts[0] if len(parts) > 1 else path.stem  # modules that aren't named above are the ground floor
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


FAMILIES = {path.stem for path in (PACKAGE / "models").glob("*.py")} - {
    "__init__",
    "axial",
    "network",
    "spectral",
}


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


def module_of(path: Path) -> str:
    parts = ("stemsplit", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def edges() -> dict[str, set[str]]:
    """Return the modules that each module imports, also within functions, but not for type checkers only."""
    modules, found = {module_of(path) for path in FILES}, dict[str, set[str]]()
    for path in FILES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = [ast.Pass()]
        own = found.setdefault(module_of(path), set())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    own.add(name if name in modules else node.module)
    return {name: (others & modules) - {name} for name, others in found.items()}


def test_no_module_imports_itself_by_way_of_others() -> None:
    left = edges()
    while free := [name for name, others in left.items() if not others & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"these import each other: {sorted(left)}"


def calls(path: Path) -> Iterator[tuple[str, int]]:
    """Return the names of the functions that a file calls, such as `os.replace`, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            yield ast.unparse(node.func), node.lineno


ONE_ROOM = {
    "documents.py": {"yaml.load", "yaml.safe_load", "yaml.compose", "yaml.full_load", "yaml.unsafe_load"},
    "files.py": {"os.replace", "os.rename", "os.renames", "shutil.move"},
}


@pytest.mark.parametrize("room", ONE_ROOM)
def test_one_module_reads_yaml_and_one_gives_files_their_names(room: str) -> None:
    for path in FILES:
        for name, line in calls(path):
            if path.relative_to(PACKAGE).as_posix() != room:
                assert name not in ONE_ROOM[room], f"{path}:{line}: {name} belongs to {room}"


def defaults(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Return the parameters or the field of a node that have a constant as default, with the constant."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        pairs = [(node.target.id, node.value)]
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        names = [one.arg for one in (*node.args.posonlyargs, *node.args.args)]
        pairs = list(zip(reversed(names), reversed(node.args.defaults), strict=False))
        pairs += zip((one.arg for one in node.args.kwonlyargs), node.args.kw_defaults, strict=True)
    else:
        return
    yield from ((name, value.value) for name, value in pairs if isinstance(value, ast.Constant))


def test_every_default_stands_once() -> None:
    """No function or class elsewhere repeats the default of a setting under the setting's name."""
    from stemsplit import settings

    known = {
        (one.name, one.default)
        for cls in vars(settings).values()
        if isinstance(cls, type) and is_dataclass(cls) and cls.__module__ == settings.__name__
        for one in fields(cls)
        if isinstance(one.default, (str, float)) or (isinstance(one.default, int) and one.default > 1)
    }
    assert ("precision", "auto") in known
    for path in FILES:
        if path.stem != "settings":
            for node in ast.walk(ast.parse(path.read_text())):
                for name, default in defaults(node):
                    assert (name, default) not in known, f"{path}: the default of {name} is {default!r} again"


# Modules that compute, which the commands use only through a function of the library
INSIDE = {
    *("stemsplit.separation.track", "stemsplit.separation.runner", "stemsplit.separation.batch"),
    *("stemsplit.separation.flow", "stemsplit.separation.signals", "stemsplit.separation.stage"),
    *("stemsplit.evaluation.score", "stemsplit.evaluation.run", "stemsplit.hub.load", "stemsplit.models"),
    *(
        "stemsplit.core.stream",
        "stemsplit.core.compute",
        "stemsplit.core.overlap",
        "numpy",
        "soundfile",
        "av",
    ),
}


@pytest.mark.parametrize("path", sorted((PACKAGE / "cli").glob("*.py")), ids=lambda path: path.name)
def test_the_command_computes_nothing_itself(path: Path) -> None:
    for name, line in imported(path):
        inside = next((one for one in INSIDE if name == one or name.startswith(f"{one}.")), None)
        assert inside is None, f"{path}:{line}: imports {name}"

"""The commands and programs of the pages are run, with small files under the names that they use."""

import io
import re
import shlex
import shutil
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from stemsplit import formats, models
from stemsplit.evaluation import table
from stemsplit.training import losses
from tests.cli.test_readme import PROGRAMS, run_in_bash
from tests.docs.pages import DOCS, PAGES, ROOT, Block, anchors, blocks, links, name_of
from tests.test_docs import commands

Shell = Any
BLOCKS = [block for page in PAGES for block in blocks(page)]
COMMANDS = [block for block in BLOCKS if block.language == "sh" and block.commands]
ENV = {"STEMSPLIT_MODEL": "classic"}  # which needs no download


def _write_files(folder: Path, page: Path) -> None:
    for block in blocks(page):
        if block.file is not None:
            (folder / block.file).write_text(block.code)


def _run(shell: Shell, command: str) -> None:
    if set("|><") & set(re.sub(r"'[^']*'", "", command)):
        ran = run_in_bash(shell, command, ENV)
        assert ran.returncode == 0, f"{command}\n{ran.stderr.decode()}"
    else:
        done = shell(*shlex.split(command)[1:], env=ENV)
        assert done.code == 0, f"{command}\n{done.err}"


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands(furnished: Shell, block: Block) -> None:
    if block.reason is not None:
        pytest.skip(block.reason)
    for program in PROGRAMS:
        if re.search(rf"\| *{program}\b", block.code) and not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    _write_files(furnished.folder, block.page)
    for command in block.commands:
        _run(furnished, command)


def test_the_recipe_is_a_model(furnished: Shell) -> None:
    _write_files(furnished.folder, DOCS / "models.md")
    assert furnished("song.mp3", "-m", "duet.yaml").code == 0
    found = [name for name in furnished.files() if name.startswith("stems/")]
    names = ("no_vocals.drums", "vocals.bass", "vocals.vocals")
    assert found == [f"stems/song/{name}.wav" for name in names]


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the package's tables, which pages may add to."""
    for module, name in (
        (formats, "FORMATS"),
        (table, "METRICS"),
        (losses, "LOSSES"),
        (models, "FAMILIES"),
    ):
        monkeypatch.setattr(module, name, dict(getattr(module, name)))


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "python" for b in blocks(page))], ids=name_of
)
@pytest.mark.usefixtures("tables")
def test_python(furnished: Shell, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page are one program."""
    monkeypatch.chdir(furnished.folder)
    monkeypatch.setenv("STEMSPLIT_CACHE", str(furnished.folder / "cache"))
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(furnished.folder / "models.yaml"))
    _write_files(furnished.folder, page)
    names: dict[str, Any] = {"samples": furnished.tones(seconds=0.3, rate=48000), "__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and block.reason is None:
            code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
            with redirect_stdout(io.StringIO()):
                exec(code, names)
    if "scores" in names:
        assert names["scores"].exit_code == 0 and "mixture" in names["scores"].summary()


@pytest.mark.parametrize(
    "block", [b for b in BLOCKS if b.language == "python" and b.reason is not None], ids=str
)
def test_python_that_is_not_run_is_python_all_the_same(block: Block) -> None:
    compile(block.code, str(block), "exec")
    pytest.skip(str(block.reason))


def test_a_mark_stands_just_above_a_block() -> None:
    for page in PAGES:
        marks = re.findall(r"^<!-- (?:not run|file):", page.read_text(), re.MULTILINE)
        found = [block for block in blocks(page) if block.reason or block.file]
        assert len(marks) == len(found), name_of(page)


def test_every_option_that_a_page_shows_exists() -> None:
    known = {opt for _, command in commands() for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "--version"}
    for block in COMMANDS:
        for command in block.commands:
            for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", command.split("|")[0]):
                assert option in known, f"{block}: {option}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT) and target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_extra_is_explained() -> None:
    page = (DOCS / "installing.md").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = re.findall(r"'\.\[([a-z0-9,]+)\]'", page)
    assert {*extras} == {extra for text in named for extra in text.split(",")}


def test_every_page_is_reached_from_the_index() -> None:
    reached, waiting = set[Path](), [DOCS / "index.md"]
    while waiting:
        page = waiting.pop()
        if page.suffix == ".md" and page.is_file() and page not in reached:
            reached.add(page)
            waiting += [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
    assert {*PAGES} <= reached, [name_of(page) for page in PAGES if page not in reached]

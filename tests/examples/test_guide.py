"""The guide of examples/tiny can be followed from the root of the repository."""

import re
import shlex
import subprocess
import sys
from itertools import chain
from pathlib import Path

import click
import pytest

from make_songs import main as make_songs
from prepare import FOLDERS
from prepare import main as prepare
from songmaker import materials
from stemsplit.cli.evaluate import evaluate
from stemsplit.cli.train import train
from stemsplit.training.configfile import read_config

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "examples/tiny/README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)
COMMANDS = [[shlex.split(line) for line in block.replace("\\\n", " ").splitlines()] for block in BLOCKS]
SCRIPT = ["python", "examples/tiny/make_songs.py"]
PREPARE = ["python", "examples/tiny/prepare.py"]


def _options(command: click.Command) -> set[str]:
    return {option for p in command.params for option in (*p.opts, *p.secondary_opts)}


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)


def test_the_program_runs_from_the_root_of_the_repository(tmp_path: Path) -> None:
    done = _run([SCRIPT[1], str(tmp_path / "songs"), "--songs", "2", "--seconds", "1"])
    made = [str(tmp_path / "songs" / name) for name in ("song-0000", "song-0001")]
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, made, "")
    assert all((Path(folder) / "drums.flac").is_file() for folder in made)


@pytest.mark.slow
def test_it_can_be_tried_as_the_guide_says(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    install, first, second, dry_run = COMMANDS[0]
    assert install[:2] == ["pip", "install"] and first[:2] == second[:2] == SCRIPT
    for words in (first, second):
        done = _run([words[1], str(tmp_path / words[2]), *words[3:]])
        assert done.returncode == 0, done.stderr
    words = [word.replace("path: songs", f"path: {tmp_path}/songs") for word in dry_run[1:]]
    places = [f"data.valid=[{{path: {tmp_path}/songs-held-out}}]", f"folder={tmp_path}/run"]
    done = _run(["-m", "stemsplit", *words, *(word for place in places for word in ("--set", place))])
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", list(chain(*COMMANDS)), ids=lambda words: " ".join(words)[:60])
def test_every_option_of_the_guide_exists(words: list[str]) -> None:
    known = {word for word in words if not word.startswith("--")}
    if words[:2] == SCRIPT:
        known |= _options(make_songs)
    if words[:2] == PREPARE:
        known |= _options(prepare)
    known |= _options(train) if "train" in words else _options(evaluate) if "evaluate" in words else set()
    assert set(words) <= known


def test_the_changes_of_the_guide_are_a_valid_configuration() -> None:
    words = next(words for words in chain(*COMMANDS) if "--dry-run" in words)
    changes = [value for option, value in zip(words, words[1:], strict=False) if option == "--set"]
    config = read_config(ROOT / words[words.index("--config") + 1], changes).config
    assert [data.path for data in config.data.train] == ["songs"] and config.fit.devices == 1


def test_the_preparation_checks_every_folder_of_samples() -> None:
    table = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", GUIDE, re.MULTILINE)
    named = {name for row in table for name in re.findall(r"`(\w+_\w+)`", row)}
    assert named == set(FOLDERS)


def test_the_guide_names_every_folder_of_samples() -> None:
    code = Path(materials.__file__).read_text()
    folders = set(re.findall(r"\b(?:bass|drums|midi|other|vocals|voice)_[a-z_]+\b", code))
    kits = re.findall(r"names = \((.*)\)", code)[0].replace('"', "").split(", ")
    folders |= {f"drums_{name}" for name in kits}
    assert len(folders) > 20 and all(f"`{folder}`" in GUIDE for folder in folders), folders

"""Processes that a program starts after separating: an immediate error, never an endless wait."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import multiprocessing, sys, warnings
import numpy
import stemsplit.separation.separator
from stemsplit import Separator, load_model
from stemsplit.errors import SettingsError

MIX = numpy.random.default_rng(0).standard_normal((2, 44100)).astype("f4")
before, how, inherited = sys.argv[1:]

def child(separator):
    try:
        found = (separator or Separator("tiny")).separate(MIX, 44100)
        print("separated", len(found), flush=True)
    except SettingsError as error:
        print("refused:", error, flush=True)

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    separator = None
    if before != "imported":
        separator = Separator("tiny")
    if before == "separated":
        separator.separate(MIX, 44100)
    work = multiprocessing.get_context(how).Process(
        target=child, args=(separator if inherited == "yes" else None,)
    )
    work.start()
    work.join()
    sys.exit(work.exitcode)
"""


def said(tmp_path: Path, *arguments: str) -> str:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, program, *arguments], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks")
@pytest.mark.parametrize("before", ["loaded", "separated"])
@pytest.mark.parametrize("inherited", ["yes", "no"])
def test_forked_after_torch_had_computed(tmp_path: Path, before: str, inherited: str) -> None:
    found = said(tmp_path, before, "fork", inherited)
    assert found.startswith("refused: this process was forked after torch had started its threads")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_forked_before_that(tmp_path: Path) -> None:
    assert said(tmp_path, "imported", "fork", "no") == "separated 4\n"


@pytest.mark.slow
def test_spawned(tmp_path: Path) -> None:
    assert said(tmp_path, "separated", "spawn", "no") == "separated 4\n"

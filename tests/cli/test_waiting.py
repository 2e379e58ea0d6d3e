"""The command lets torch's threads sleep soon when they wait; the library leaves that to its program."""

import subprocess
import sys
from typing import Any

import pytest

from stemsplit.cli.main import SPINS
from tests.cli.conftest import environment

# OpenMP of GNU shows its settings when torch loads it.
SHOW = {"OMP_DISPLAY_ENV": "VERBOSE"}
Shell = Any


@pytest.mark.parametrize(
    ("chosen", "spins"),
    [({}, str(SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
    ids=["by the command", "by number", "by policy"],
)
def test_the_command_chooses_before_torch_is_loaded(shell: Shell, chosen: dict[str, str], spins: str) -> None:
    ran = shell.process("doctor", env=SHOW | chosen)
    assert ran.code == 0
    if "GOMP_SPINCOUNT" not in ran.err:
        pytest.skip("torch has another OpenMP than GNU's")
    assert f"GOMP_SPINCOUNT = '{spins}'" in ran.err


def test_the_library_changes_nothing(tmp_path: Any) -> None:
    code = (
        "import os, stemsplit.separation.separator, stemsplit.cli.main; print('GOMP_SPINCOUNT' in os.environ)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"

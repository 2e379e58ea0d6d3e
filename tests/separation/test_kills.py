"""A worker that is killed anywhere loses no track, blocks none and leaves nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_track_of_a_worker_that_is_killed_before_any_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.separation.killed", str(tmp_path)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=400, env=env)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == []
    assert ran.stderr.count(" kills before") == 2
    counts = [line.split()[0::3][:2] for line in ran.stderr.splitlines()]
    assert all(int(kills) > 100 and kills == lines for kills, lines in counts), ran.stderr

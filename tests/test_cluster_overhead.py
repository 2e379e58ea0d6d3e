"""Time that the engine takes beside the work, on a cluster of its own, simulated by workers that sleep."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from stemsplit.cluster import Ray
from tests.benchmarks.cluster import simulate

LEAST_TRACK_S = 2.0  # that a track takes at least


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed")
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_engine_takes_little_time_and_the_driver_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), *sys.path]))
    jobs, job_s, workers = 500, 0.2, 8
    engine = Ray(workers=workers, worker_cpus=1)
    with engine.connected():
        row = simulate(engine, workers, jobs, job_s)
    assert row["overhead"] * job_s < 0.03 * LEAST_TRACK_S
    assert row["grown_mb"] < 10

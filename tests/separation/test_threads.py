"""Only the inference thread has OpenMP threads, and jobs share the cores."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stemsplit.core import compute
from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from stemsplit.separation.run import separate_files
from stemsplit.settings import BatchSettings, ComputeSettings, ModelSettings, Request

# More threads than cores make OpenMP's helpers sleep between any two layers. The program counts those threads
# that aren't Python's own, after every chunk.
RUN = """
import os, sys, threading
import torch
from stemsplit.cli.main import run
from stemsplit.core import compute

def natives():
    return len(os.listdir("/proc/self/task")) - threading.active_count()

def counted(*arguments):
    stems = inner(*arguments)
    seen.append(natives() - before)
    return stems

torch.set_num_threads(2)
inner, compute.start, before, seen = compute.start, counted, natives(), []
try:
    run(sys.argv[1:])
finally:
    print(*seen)
"""
WIDE = {  # enough for torch to share the work of preparing it
    "sources": ["drums", "bass", "other", "vocals"],
    "channels": 48,
    "depth": 3,
    "t_layers": 1,
    "t_heads": 2,
    "nfft": 1024,
    "segment": 2.0,
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_only_the_inference_thread_has_openmp_threads(tmp_path: Path) -> None:
    song, model = tmp_path / "song.wav", tmp_path / "wide.safetensors"
    soundfile.write(song, 0.1 * np.random.default_rng(0).standard_normal((4 * 44100, 2)), 44100)
    save_package(model, build("htdemucs", WIDE))
    line = [str(song), "-m", str(model), "-o", str(tmp_path / "stems"), "--bit-depth", "16", "-f", "flac"]
    done = subprocess.run([sys.executable, "-c", RUN, *line], capture_output=True, text=True, check=True)
    counts = [int(count) for count in done.stdout.splitlines()[-1].split()]
    assert len(counts) > 1 and max(counts) == 1


@pytest.mark.parametrize(
    ("tracks", "jobs", "chosen", "threads"),
    [(1, 1, None, 6), (3, 2, None, 3), (1, 2, None, 6), (8, 8, None, 1), (3, 2, 5, 5)],
    ids=["one job", "two jobs", "more jobs than tracks", "more jobs than cores", "by number"],
)
def test_jobs_share_the_cores(
    tracks: int, jobs: int, chosen: int | None, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts, inner = set[int](), compute.start

    def counted(*arguments: object) -> object:
        counts.add(torch.get_num_threads())
        return inner(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(compute, "start", counted)
    for number in range(tracks):
        soundfile.write(tmp_path / f"{number}.wav", np.full((4000, 2), 0.1), 8000)
    request = Request(
        model=ModelSettings("classic"),
        batch=BatchSettings(output=str(tmp_path / "out")),
        compute=ComputeSettings(threads=chosen),
        jobs=jobs,
    )
    with compute.threads(6):
        assert separate_files(sorted(tmp_path.glob("*.wav")), request).exit_code == 0
    assert counts == {threads}

"""Only the inference thread has OpenMP threads."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build

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
inner, compute.run, before, seen = compute.run, counted, natives(), []
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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
def test_only_the_inference_thread_has_openmp_threads(tmp_path: Path) -> None:
    song, model = tmp_path / "song.wav", tmp_path / "wide.safetensors"
    soundfile.write(song, 0.1 * np.random.default_rng(0).standard_normal((4 * 44100, 2)), 44100)
    save_package(model, build("htdemucs", WIDE))
    line = [str(song), "-m", str(model), "-o", str(tmp_path / "stems"), "--bit-depth", "16", "-f", "flac"]
    done = subprocess.run([sys.executable, "-c", RUN, *line], capture_output=True, text=True, check=True)
    counts = [int(count) for count in done.stdout.splitlines()[-1].split()]
    assert len(counts) > 1 and max(counts) == 1

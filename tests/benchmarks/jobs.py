"""Tracks at once and threads of each: measured on two cores, and computed for more.

    python -m tests.benchmarks.jobs

Chunks of HT Demucs with its default arguments and random weights, prepared for a CPU, are computed by several
threads of Python at once, with OpenMP threads each, as `--jobs` and `--threads` do. Each figure is a median
of alternated rounds, all in one process. It writes jobs.json and prints its tables.
"""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import click

from stemsplit.cli.main import SPINS
from tests.benchmarks import table
from tests.benchmarks.family_chunk import memory_mb
from tests.benchmarks.peaks import processor

RESULT = Path(__file__).with_name("jobs.json")
CASES = ((1, 1), (1, 2), (2, 1), (2, 2))  # jobs, threads of each
CHUNKS = 4  # in each case


def chunk_seconds(network: Any, chunk: Any, jobs: int, threads: int) -> float:
    """Seconds that a chunk takes on average if `jobs` are computed at once."""
    import torch

    def compute() -> None:
        with torch.inference_mode():
            for _ in range(CHUNKS // jobs):
                network(chunk)

    def prepare() -> None:
        torch.set_num_threads(threads)

    with ThreadPoolExecutor(jobs, initializer=prepare) as pool:
        began = time.perf_counter()
        for done in [pool.submit(compute) for _ in range(jobs)]:
            done.result()
        return (time.perf_counter() - began) / CHUNKS


def measure(rounds: int) -> dict[str, Any]:
    """Medians of every case, and the seconds of a chunk in a batch of two with all threads."""
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))  # as the command does
    import torch

    from stemsplit.core import memory
    from stemsplit.models import build

    memory.share_memory()
    torch.manual_seed(0)
    network: Any = build("htdemucs", {"sources": ["drums", "bass", "other", "vocals"]}).eval().prepare()
    chunk = 0.1 * torch.randn(1, 2, network.segment_samples + 2 * network.context_samples)
    seconds: dict[str, list[float]] = {}
    peaks: dict[str, float] = {}
    for turn in range(rounds + 1):
        for jobs, threads, batch in (*((j, t, 1) for j, t in CASES), (1, 2, 2)):
            memory.trim()
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            took = chunk_seconds(network, chunk.repeat(batch, 1, 1), jobs, threads) / batch
            name = f"{jobs} × {threads}" if batch == 1 else "batch of two"
            peaks[name] = max(peaks.get(name, 0.0), memory_mb("VmHWM"))
            if turn:
                seconds.setdefault(name, []).append(took)
                click.echo(f"{name}: {took:.2f} s", err=True)
    return {
        "cpu": processor(),
        "rounds": rounds,
        "seconds": {name: median(many) for name, many in seconds.items()},
        "peak_mb": peaks,
    }


@click.command(help=__doc__)
@click.option("--rounds", type=int, default=3, show_default=True, help="Runs of each, alternated.")
def main(rounds: int) -> None:
    """Measure, write, print."""
    result = measure(rounds)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    click.echo("\n".join(table.jobs(result)))


if __name__ == "__main__":
    main()

"""Throughput of the Ray engine by simulation: workers that sleep instead of computing.

    python -m tests.benchmarks.cluster                     # a minute
    python -m tests.benchmarks.cluster --workers 64 --jobs 10000 --job-s 1
    python -m tests.benchmarks.cluster --workers 1,4,16,64 --jobs 0 --job-s 0.02

Overhead is the time beyond that of workers which never wait, counted from when all of them are ready.
The node pretends to have a core for each worker, so the figures hold for the driver, not for the workers.
"""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from stemsplit.cluster import Ray
from stemsplit.engines import Worker
from stemsplit.events import Callback, Progress, emit

EVENTS = 3  # that a job sends


@dataclass(frozen=True)
class Sleeper:
    """Factory of workers that sleep."""

    job_s: float

    def __call__(self) -> Worker[int, int]:
        return self._work

    def _work(self, item: int, callback: Callback) -> int:
        for part in range(EVENTS):
            time.sleep(self.job_s / EVENTS)
            emit(callback, Progress(str(os.getpid()), part + 1.0, float(EVENTS), None))
        return item


def memory_mb() -> float:
    """Return the memory that this process has now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def simulate(engine: Ray, workers: int, jobs: int, job_s: float) -> dict[str, float]:
    """Run sleeping jobs; return throughput, overhead, and the driver's memory at a tenth and its growth."""
    begun, finished, started = 0.0, 0, set[str]()
    memory = [memory_mb()]

    def tell(event: Any) -> None:
        nonlocal begun
        started.add(event.input)  # the worker's process
        if len(started) == workers and not begun:
            begun, seen[0] = time.monotonic(), finished

    seen = [0]
    for number, result in enumerate(engine.run(range(jobs), Sleeper(job_s), tell)):
        if result != number:
            raise RuntimeError(result)
        finished += 1
        if finished == jobs // 10:
            memory.append(memory_mb())
    if not begun:
        raise RuntimeError(f"only {len(started)} of {workers} workers ever began")
    total_s = time.monotonic() - begun
    ideal_s = (jobs - seen[0]) * job_s / workers
    return {
        "workers": workers,
        "jobs": jobs,
        "job_s": job_s,
        "per_s": (jobs - seen[0]) / total_s,
        "overhead": total_s / ideal_s - 1,
        "driver_mb": memory[1],
        "grown_mb": memory_mb() - memory[1],
    }


@click.command()
@click.option("--workers", default="1,4,8", help="Numbers of workers.")
@click.option("--jobs", default=0, help="Number of jobs; 0 takes 30 for each worker.")
@click.option("--job-s", default=0.5, help="Seconds of each job.")
def main(workers: str, jobs: int, job_s: float) -> None:
    """Print a row for each number of workers."""
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    print("workers   jobs   of s   jobs/s  overhead  driver, MB  grown")
    for count in map(int, workers.split(",")):
        engine = Ray(workers=count, worker_cpus=1)
        with engine.connected():
            row = simulate(engine, count, jobs or 30 * count, job_s)
        rates = f"{row['per_s']:>8.1f} {row['overhead']:>9.1%}"
        memory = f"{row['driver_mb']:>11.0f} {row['grown_mb']:>6.1f}"
        print(f"{count:>7} {row['jobs']:>6} {job_s:>6} {rates} {memory}", flush=True)
        print(json.dumps(row), file=sys.stderr)


if __name__ == "__main__":
    from tests.benchmarks import cluster  # workers can't import a class of the module that is run

    cluster.main()

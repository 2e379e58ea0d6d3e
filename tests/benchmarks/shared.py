"""Whole programs on an idle machine and beside two busy loops, and the time to the first progress.

    python -m tests.benchmarks.shared

HT Demucs with random weights, this program and demucs 4.1.0 in turn, which this Python must have both. Every
figure is a median. The machine must be idle otherwise. It writes shared.json and prints its table.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from tests.benchmarks import networks, programs, table
from tests.benchmarks.peaks import processor

RESULT = Path(__file__).with_name("shared.json")
LOADS = {"idle": 0, "busy": 2}  # loops beside
PROGRAMS = ("demucs", "stemsplit")


@contextmanager
def loops(count: int) -> Iterator[None]:
    """Keep `count` cores busy inside the block."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def first_progress_s(line: list[str]) -> float:
    """Seconds from the start of the command to its first progress, when the model is loaded."""
    began = time.perf_counter()
    with subprocess.Popen([*line, "--progress", "json"], stderr=subprocess.PIPE, text=True) as process:
        for text in process.stderr or ():
            if json.loads(text)["event"] == "progress":
                took = time.perf_counter() - began
                process.kill()
                return took
    raise SystemExit(f"{' '.join(line)}: no progress")


def measure(rounds: int, seconds: float, quick: bool) -> dict[str, Any]:
    """Medians of alternated runs."""
    runs: dict[str, dict[str, list[dict[str, float]]]] = {
        load: {program: [] for program in PROGRAMS} for load in LOADS
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        weights, song = folder / "htdemucs.th", folder / "song.wav"
        networks.write("htdemucs", quick, weights)
        programs.song(song, seconds, None)
        lines = {
            program: programs.command(program, Path(sys.executable), weights, song, folder / program)
            for program in PROGRAMS
        }
        programs.run(lines["stemsplit"])  # hashes the weights, and puts the files into memory
        starts = [first_progress_s(lines["stemsplit"]) for _ in range(rounds)]
        for _ in range(rounds):
            for load, count in LOADS.items():
                with loops(count):
                    for program in PROGRAMS:
                        runs[load][program].append(programs.run(lines[program]))
                        click.echo(f"{load}, {program}: {runs[load][program][-1]}", err=True)
        agreement = programs.agreement_db(folder / "demucs", folder / "stemsplit")
    found = {
        load: {
            program: {key: median(one[key] for one in many) for key in many[0]}
            for program, many in both.items()
        }
        for load, both in runs.items()
    }
    result = {"cpu": processor(), "rounds": rounds, "seconds": seconds, "agreement_db": agreement}
    return result | {"first_progress_s": median(starts), "loads": found}


@click.command(help=__doc__)
@click.option("--rounds", type=int, default=3, show_default=True, help="Runs of each, alternated.")
@click.option("--seconds", type=float, default=20.0, show_default=True, help="Length of the song.")
@click.option("--quick", is_flag=True, help="A small network, to see that it works.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="The JSON file.")
def main(rounds: int, seconds: float, quick: bool, output: Path) -> None:
    """Measure, write, print."""
    result = measure(rounds, seconds, quick)
    output.write_text(json.dumps(result, indent=1) + "\n")
    click.echo("\n".join(table.shared(result)))


if __name__ == "__main__":
    main()

"""CPU seconds of six fixed cases, against those of the parent commit: nothing becomes slower unseen.

    python -m tests.benchmarks.guard
    python -m tests.benchmarks.guard --parent v0.1.0

Both packages are installed beside each other and measured on one thread. Two processes have them, which take
turns at each case, so that a machine that becomes slower meanwhile does so for both. It fails if a case takes
more than 1.25 times the CPU seconds of before, by the median of the rounds' ratios; cases that the parent
can't run are left out.
"""

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click

from tests.benchmarks import programs
from tests.benchmarks.guard_cases import CASES

REPOSITORY = Path(__file__).parents[2]
PROGRAM = Path(__file__).with_name("guard_cases.py")
MOST = 1.25  # times the CPU seconds of before
ROUNDS = 3
TURNS = 4  # of each case in a round; the least CPU seconds count
SONG_S = 12
Seconds = dict[str, float]


def source_of(commit: str, folder: Path) -> str | None:
    """Write a commit's files into a folder; return the reason if there is no such commit here."""
    done = subprocess.run(
        ["git", "archive", "--format=tar", commit], cwd=REPOSITORY, capture_output=True, check=False
    )
    if done.returncode:
        return done.stderr.decode(errors="replace").strip() or "no repository"
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return None


def install(source: Path, target: Path) -> Path:
    """Install a package without what it needs, which this Python has; return the folder."""
    line = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, source]
    subprocess.run(line, check=True)
    return target


@contextmanager
def measuring(package: Path, song: Path, output: Path) -> Iterator[Callable[[str], float]]:
    """Start a process with an installed package; give what returns the CPU seconds of a case in it."""
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    line = [sys.executable, PROGRAM, song, output]
    with subprocess.Popen(
        line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout
        asked, answered = process.stdin, process.stdout

        def ask(case: str) -> float:
            print(case, file=asked, flush=True)
            return float(answered.readline().strip() or "nan")

        yield ask


def measure(before: Path, now: Path, song: Path, output: Path) -> tuple[Seconds, Seconds]:
    """CPU seconds of the cases that two installed packages can run, which take turns at each."""
    with measuring(before, song, output) as first, measuring(now, song, output) as second:
        turns = {name: [(first(name), second(name)) for _ in range(TURNS)] for name in CASES}
    least = [{name: min(pair[side] for pair in pairs) for name, pairs in turns.items()} for side in (0, 1)]
    if failed := [name for name, seconds in least[1].items() if isnan(seconds)]:
        raise click.ClickException(f"guard: {', '.join(failed)} can't be run")
    return {name: seconds for name, seconds in least[0].items() if not isnan(seconds)}, least[1]


def ratios(rounds: list[tuple[Seconds, Seconds]]) -> Seconds:
    """Medians over the rounds of each case's seconds now over those before; of cases that both have."""
    both = [name for name in rounds[0][1] if all(name in before for before, _ in rounds)]
    return {name: median(now[name] / before[name] for before, now in rounds) for name in both}


def table(rounds: list[tuple[Seconds, Seconds]]) -> list[str]:
    """Lines of text: each case's median seconds before and now, and the median ratio."""
    rows = [f"{'case':<12} {'before':>8} {'now':>8} {'ratio':>6}"]
    for name, ratio in ratios(rounds).items():
        before, now = (median(pair[side][name] for pair in rounds) for side in (0, 1))
        rows.append(f"{name:<12} {before:7.2f}s {now:7.2f}s {ratio:6.2f}{' slower' * (ratio > MOST)}")
    return rows


@click.command(help=__doc__)
@click.option("--parent", default="HEAD^", show_default=True, help="Commit to compare with.")
@click.option("--rounds", type=int, default=ROUNDS, show_default=True, help="Pairs of processes.")
def main(parent: str, rounds: int) -> None:
    """Measure, print, and fail if a case is much slower than before."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        reason = source_of(parent, folder / "source")
        if reason is not None:
            click.echo(f"guard: skipped, for there is no {parent} here ({reason})")
            return
        before, now = install(folder / "source", folder / "before"), install(REPOSITORY, folder / "now")
        song = folder / "song.wav"
        programs.song(song, SONG_S, None)
        found = [measure(before, now, song, folder / "stems") for _ in range(rounds)]
    click.echo("\n".join(table(found)))
    if any(ratio > MOST for ratio in ratios(found).values()):
        raise click.ClickException(f"guard: a case takes more than {MOST} times the CPU seconds of {parent}")


if __name__ == "__main__":
    main()

"""Time and memory until many files are planned: `python -m tests.benchmarks.planning [COUNT...]`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile

from tests.memory import peak_mb

COUNTS = (1_000, 10_000, 100_000)
PER_FOLDER = 100


def make(folder: Path, count: int) -> None:
    """Write a library: one short song under many names, 100 in a folder."""
    song = folder.parent / "song.wav"
    soundfile.write(song, np.zeros((1000, 2)), 44100)
    for number in range(count):
        place = folder / f"artist {number // PER_FOLDER // 10:04}" / f"album {number // PER_FOLDER:04}"
        if number % PER_FOLDER == 0:
            place.mkdir(parents=True)
        copy = place / f"{number % PER_FOLDER:02} song.wav"
        try:
            os.link(song, copy)
        except OSError:  # the most links that a file can have
            song = place / f"{number % PER_FOLDER:02} song.wav"
            soundfile.write(song, np.zeros((1000, 2)), 44100)


def measure(folder: Path) -> dict[str, float]:
    """Plan everything below a folder; return the seconds to the first track and to the last, and memory."""
    from stemsplit.separation.inputs import find
    from stemsplit.separation.run import prepare
    from stemsplit.settings import BatchSettings, ModelSettings, Request

    request = Request(model=ModelSettings("tiny"), batch=BatchSettings(output=str(folder.parent / "out")))
    began, memory = time.monotonic(), peak_mb()
    session = prepare(find([folder], request), request)
    if session.plan.stream is None:
        count = len(list(session.survey()))
        session.check_room([])
        first_s = time.monotonic() - began
    else:
        next(session.plan.stream)
        first_s = time.monotonic() - began
        count = 1 + sum(1 for _ in session.plan.stream)
    peak = peak_mb()
    return {
        "files": count,
        "first_s": first_s,
        "planned_s": time.monotonic() - began,
        "peak_mb": peak,
        "grown_mb": peak - memory,
    }


def measured(count: int) -> dict[str, float]:
    """Return the figures of `measure` for a library of `count` files, in a process of its own."""
    with TemporaryDirectory() as place:
        folder = Path(place) / "library"
        make(folder, count)
        command = [sys.executable, "-m", "tests.benchmarks.planning", str(folder)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found: dict[str, float] = json.loads(out)
        return found


def main() -> None:
    """Print a row for each count, or the figures of a folder."""
    if len(sys.argv) == 2 and not sys.argv[1].isdecimal():
        print(json.dumps(measure(Path(sys.argv[1]))))
        return
    print(f"{'files':>8} {'first track, s':>15} {'all planned, s':>15} {'peak, MB':>9}")
    for count in map(int, sys.argv[1:] or COUNTS):
        row = measured(count)
        print(
            f"{row['files']:>8} {row['first_s']:>15.2f} {row['planned_s']:>15.2f} {row['peak_mb']:>9.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

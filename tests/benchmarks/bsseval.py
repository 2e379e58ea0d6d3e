"""BSS Eval against museval, on the same stems, in alternated processes.

    python -m tests.benchmarks.bsseval                  # 20 s of four stereo stems, one thread and two
    python -m tests.benchmarks.bsseval --threads 2 --rounds 1
    python -m tests.benchmarks.bsseval --long           # also 5 minutes, ours alone, for its memory

The stems are coloured noise at 16 bits, or a track of a data set with --dataset. Every time is a median. The
table goes to stdout, and the result to bsseval.json.
"""

import json
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from tests.memory import peak_mb

RESULT = Path(__file__).with_name("bsseval.json")
REPOSITORY = Path(__file__).parents[2]
PROGRAMS = ("museval", "stemsplit")
RATE = 44100
STEMS = ("drums", "bass", "other", "vocals")


def noise(seconds: int) -> np.ndarray:
    """Four stereo stems of noise with different spectra, [4, 2, T]; the second's channels are equal."""
    generator = np.random.default_rng(0)
    white = generator.standard_normal((4, 2, seconds * RATE)).astype(np.float32)
    for stem, share in enumerate((0.0, 0.9, 0.5, 0.7)):
        white[stem, :, 1:] += share * white[stem, :, :-1]
    white[1] = white[1].mean(0)
    return 0.05 * white


def music(dataset: str, start_s: int, seconds: int) -> np.ndarray:
    """Four stereo stems of the first track in which all of them sound, [4, 2, T]."""
    from stemsplit.audio.channels import convert_channels
    from stemsplit.datasets.tracks import find_tracks

    for track in find_tracks(dataset, sample_rate=RATE):
        if set(STEMS) <= set(track.stems):
            pieces = (track.stems[s].read(start_s * RATE, seconds * RATE) for s in STEMS)
            stems = np.stack([convert_channels(piece, 2) for piece in pieces])
            if np.abs(stems).max((1, 2)).min() > 1e-3:
                return stems
    raise click.UsageError(f"{dataset}: no track has all of {', '.join(STEMS)} there")


def as_16_bit(audio: np.ndarray) -> np.ndarray:
    """What a file of 16 bits would hold."""
    return (np.round(np.clip(audio, -1, 1) * 32767) / 32768).astype(np.float32)


def estimates(references: np.ndarray) -> np.ndarray:
    """Each stem a little filtered, with some of the others and some noise."""
    generator = np.random.default_rng(1)
    leaking = 0.85 * references + 0.1 * references.sum(0)
    leaking[..., 3:] += 0.1 * references[..., :-3]
    return leaking + 0.003 * generator.standard_normal(references.shape).astype(np.float32)


def score(program: str, stems: Path, threads: int) -> dict[str, float]:
    """Score once, here: seconds of wall and CPU, memory beyond the stems; the scores go beside `stems`."""
    import torch

    torch.set_num_threads(threads)
    references, guesses = np.load(stems)
    if program == "museval":
        import museval

        arguments = [np.moveaxis(x, 1, 2) for x in (references, guesses)]
        work = lambda: museval.evaluate(*arguments)  # noqa: E731
    else:
        from stemsplit.evaluation.bsseval import bsseval

        tensors = [torch.from_numpy(x) for x in (references, guesses)]
        work = lambda: bsseval(*tensors)  # noqa: E731
    held_mb, before = peak_mb(), resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    scores = np.stack(work())
    wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    np.save(stems.with_name(f"{program}.npy"), scores)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_s": wall_s, "cpu_s": cpu_s, "grown_mb": peak_mb() - held_mb}


def in_a_process(program: str, stems: Path, threads: int) -> dict[str, float]:
    """`score` in a process of its own, with that many threads in every library."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    code = (
        "import json; from pathlib import Path; from tests.benchmarks.bsseval import score; "
        f"print(json.dumps(score({program!r}, Path({str(stems)!r}), {threads})))"
    )
    import os

    environment = {**os.environ, **dict.fromkeys(names, str(threads))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
        env=environment,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare(stems: Path, threads: int, rounds: int) -> dict[str, dict[str, float]]:
    """Both programs in turn: the median of each figure."""
    runs: dict[str, list[dict[str, float]]] = {program: [] for program in PROGRAMS}
    for _ in range(rounds):
        for program in PROGRAMS:
            runs[program].append(in_a_process(program, stems, threads))
            click.echo(f"  {threads} threads, {program}: {runs[program][-1]}", err=True)
    return {
        program: {key: median(one[key] for one in many) for key in many[0]} for program, many in runs.items()
    }


def difference(folder: Path) -> dict[str, float]:
    """The largest difference of any number, and of the medians over frames, in dB."""
    theirs, ours = (np.load(folder / f"{program}.npy") for program in PROGRAMS)
    if not np.array_equal(np.isnan(theirs), np.isnan(ours)):
        raise click.ClickException("the two don't agree on which frames are silent")
    medians = np.abs(np.nanmedian(theirs, -1) - np.nanmedian(ours, -1))
    return {"every_number_db": float(np.nanmax(np.abs(theirs - ours))), "medians_db": float(medians.max())}


def table(result: dict[str, Any]) -> str:
    """The result as Markdown."""
    rows = ["| threads | museval | stemsplit | × wall | × CPU | memory |", "|---|---|---|---|---|---|"]
    for threads, found in result["speed"].items():
        theirs, ours = (found[program] for program in PROGRAMS)
        rows.append(
            f"| {threads} | {theirs['wall_s']:.2f} s | {ours['wall_s']:.2f} s "
            f"| {theirs['wall_s'] / ours['wall_s']:.1f} | {theirs['cpu_s'] / ours['cpu_s']:.1f} "
            f"| {theirs['grown_mb']:.0f} / {ours['grown_mb']:.0f} MB |"
        )
    worst = result["difference"]
    rows += ["", f"{result['seconds']} s of four stereo stems ({result['audio']}), {result['cpu']}"]
    rows.append(
        f"largest difference {worst['every_number_db']:.1e} dB, of medians {worst['medians_db']:.1e} dB"
    )
    if long := result.get("long"):
        rows.append(
            f"{long['seconds']} s: {long['wall_s']:.1f} s, {long['grown_mb']:.0f} MB beyond the stems"
        )
    return "\n".join(rows)


@click.command(help=__doc__)
@click.option("--seconds", default=20, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--threads", multiple=True, type=int, default=(1, 2), show_default=True)
@click.option("--dataset", help="Take a track of this data set instead of noise.")
@click.option("--start", default=120, show_default=True, help="Where in the track, in seconds.")
@click.option("--long", "long_", is_flag=True, help="Also score five minutes, for the memory that takes.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, show_default=True)
def main(
    seconds: int,
    rounds: int,
    threads: tuple[int, ...],
    dataset: str | None,
    start: int,
    long_: bool,
    output: Path,
) -> None:
    """Run both, print the table, write the JSON."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        stems = Path(name) / "stems.npy"
        references = as_16_bit(music(dataset, start, seconds) if dataset else noise(seconds))
        np.save(stems, np.stack([references, as_16_bit(estimates(references))]))
        result: dict[str, Any] = {
            "seconds": seconds,
            "audio": "music" if dataset else "noise",
            "cpu": f"{platform.machine()}, {platform.system()}",
            "speed": {str(n): compare(stems, n, rounds) for n in threads},
            "difference": difference(stems.parent),
        }
        if long_:
            references = as_16_bit(noise(300))
            np.save(stems, np.stack([references, estimates(references)]))
            result["long"] = {"seconds": 300, **in_a_process("stemsplit", stems, threads[-1])}
    output.write_text(json.dumps(result, indent=2) + "\n")
    click.echo(table(result))


if __name__ == "__main__":
    main()

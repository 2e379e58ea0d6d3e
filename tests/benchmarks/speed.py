"""Speed and memory against demucs, on the same weights and the same audio, in one run.

    python -m tests.benchmarks.speed            # everything; hours on two cores
    python -m tests.benchmarks.speed --quick    # small networks, to see that it works
    python -m tests.benchmarks.speed --here --only htdemucs --seconds 20 --seconds 180

Unless told `--here`, it makes an environment of its own with both programs. Every figure is a median of
alternated runs. The result goes to speed.json, from which the table in README.md is written.
"""

import json
import os
import platform
import subprocess
import sys
import venv
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

from tests.benchmarks import engines, programs, table

REPOSITORY = Path(__file__).parents[2]
RESULT = Path(__file__).with_name("speed.json")
KINDS = ("htdemucs", "hdemucs", "demucs", "bs_roformer")
WHOLE = ("htdemucs", "hdemucs", "demucs")
ENGINES = ("htdemucs", "hdemucs")  # also in ONNX Runtime and OpenVINO
ORACLE = "demucs==4.1.0"


def environment(folder: Path) -> Path:
    """A fresh environment with demucs and this package; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", str(REPOSITORY), ORACLE, *engines.PACKAGES], check=True
    )
    return python


def inside(python: Path, kind: str, quick: bool, rounds: int) -> dict[str, Any]:
    """Segments through the networks alone."""
    line = [python, "-m", "tests.benchmarks.inside", kind, "--rounds", str(rounds)]
    more = ["--quick"] if quick else ["--engines"] if kind in ENGINES else []
    done = subprocess.run([*line, *more], cwd=REPOSITORY, check=True, stdout=subprocess.PIPE)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def checkpoint(python: Path, kind: str, quick: bool, folder: Path) -> Path:
    """A package of demucs with random weights."""
    path = folder / f"{kind}.th"
    code = (
        "from pathlib import Path; from tests.benchmarks.networks import write; "
        f"write({kind!r}, {quick}, Path({str(path)!r}))"
    )
    subprocess.run([python, "-c", code], cwd=REPOSITORY, check=True)
    return path


def graph_of(python: Path, weights: Path) -> Path:
    """The same network as ONNX, beside its weights."""
    path = weights.with_suffix(".onnx")
    subprocess.run([python, "-m", "stemsplit", "models", "export", weights, path], check=True)
    return path


def whole(
    python: Path, weights: Path, graph: Path | None, audio: Path, folder: Path, rounds: int, half: bool
) -> dict[str, dict[str, float]]:
    """Both programs in turn on one song, and ours with other engines in the network's place."""

    def line(program: str, name: str, *more: str) -> list[str]:
        return programs.command(program, python, weights, audio, folder / name, *more)

    jobs = {"demucs": line("demucs", "demucs"), "stemsplit": line("stemsplit", "stemsplit")}
    if half:
        jobs["stemsplit bf16"] = line("stemsplit", "stemsplit bf16", "--precision", "bf16")
    for name in engines.ENGINES if graph else ():
        given = (name, weights.stem, str(graph), str(audio), str(folder / name))
        jobs[name] = [str(python), "-m", "tests.benchmarks.engine_program", *given]
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, command in jobs.items():
            runs[name].append(programs.run(command))
            click.echo(f"  {name}: {runs[name][-1]}", err=True)
    found = {name: {key: median(one[key] for one in many) for key in many[0]} for name, many in runs.items()}
    for name in found:
        found[name]["agreement_db"] = programs.agreement_db(folder / "demucs", folder / name)
    return found


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Small networks and a few seconds of audio.")
@click.option("--here", is_flag=True, help="Use this Python, which has both programs.")
@click.option("--only", multiple=True, type=click.Choice(KINDS), help="Only these networks.")
@click.option("--seconds", multiple=True, type=float, help="Lengths of the songs. [default: 20, 180, 1800]")
@click.option("--rounds", type=int, default=5, show_default=True, help="Runs of each, alternated.")
@click.option("--threads", type=int, help="CPU threads of every program. [default: one per core]")
@click.option("--song", type=click.Path(path_type=Path), help="Real music, stereo at 44.1 kHz.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="The JSON file.")
def main(
    quick: bool,
    here: bool,
    only: tuple[str, ...],
    seconds: tuple[float, ...],
    rounds: int,
    threads: int | None,
    song: Path | None,
    output: Path,
) -> None:
    """Measure, write, print."""
    if threads is not None:  # read by the OpenMP of every program
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    kinds = only or KINDS
    lengths = seconds or ((3.0,) if quick else (20.0, 180.0, 1800.0))
    result: dict[str, Any] = {"machine": machine(), "quick": quick, "inside": {}, "whole": {}}
    with TemporaryDirectory() as name:
        folder = Path(name)
        python = Path(sys.executable) if here else environment(folder / "environment")
        for kind in kinds:
            click.echo(kind, err=True)
            result["inside"][kind] = inside(python, kind, quick, rounds)
            if kind not in WHOLE:
                continue
            weights = checkpoint(python, kind, quick, folder)
            graph = graph_of(python, weights) if kind in ENGINES and not quick else None
            half = any("bfloat16" in variant for variant in result["inside"][kind]["variants"])
            for length in lengths:
                audio = folder / f"song{length:g}.wav"
                programs.song(audio, length, song)
                out = folder / f"{kind}{length:g}"
                result["whole"].setdefault(kind, {})[f"{length:g}"] = whole(
                    python, weights, graph, audio, out, rounds, half
                )
            output.write_text(json.dumps(result, indent=1) + "\n")
    output.write_text(json.dumps(result, indent=1) + "\n")
    text = table.lines(result)
    click.echo("\n".join(text))
    if not quick and output == RESULT:
        table.write(text)


def machine() -> dict[str, str]:
    """What it ran on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {"cpu": cpu, "system": platform.platform(), "python": platform.python_version()}


if __name__ == "__main__":
    main()

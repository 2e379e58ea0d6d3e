"""Every family, with the arguments of a released checkpoint, beside the packages that it is compared with.

    python -m tests.benchmarks.families                       # one thread, once: also costs.json
    python -m tests.benchmarks.families --threads 2 --rounds 5 --only scnet --only mdx23c
    python -m tests.benchmarks.families --quick               # tiny networks, to see that it works

The same random weights and the same chunk of the checkpoint's own length, each package in a process of its
own (`family_chunk.py`), in turn; medians of the rounds. The reference packages run in the environment that
STEMSPLIT_ORACLES names, demucs 2.0.3 from the folder STEMSPLIT_DEMUCS2; without them, they are left out. The
GEMM peak is measured between the rounds, on as many threads. It writes families.json, from which
docs/performance.md has its tables, and `stemsplit/hub/costs.json` from the runs on one thread.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import click

HERE = Path(__file__).parent
RESULT = HERE / "families.json"
COSTS = HERE.parents[1] / "stemsplit/hub/costs.json"

# family, entry of the registry or the catalogue
CASES = {
    "htdemucs": "",
    "hdemucs": "",
    "demucs_v2": "",
    "tasnet": "",
    "openunmix": "umxhq",
    "bs_roformer": "bs_roformer",
    "mel_band_roformer": "mel_band_roformer_kim",
    "bs_conformer": "fused_model_bs_conformer_sdr_9.18",
    "scnet": "scnet",
    "mdx23c": "mdx23c",
    "mdx_net": "kuielab_a_vocals",
    "vr": "1_HP-UVR",
    "vr_v51": "uvr_deecho",
    "bandit": "dnr-3s-mus64-l1snr",
    "bandit_v2": "checkpoint-eng",
    "apollo": "apollo",
}
DEMUCS: dict[str, dict[str, Any]] = {
    name: {"sources": ["drums", "bass", "other", "vocals"]}
    for name in ("htdemucs", "hdemucs", "demucs_v2", "tasnet")
}
DEMUCS["tasnet"]["X"] = 10  # layers of a block in the released networks


def packages_of(family: str) -> list[str]:
    """Return the packages that a family is compared with, as far as they are installed."""
    first = {
        ("htdemucs", "hdemucs"): "demucs",
        ("demucs_v2", "tasnet"): "demucs 2",
        ("openunmix",): "openunmix",
        ("bs_roformer", "mel_band_roformer"): "pymss-core",
        ("mdx_net",): "onnxruntime",
        ("vr", "vr_v51"): "audio-separator",
    }
    package = next((name for families, name in first.items() if family in families), "msst")
    needed = ("STEMSPLIT_ORACLES", *(("STEMSPLIT_DEMUCS2",) if package == "demucs 2" else ()))
    if any(name not in os.environ for name in needed):
        return []
    return [package, "audio-separator"] if package == "pymss-core" else [package]


def constructor_of(family: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return what references are made from; `family_chunk.py` leaves out what their classes don't know."""
    from dataclasses import asdict

    from stemsplit.models import family as class_of

    if family in DEMUCS:
        return given
    arguments = asdict(class_of(family).Arguments(**given))
    if family.startswith("vr"):
        keys = ("vr_model_param", "primary_stem", *(("nout", "nout_lstm") if family == "vr_v51" else ()))
        return {"entry": {key: arguments[key] for key in keys}, "kilobytes": 123821}
    if family.startswith("bandit"):
        return arguments | {"in_channel": 1, "in_channels": 1}
    if family == "mdx_net":
        sizes = ("dim_f", "dim_t", "n_fft", "num_blocks", "l", "g", "k", "bn", "bias", "hop_length")
        return {key: arguments[key] for key in (*sizes, "silent_bins")}
    if family == "mdx23c":
        keys = ("n_fft", "hop_length", "dim_f")
        audio = {key: arguments[key] for key in keys} | {"num_channels": arguments["audio_channels"]}
        training = {"instruments": arguments["stems"], "target_instrument": None}
        return {"audio": audio, "model": arguments, "training": training}
    return arguments


def released(family: str, quick: bool) -> dict[str, Any]:
    """Arguments of a released network, or of a tiny one."""
    if quick:
        from tests.models.test_contract import FAMILIES

        tiny = dict(next(arguments for name, arguments in FAMILIES if name == family))
        return tiny | ({"mlp_expansion_factor": 4} if "former" in family else {})  # as everywhere else
    from stemsplit.hub.registry import find_model

    return dict(find_model(CASES[family]).arguments) if CASES[family] else DEMUCS[family]


def randomised(family: str, arguments: dict[str, Any]) -> Any:
    """Return a network whose normalisations and LayerScales aren't those of an untrained one."""
    import torch

    from stemsplit.models import build

    torch.manual_seed(0)
    network = build(family, arguments).eval()
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        low, high = RANGES.get(name.rpartition(".")[2], (0.0, 0.0))
        if high:
            value.data.uniform_(low, high)
    return network


# of trained networks' LayerScales and statistics
RANGES = {"scale": (0.1, 0.4), "running_mean": (-0.1, 0.1), "running_var": (0.5, 1.5)}


def written(family: str, quick: bool, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write weights and a chunk; return what every job has in common, and what is said of the family."""
    import torch

    from stemsplit.settings import DEFAULT_OVERLAP
    from tests.benchmarks import peaks

    arguments = released(family, quick)
    network = randomised(family, arguments)
    torch.save(network.state_dict(), folder / "weights.pt")
    segment = network.segment_samples
    samples = network.padded_samples(segment)
    flop = peaks.operations(network, samples)
    if family.startswith("vr"):  # the core puts half a window before the track, in one that isn't computed
        samples -= network.chunking.lead
        flop = flop * network.arguments.windows // (network.arguments.windows + 1)
    torch.save(0.1 * torch.randn(1, network.channels, samples), folder / "mix.pt")
    overlap = DEFAULT_OVERLAP if network.overlap is None else network.overlap
    about = {
        "model": CASES[family] or family,
        "audio_s": min(samples, segment) / network.sample_rate,
        "overlap": overlap,
        "flop": flop,
    }
    job = {"family": family, "weights": str(folder / "weights.pt"), "mix": str(folder / "mix.pt")}
    stems = network.stems[:1] if family == "mdx_net" else None  # the other is the rest of the mix
    return job | {"constructor": arguments, "stems": stems}, about


@contextmanager
def process(package: str, job: dict[str, Any], folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a package's process, which computes a chunk for every line."""
    path, output = folder / f"{package}.json", folder / f"{package}.pt"
    path.write_text(json.dumps(job | {"package": package, "output": str(output)}))
    python = sys.executable if package == "stemsplit" else os.environ["STEMSPLIT_ORACLES"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1]) if package == "stemsplit" else ""}
    with (
        (folder / f"{package}.log").open("w") as log,
        subprocess.Popen(
            [python, str(HERE / "family_chunk.py"), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as started,
    ):
        yield started


def chunk(package: str, started: subprocess.Popen[str], folder: Path) -> dict[str, float]:
    """Figures of one chunk."""
    assert started.stdin is not None and started.stdout is not None
    started.stdin.write("\n")
    started.stdin.flush()
    line = started.stdout.readline()
    if not line:
        last = (folder / f"{package}.log").read_text().strip().splitlines()[-1:]
        raise click.ClickException(f"{package}: {' '.join(last)}")
    found: dict[str, float] = json.loads(line)
    return found


def agreement(theirs: Any, ours: Any) -> float:
    """Decibels, over the common length: some networks cut to whole hops, or have no dimension of stems."""
    from tests.benchmarks.peaks import decibels

    samples = min(theirs.shape[-1], ours.shape[-1])
    return decibels(*(one.flatten(0, -2)[:, :samples] for one in (theirs, ours)))


def measured(family: str, threads: int, rounds: int, alone: bool, quick: bool) -> dict[str, Any]:
    """Medians of alternated runs of one family, the references first; memory is the most of all rounds."""
    import torch

    from tests.benchmarks import peaks

    torch.set_num_threads(threads)
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        common, about = written(family, quick, folder)
        common["threads"] = threads
        theirs = common | {"constructor": constructor_of(family, common["constructor"])}
        jobs = {package: theirs for package in (() if alone else packages_of(family))} | {"stemsplit": common}
        started = {
            package: stack.enter_context(process(package, job, folder)) for package, job in jobs.items()
        }
        runs: dict[str, list[dict[str, float]]] = {package: [] for package in started}
        fastest = []
        for turn in range(rounds):
            fastest.append(peaks.gemm_peak())
            for package, one in started.items():
                runs[package].append(chunk(package, one, folder))
                click.echo(f"{family} {turn} {package} {runs[package][-1]}", err=True)
        fastest.append(peaks.gemm_peak())
        stems = {package: torch.load(folder / f"{package}.pt") for package in started}
        first = next(iter(stems.values()))
    figures = {
        package: {key: (max if key.endswith("mb") else median)(one[key] for one in many) for key in many[0]}
        | {"agreement_db": agreement(first, stems[package])}
        for package, many in runs.items()
    }
    peak = {clock: max(one[clock] for one in fastest) for clock in ("wall", "cpu")}
    return about | {"rounds": rounds, "gemm_flop_per_s": peak, "packages": figures}


def write_costs(found: dict[str, Any]) -> None:
    """Write what `models info` tells."""
    costs = {
        name: [
            round(one["packages"]["stemsplit"]["memory_mb"], -1),
            round(one["audio_s"] * (1 - one["overlap"]) / one["packages"]["stemsplit"]["cpu_s"], 2),
        ]
        for name, one in found["families"].items()
    }
    COSTS.write_text(json.dumps({"cpu": found["cpu"], "families": costs}, indent=1) + "\n")


@click.command(help=__doc__)
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--rounds", type=int, default=1, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(tuple(CASES)), help="Only these families.")
@click.option("--alone", is_flag=True, help="Without references.")
@click.option("--quick", is_flag=True, help="Tiny networks.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="The JSON file.")
def main(threads: int, rounds: int, only: tuple[str, ...], alone: bool, quick: bool, output: Path) -> None:
    """Measure and write; families that aren't measured keep their figures."""
    from tests.benchmarks import peaks

    result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    found = result.setdefault(str(threads), {"families": {}})
    found["cpu"] = peaks.processor()
    for family in only or CASES:
        found["families"][family] = measured(family, threads, rounds, alone, quick)
        output.write_text(json.dumps(result, indent=1) + "\n")
    if threads == 1 and not quick:
        write_costs(found)


if __name__ == "__main__":
    main()

"""RoFormers with the arguments of released checkpoints against pymss-core's and audio-separator's classes.

    PYTHONPATH=. $STEMSPLIT_ORACLES tests/benchmarks/roformers.py  # in the environment of tests/oracles
    PYTHONPATH=. $STEMSPLIT_ORACLES tests/benchmarks/roformers.py --seconds 1 --rounds 1 --threads 1

The same random weights and the same chunk of the checkpoint's own length, in one process, in turn; medians of
the rounds. Memory is what a chunk takes above the weights; the GEMM peak is measured between the rounds. It
writes roformers.json, from which `tests.docs.generate` makes a table of docs/performance.md.
"""

import argparse
import importlib
import inspect
import json
import platform
import re
import sys
import time
from dataclasses import asdict
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from stemsplit.core import memory
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models import family as class_of

# As a program it runs where `tests` is another project's package
peaks: Any = importlib.import_module(f"{__package__}.peaks" if __package__ else "peaks")
RESULT = Path(__file__).with_name("roformers.json")
MODELS = ("bs_roformer", "mel_band_roformer_kim")
UVR = "audio_separator.separator.uvr_lib_v5.roformer"
CLASSES = {
    "bs_roformer": {
        "pymss-core": ("pymss_core.modules.bs_roformer", "BSRoformer"),
        "audio-separator": (f"{UVR}.bs_roformer", "BSRoformer"),
    },
    "mel_band_roformer": {
        "pymss-core": ("pymss_core.modules.bs_roformer", "MelBandRoformer"),
        "audio-separator": (f"{UVR}.mel_band_roformer", "MelBandRoformer"),
    },
}


def reference(place: tuple[str, str], arguments: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    """Another package's network with our weights."""
    cls = getattr(importlib.import_module(place[0]), place[1])
    known = inspect.signature(cls.__init__).parameters
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items() if key in known}
    if "mlp_hidden_layers" in known:  # pymss-core's way to say it, else one less
        given["mlp_hidden_layers"] = arguments["mask_estimator_depth"]
    network: nn.Module = cls(**given)
    missing, unexpected = network.load_state_dict(weights, strict=False)
    named = dict(network.named_parameters())
    if unexpected or any(name in named for name in missing):
        raise SystemExit(f"{place[0]}: the weights don't fit: {missing} {unexpected}")
    return network.eval()


def memory_mb(field: str) -> float:
    """Memory of this process, of that field of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def run(network: nn.Module, mix: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Stems of a chunk [1, S, C, T]; its wall-clock and CPU seconds, and the memory it takes in MB."""
    memory.trim()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, wall, cpu = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
    out = network(mix)
    took = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    stems = out if out.ndim == 4 else out[:, None]
    return stems, took | {"chunk_mb": memory_mb("VmHWM") - before}


def operations_of(network: nn.Module, hop: int, samples: int) -> int:
    """Floating-point operations of a chunk, from three short ones: the number is quadratic in the frames."""
    points = (20, 40, 60)  # hops
    values = [peaks.operations(network, torch.randn(1, 2, hop * point)) for point in points]
    at, total = samples // hop, 0.0
    for x, y in zip(points, values, strict=True):  # Lagrange's polynomial
        total += y * prod((at - other) / (x - other) for other in points if other != x)
    return round(total)


@torch.inference_mode()
def measure(name: str, seconds: float | None, rounds: int) -> dict[str, Any]:
    """Medians of alternated runs of one model, the reference first."""
    model = find_model(name)
    torch.manual_seed(0)
    ours: Any = build(model.family, model.arguments).eval()
    arguments = asdict(class_of(model.family).Arguments(**model.arguments))
    weights = {key: value.clone() for key, value in ours.state_dict().items()}
    places = CLASSES[model.family]
    networks = {package: reference(place, arguments, weights) for package, place in places.items()}
    hop = arguments["stft_hop_length"]
    length = arguments["segment_samples"] if seconds is None else int(seconds * ours.sample_rate)
    samples = length // hop * hop
    flop = operations_of(ours, hop, samples)
    networks["stemsplit"] = ours.prepare()
    mix = 0.1 * torch.randn(1, 2, samples)
    runs: dict[str, list[dict[str, float]]] = {package: [] for package in networks}
    agreement, first, fastest = dict[str, float](), None, [peaks.gemm_peak()]
    for turn in range(rounds + 1):
        for package, network in networks.items():
            stems, figures = run(network, mix)
            print(name, turn, package, figures, file=sys.stderr, flush=True)
            first = stems if first is None else first
            agreement[package] = peaks.decibels(first, stems[..., : first.shape[-1]])
            if turn:
                runs[package].append(figures)
        fastest.append(peaks.gemm_peak())
    return {
        "seconds": samples / ours.sample_rate,
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "flop": flop,
        "gemm_flop_per_s": {clock: max(peak[clock] for peak in fastest) for clock in ("wall", "cpu")},
        "packages": {
            package: {key: median(one[key] for one in many) for key in many[0]}
            | {"agreement_db": agreement[package]}
            for package, many in runs.items()
        },
    }


def processor() -> str:
    """Name of the CPU."""
    found = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[0] if found else platform.processor()


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, help="instead of the checkpoint's own chunk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=MODELS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = {"cpu": processor(), "torch": torch.__version__, "models": {}}
    if RESULT.exists():
        result["models"] = json.loads(RESULT.read_text())["models"]
    for name in MODELS if options.only is None else (options.only,):
        result["models"][name] = measure(name, options.seconds, options.rounds)
        print(name, result["models"][name])
        RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""RoFormers with the arguments of released checkpoints against pymss-core's and audio-separator's classes.

    PYTHONPATH=. $STEMSPLIT_ORACLES tests/benchmarks/roformers.py  # in the environment of tests/oracles
    PYTHONPATH=. $STEMSPLIT_ORACLES tests/benchmarks/roformers.py --seconds 1 --rounds 1

The same random weights and the same chunk, in one process on one thread, in turn; medians of the rounds.
Memory is what a chunk takes above the weights. It writes roformers.json, from which `tests.docs.generate`
makes a table of docs/performance.md.
"""

import argparse
import importlib
import inspect
import json
import platform
import re
import time
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from stemsplit.core import memory
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models import family as class_of

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


def run(network: nn.Module, mix: Tensor) -> tuple[Tensor, float, float]:
    """Stems of a chunk [1, S, C, T], CPU seconds, and the memory it takes in MB."""
    memory.trim()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, began = memory_mb("VmRSS"), time.process_time()
    out = network(mix)
    took = time.process_time() - began
    stems = out if out.ndim == 4 else out[:, None]
    return stems, took, memory_mb("VmHWM") - before


def decibels(reference: Tensor, estimate: Tensor) -> float:
    """How far an estimate's error lies below its reference."""
    error = (reference.double() - estimate.double()).square().sum().clamp_min(1e-60)
    return float(10 * torch.log10(reference.double().square().sum() / error))


@torch.inference_mode()
def measure(name: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Medians of alternated runs of one model, the reference first."""
    model = find_model(name)
    torch.manual_seed(0)
    ours: Any = build(model.family, model.arguments).eval()
    arguments = asdict(class_of(model.family).Arguments(**model.arguments))
    weights = {key: value.clone() for key, value in ours.state_dict().items()}
    places = CLASSES[model.family]
    networks = {package: reference(place, arguments, weights) for package, place in places.items()}
    networks["stemsplit"] = ours.prepare()
    hop = arguments["stft_hop_length"]
    samples = int(seconds * ours.sample_rate) // hop * hop
    mix = 0.1 * torch.randn(1, 2, samples)
    runs: dict[str, list[tuple[float, float]]] = {package: [] for package in networks}
    agreement, first = dict[str, float](), None
    for turn in range(rounds + 1):
        for package, network in networks.items():
            stems, *figures = run(network, mix)
            first = stems if first is None else first
            agreement[package] = decibels(first, stems[..., : first.shape[-1]])
            if turn:
                runs[package].append((figures[0], figures[1]))
    return {
        "seconds": samples / ours.sample_rate,
        "packages": {
            package: {
                "cpu_s": median(cpu for cpu, _ in figures),
                "chunk_mb": max(peak for _, peak in figures),
                "agreement_db": agreement[package],
            }
            for package, figures in runs.items()
        },
    }


def processor() -> str:
    """Name of the CPU."""
    found = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[0] if found else platform.processor()


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=MODELS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"cpu": processor(), "torch": torch.__version__, "models": {}}
    if RESULT.exists():
        result["models"] = json.loads(RESULT.read_text())["models"]
    for name in MODELS if options.only is None else (options.only,):
        result["models"][name] = measure(name, options.seconds, options.rounds)
        print(name, result["models"][name])
    RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

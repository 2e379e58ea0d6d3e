"""One segment through each variant of a network, in turn, in one process; prints JSON.

python -m tests.benchmarks.inside htdemucs --quick
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stemsplit.models import build
from stemsplit.models.fast.packed import PackedLinear
from tests.benchmarks import networks

ROFORMER: dict[str, Any] = {  # a quarter of the released one's blocks, for time's sake
    "stems": networks.SOURCES,
    "num_stems": 4,
    "stereo": True,
    "dim": 384,
    "depth": 3,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "segment_samples": 131072,
}
Variant = Callable[[Tensor], Tensor]


def plain(kind: str, quick: bool) -> nn.Module:
    """Our network with the benchmark's weights."""
    if kind == "bs_roformer":
        torch.manual_seed(0)
        small = {"dim": 32, "depth": 1} if quick else {}
        return build(kind, ROFORMER | small).eval()
    network = build(kind, networks.arguments_of(kind, quick)).eval()
    network.load_state_dict(networks.theirs(kind, quick).state_dict())
    return network


def variants(kind: str, quick: bool) -> dict[str, Variant]:
    """What is compared, the reference first."""
    found: dict[str, Variant] = {}
    if kind in networks.CLASSES:
        found["demucs"] = networks.theirs(kind, quick)
    ours: Any = plain(kind, quick)
    found["plain"] = ours.estimate
    for dtype in ours.precisions:
        prepared: Any = plain(kind, quick)
        found[f"prepared {str(dtype).removeprefix('torch.')}"] = prepared.prepare(dtype).estimate
    return found


def decibels(reference: Tensor, estimate: Tensor) -> float:
    """How far an estimate's error lies below its reference."""
    error = (reference.double() - estimate.double()).square().sum().clamp_min(1e-60)
    return float(10 * torch.log10(reference.double().square().sum() / error))


def timed(variant: Variant, mix: Tensor) -> tuple[Tensor, float, float]:
    """Its output, wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = variant(mix)
    return out, time.perf_counter() - wall, time.process_time() - cpu


def gemm_peak() -> dict[str, float]:
    """The fastest of ten products of large matrices through oneDNN, in FLOP per wall-clock and CPU second."""
    size = 2048
    layer = PackedLinear(torch.randn(size, size), None)
    x = torch.randn(size, size)
    times = [timed(layer, x)[1:] for _ in range(10)]
    return {
        name: 2 * size**3 / min(column)
        for name, column in zip(("wall", "cpu"), zip(*times, strict=True), strict=True)
    }


def operations(network: Any, mix: Tensor) -> int:
    """Floating-point operations of products and convolutions in one segment."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network.estimate(mix)
    return int(counter.get_total_flops())


@torch.inference_mode()
def measure(kind: str, quick: bool, rounds: int) -> dict[str, Any]:
    """Medians of alternated runs, and how well the outputs agree with the first variant's."""
    names = variants(kind, quick)
    network: Any = plain(kind, quick)
    samples = min(network.segment_samples, 10 * network.sample_rate)
    mix = torch.randn(1, 2, samples)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    agreement: dict[str, float] = {}
    peaks, reference = [gemm_peak()], None
    for turn in range(rounds + 1):
        for name, variant in names.items():
            out, *seconds = timed(variant, mix)
            if turn:
                times[name].append((seconds[0], seconds[1]))
                continue
            reference = out if reference is None else reference
            agreement[name] = decibels(reference, out)
        peaks.append(gemm_peak())
    return {
        "audio_s": samples / network.sample_rate,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "flop": operations(network, mix),
        "gemm_flop_per_s": {clock: max(peak[clock] for peak in peaks) for clock in ("wall", "cpu")},
        "variants": {
            name: {
                "wall_s": median(wall for wall, _ in runs),
                "cpu_s": median(cpu for _, cpu in runs),
                "agreement_db": agreement[name],
            }
            for name, runs in times.items()
        },
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps(measure(options.kind, options.quick, options.rounds)))


if __name__ == "__main__":
    main()

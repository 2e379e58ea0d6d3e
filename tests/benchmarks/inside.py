"""One segment through each variant of a network, in turn, in one process; prints JSON.

python -m tests.benchmarks.inside htdemucs --quick
"""

import argparse
import json
from statistics import median
from typing import Any

import torch
from torch import nn

from stemsplit.models import build
from tests.benchmarks import engines, networks
from tests.benchmarks.peaks import Variant, decibels, gemm_peak, operations, timed

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


def plain(kind: str, quick: bool) -> nn.Module:
    """Our network with the benchmark's weights."""
    if kind == "bs_roformer":
        torch.manual_seed(0)
        small = {"dim": 32, "depth": 1} if quick else {}
        return build(kind, ROFORMER | small).eval()
    network = build(kind, networks.arguments_of(kind, quick)).eval()
    network.load_state_dict(networks.theirs(kind, quick).state_dict())
    return network


def variants(kind: str, quick: bool, other: bool = False) -> dict[str, Variant]:
    """What is compared, the reference first."""
    found: dict[str, Variant] = {}
    if kind in networks.CLASSES:
        found["demucs"] = networks.theirs(kind, quick)
    ours: Any = plain(kind, quick)
    found["plain"] = ours.estimate
    for dtype in ours.precisions:
        prepared: Any = plain(kind, quick)
        found[f"prepared {str(dtype).removeprefix('torch.')}"] = prepared.prepare(dtype).estimate
    if other:
        found |= engines.variants(kind, quick)
    return found


@torch.inference_mode()
def measure(kind: str, quick: bool, rounds: int, other: bool = False) -> dict[str, Any]:
    """Medians of alternated runs, and how well the outputs agree with the first variant's."""
    names = variants(kind, quick, other)
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
        "flop": operations(network, samples),
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
    parser.add_argument("--engines", action="store_true", help="also ONNX Runtime and OpenVINO")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps(measure(options.kind, options.quick, options.rounds, options.engines)))


if __name__ == "__main__":
    main()

"""CPU time and memory of every family with the arguments of a released checkpoint and random weights.

`python -m tests.benchmarks.families` writes `families.json`, from which docs/performance.md has its table,
and `stemsplit/hub/costs.json`. The reference packages run in the environment that STEMSPLIT_ORACLES names,
with demucs 2.0.3 from the folder STEMSPLIT_DEMUCS2; without them, their columns stay empty. Every figure is
one process on one thread, run once.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.memory import peak_mb

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
    "bs_roformer": "bs_roformer_viperx",
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
# what a reference's constructor isn't given of our arguments
OWN = {"stems", "sample_rate", "segment_samples", "normalise", "overlap", "sources", "zero_dc"}


def ours(family: str) -> dict[str, float]:
    """Time a family in this process, on one chunk of its own length."""
    import torch

    from stemsplit.hub.registry import find_model
    from stemsplit.models import build
    from stemsplit.settings import DEFAULT_OVERLAP

    torch.manual_seed(0)
    torch.set_num_threads(1)
    arguments = find_model(CASES[family]).arguments if CASES[family] else DEMUCS.get(family, {})
    network = build(family, arguments).eval().prepare()
    samples = network.segment_samples
    chunk = 0.1 * torch.randn(1, network.channels, samples + 2 * network.context_samples)
    with torch.inference_mode():
        began = time.process_time()
        network(chunk)
        took = time.process_time() - began
    overlap = DEFAULT_OVERLAP if network.overlap is None else network.overlap
    return {
        "cpu_s": took,
        "chunk_s": samples / network.sample_rate,
        "memory_mb": peak_mb(),
        "realtime": samples / network.sample_rate * (1 - overlap) / took,
    }


DEMUCS: dict[str, dict[str, Any]] = {
    name: {"sources": ["drums", "bass", "other", "vocals"]}
    for name in ("htdemucs", "hdemucs", "demucs_v2", "tasnet")
}
DEMUCS["tasnet"]["X"] = 10  # layers of a block in the released networks


REFERENCES = {
    *("htdemucs", "hdemucs", "bs_roformer", "mel_band_roformer", "bs_conformer", "scnet", "mdx23c"),
    *("vr", "vr_v51", "bandit", "bandit_v2", "apollo", "demucs_v2", "tasnet", "openunmix", "mdx_net"),
}


def constructor_of(family: str) -> tuple[dict[str, Any], int, int] | None:
    """Return what the reference's constructor gets, channels and samples; None without a reference."""
    from dataclasses import asdict

    from stemsplit.hub.registry import find_model
    from stemsplit.models import build
    from stemsplit.models import family as class_of

    if family not in REFERENCES or (family in FIRST and "STEMSPLIT_DEMUCS2" not in os.environ):
        return None
    if family in DEMUCS:
        samples = build(family, DEMUCS[family]).segment_samples
        return DEMUCS[family], 2, samples
    found = class_of(family).Arguments(**find_model(CASES[family]).arguments)
    arguments = asdict(found)
    if family.startswith("vr"):
        keys = ("vr_model_param", "primary_stem", *(("nout", "nout_lstm") if family == "vr_v51" else ()))
        samples = build(family, find_model(CASES[family]).arguments).segment_samples
        return {"entry": {key: arguments[key] for key in keys}, "kilobytes": 123821}, 2, samples
    if family.startswith("bandit"):
        channels = {"in_channel": 1, "in_channels": 1, "stems": list(arguments["stems"])}
        return arguments | channels, 2, found.segment_samples
    if family == "openunmix":
        return arguments, 2, round(found.segment_s * found.sample_rate)
    if family == "mdx_net":
        sizes = ("dim_f", "dim_t", "n_fft", "num_blocks", "l", "g", "k", "bn", "bias")
        given = {key: arguments[key] for key in sizes} | {"hop_length": 1024}
        return given, 2, 1024 * (arguments["dim_t"] - 1)
    given = {key: value for key, value in arguments.items() if key not in OWN}
    if family == "mdx23c":
        keys = ("n_fft", "hop_length", "dim_f")
        audio = {key: given.pop(key) for key in keys} | {"num_channels": given.pop("audio_channels")}
        training = {"instruments": list(arguments["stems"]), "target_instrument": None}
        return {"audio": audio, "model": given, "training": training}, 2, found.segment_samples
    if family == "scnet":
        given["sources"] = list(arguments["sources"])
    if family == "apollo":
        return {key: given[key] for key in ("sr", "win", "feature_dim", "layer")}, 2, found.segment_samples
    kept = {key: value for key, value in given.items() if key not in VARIANTS}
    if family in ("bs_roformer", "bs_conformer"):
        kept["freqs_per_bands"] = tuple(kept["freqs_per_bands"])
    return kept, 2, found.segment_samples


FIRST = ("demucs_v2", "tasnet")  # of demucs 2.0.3, in the folder that STEMSPLIT_DEMUCS2 names
VARIANTS = {
    "use_shared_bias",
    "use_pope",
    "use_value_residual_learning",
    "siamese",
    "mask_estimator",
    "conv_dropout",
}


def reference(family: str) -> dict[str, float] | None:
    """Time the reference's network on one chunk, in its own environment."""
    python, known = os.environ.get("STEMSPLIT_ORACLES"), constructor_of(family)
    if not python or known is None:
        return None
    constructor, channels, samples = known
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(constructor, file)
        file.flush()
        program = HERE / "family_reference.py"
        command = [python, str(program), family, file.name, str(channels), str(samples)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{family}: no reference ({done.stderr.strip().splitlines()[-1]})", file=sys.stderr)
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(family: str) -> dict[str, Any]:
    """Time a family, then its reference, if there is one."""
    command = [sys.executable, "-m", "tests.benchmarks.families", family]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    own: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    theirs = reference(family) or {}
    return own | {f"reference_{key}": value for key, value in theirs.items()}


def main() -> None:
    """Measure all families, or print the figures of one."""
    if len(sys.argv) > 1:
        print(json.dumps(ours(sys.argv[1])))
        return
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if "model name" in line), "")
    found: dict[str, Any] = {"cpu": cpu, "families": {}}
    for family in CASES:
        found["families"][family] = measured(family)
        print(family, found["families"][family], file=sys.stderr)
        RESULT.write_text(json.dumps(found, indent=1) + "\n")
    costs = {
        name: [round(one["memory_mb"], -1), round(one["realtime"], 2)]
        for name, one in found["families"].items()
    }
    COSTS.write_text(json.dumps({"cpu": cpu, "families": costs}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Write the goldens of the Demucs families that have branches, and how near the demucs package comes to them.

A golden is to be made anew only where a family's mathematics changes on purpose, with demucs installed:
`python tests/data/goldens/make_demucs.py`. LayerScales are those of a trained network, for the initial ones
would hide what they scale.
"""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from stemsplit.models import build

SAMPLES = 1200
CLASSES = {"htdemucs": "HTDemucs", "hdemucs": "HDemucs"}
COMMON: dict[str, Any] = {
    "sources": ["a", "b"],
    "channels": 4,
    "nfft": 256,
    "samplerate": 8000,
    "segment": 0.15,
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "htdemucs": COMMON
    | {"depth": 2, "dconv_mode": 3, "dconv_comp": 4, "bottom_channels": 16, "t_layers": 3, "t_heads": 2},
    "hdemucs": COMMON
    | {
        "channels": 8,
        "growth": 1,
        "depth": 4,
        "dconv_comp": 2,
        "dconv_attn": 2,
        "dconv_lstm": 2,
        "norm_starts": 2,
    },
}


def decibels(reference: Tensor, estimate: Tensor) -> float:
    """How far the estimate's error lies below the reference."""
    error = (reference - estimate).double().square().sum()
    return float(10 * torch.log10(reference.double().square().sum() / error))


@torch.inference_mode()
def write(name: str, seed: int = 0) -> None:
    """tests/data/goldens/<name>.safetensors."""
    torch.manual_seed(seed)
    network = build(name, ARGUMENTS[name]).eval()
    for key, parameter in network.named_parameters():
        if key.endswith(".scale"):
            parameter.uniform_(0.1, 0.4)
    mix = 0.1 * torch.randn(1, network.channels, SAMPLES)
    output = network.estimate(mix)
    demucs = getattr(importlib.import_module(f"demucs.{name}"), CLASSES[name])(**ARGUMENTS[name]).eval()
    demucs.load_state_dict(network.state_dict())
    metadata = {
        "family": name,
        "arguments": json.dumps(ARGUMENTS[name]),
        "seed": str(seed),
        "demucs_4.1.0_agrees_to_db": f"{decibels(demucs(mix), output):.1f}",
    }
    tensors = {f"weights/{key}": value.clone() for key, value in network.state_dict().items()}
    path = Path(__file__).with_name(f"{name}.safetensors")
    save_file(tensors | {"input": mix, "output": output.contiguous()}, path, metadata)


if __name__ == "__main__":
    for wanted in ARGUMENTS:
        write(wanted)

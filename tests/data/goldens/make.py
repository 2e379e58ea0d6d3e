"""Write a golden per family: weights, input and output of a small network, as the present code computes them.

A golden is to be made anew only where a family's mathematics changes on purpose:
`python tests/data/goldens/make.py [NAME ...]`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from stemsplit.models import build

SAMPLES = 1200
ROFORMER = {
    "stems": ["a", "b"],
    "num_stems": 2,
    "stereo": True,
    "dim": 8,
    "depth": 2,
    "time_transformer_depth": 1,
    "freq_transformer_depth": 1,
    "heads": 2,
    "dim_head": 6,
    "stft_n_fft": 64,
    "stft_win_length": 64,
    "stft_hop_length": 14,
    "mlp_expansion_factor": 1,
}
SCNET = {
    "sources": ["a", "b"],
    "dims": [4, 6, 8],
    "nfft": 128,
    "win_size": 128,
    "hop_size": 32,
    "num_dplayer": 2,
}
MDX23C = {
    "stems": ["a", "b"],
    "n_fft": 128,
    "hop_length": 32,
    "dim_f": 48,
    "num_subbands": 3,
    "num_channels": 4,
    "growth": 2,
    "num_scales": 2,
    "num_blocks_per_scale": 1,
    "bottleneck_factor": 2,
}
MDX_NET = {
    "n_fft": 64,
    "hop_length": 16,
    "dim_f": 24,
    "dim_t": 76,
    "num_blocks": 5,
    "l": 2,
    "g": 4,
    "bn": 3,
}
BANDIT = {
    "stems": ["a", "b"],
    "n_bands": 4,
    "n_sqm_modules": 1,
    "emb_dim": 6,
    "rnn_dim": 5,
    "mlp_dim": 7,
    "n_fft": 64,
    "win_length": 60,
    "hop_length": 16,
}
BANDS = [2, 3, 4, 8, 16]
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bandit": ("bandit", BANDIT | {"rnn_type": "LSTM"}),
    "bandit_v2": ("bandit_v2", BANDIT),
    "bs_roformer": ("bs_roformer", ROFORMER | {"freqs_per_bands": BANDS}),
    "bsrnn": ("bsrnn", {"bands": BANDS, "n_fft": 64, "hop": 16, "width": 8, "modules": 1}),
    "mask_transformer": (
        "mask_transformer",
        {
            "n_fft": 64,
            "hop": 32,
            "window_trim": 1,
            "heads": 3,
            "hidden": 16,
            "layers": 1,
            "segment_samples": SAMPLES,
            "attention": "consecutive",
            "rmse": True,
            "zcr": True,
        },
    ),
    "mdx23c": ("mdx23c", MDX23C),
    "mdx_kuielab": (
        "mdx_kuielab",
        {"networks": {"a": MDX_NET, "b": MDX_NET | {"norm": "gn"}}, "folded": False},
    ),
    "mdx_net": ("mdx_net", MDX_NET | {"bias": True}),
    "mel_band_roformer": ("mel_band_roformer", ROFORMER | {"num_bands": 5}),
    "scnet": ("scnet", SCNET),
}


def write(name: str, seed: int = 0) -> None:
    """tests/data/goldens/<name>.safetensors."""
    torch.manual_seed(seed)
    family, arguments = FAMILIES[name]
    network = build(family, arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():  # what starts at zero or one would hide mistakes
            parameter.add_(0.1 * torch.randn_like(parameter))
        mix = torch.randn(1, network.channels, SAMPLES)
        output = network.estimate(mix)
    tensors = {f"weights/{key}": value.clone() for key, value in network.state_dict().items()}
    metadata = {"family": family, "arguments": json.dumps(arguments), "seed": str(seed)}
    save_file(
        tensors | {"input": mix, "output": output.contiguous()},
        Path(__file__).with_name(f"{name}.safetensors"),
        metadata,
    )


if __name__ == "__main__":
    for wanted in sys.argv[1:] or FAMILIES:
        write(wanted)

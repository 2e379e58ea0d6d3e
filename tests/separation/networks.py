"""Small networks of real families that differ in rate, channels, segment, context and normalisation."""

from pathlib import Path
from typing import Any

import torch

from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from stemsplit.models.network import Network

FOUR = ["drums", "bass", "other", "vocals"]
HYBRID = {"channels": 8, "bottom_channels": 16, "t_layers": 1, "t_heads": 2, "nfft": 1024, "depth": 4}
ROFORMER = {
    "stereo": True,
    "dim": 8,
    "depth": 1,
    "heads": 2,
    "dim_head": 4,
    "stft_n_fft": 512,
    "stft_win_length": 512,
    "stft_hop_length": 256,
    "mlp_expansion_factor": 1,
    "freqs_per_bands": [2, 7, 8, 16, 32, 64, 128],
}
UMX = {
    "hidden_size": 16,
    "max_bin": 200,
    "n_fft": 1024,
    "n_hop": 256,
    "sample_rate": 48_000,
    "segment_s": 3.0,
}
TASNET = {"N": 16, "B": 8, "H": 8, "X": 2, "R": 1}
# With random weights they make stems out of noise, which suffices for these tests.
SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "htdemucs": ("htdemucs", HYBRID | {"sources": FOUR, "segment": 2.0}),
    "bs_roformer": (
        "bs_roformer",
        ROFORMER | {"stems": ["vocals"], "num_stems": 1, "segment_samples": 60_000},
    ),
    "openunmix": ("openunmix", UMX | {"targets": ["vocals", "bass"], "sample_rate": 48_000}),
    "mono16k": (
        "tasnet",
        TASNET
        | {
            "sources": ["vocals", "other"],
            "audio_channels": 1,
            "samplerate": 16_000,
            "segment_length": 40_000,
        },
    ),
    "parts": (
        "bs_roformer",
        ROFORMER | {"stems": ["lead", "backing"], "num_stems": 2, "segment_samples": 50_000},
    ),
    "room": ("htdemucs", HYBRID | {"sources": ["dry", "reverb"], "segment": 1.5}),
}


RATES = {
    "bs_roformer": "sample_rate",
    "openunmix": "sample_rate",
    "htdemucs": "samplerate",
    "tasnet": "samplerate",
}


def small(name: str, slower: int = 1) -> Network:
    """Return a network with fixed random weights, on request for audio of a lower rate in as long chunks."""
    torch.manual_seed(sorted(SMALL).index(name))
    family, arguments = SMALL[name]
    changed = {RATES[family]: arguments.get(RATES[family], 44_100) // slower}
    if "segment" in arguments:  # in seconds
        changed["segment"] = arguments["segment"] * slower
    return build(family, arguments | changed).eval()


def save_quick(path: Path) -> Path:
    """Save a network of four stems that takes little time, and return its path."""
    save_package(path, build("tasnet", TASNET | {"sources": FOUR}))
    return path


def save_small(folder: Path, slower: int = 1) -> dict[str, Path]:
    """Save the checkpoints of all small networks and return their paths."""
    paths = {name: folder / f"{name}.safetensors" for name in SMALL}
    for name, path in paths.items():
        save_package(path, small(name, slower))
    return paths

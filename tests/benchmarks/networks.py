"""Checkpoints of demucs with random weights, which both programs can read.

LayerScales are those of trained networks: at their initial values they would hide what they scale.
"""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import nn

RELEASED = Path(__file__).parents[1] / "data/released/demucs"
KINDS = {"htdemucs": "955717e8", "hdemucs": "75fc33f5"}
CLASSES = {"htdemucs": "HTDemucs", "hdemucs": "HDemucs", "demucs": "Demucs"}
SMALL: dict[str, dict[str, Any]] = {
    "htdemucs": {"channels": 8, "bottom_channels": 32, "t_layers": 3, "t_heads": 2},
    "hdemucs": {"channels": 8},
    "demucs": {"channels": 8},
}
SOURCES = ["drums", "bass", "other", "vocals"]


def arguments_of(kind: str, quick: bool) -> dict[str, Any]:
    """Of the released network, or of a small one: of `Demucs`, which was never released, the defaults."""
    arguments: dict[str, Any] = {"sources": SOURCES, "segment": 10}
    if kind in KINDS:
        release = json.loads((RELEASED / f"{KINDS[kind]}.json").read_text())
        arguments = release["arguments"] | {"segment": Fraction(release["segment"])}
    if kind == "hdemucs":
        arguments["segment"] = 44 if not quick else 10
    return arguments | (SMALL[kind] if quick else {})


def theirs(kind: str, quick: bool, seed: int = 0) -> nn.Module:
    """The demucs package's network."""
    from importlib import import_module

    torch.manual_seed(seed)
    network: nn.Module = getattr(import_module(f"demucs.{kind}"), CLASSES[kind])(**arguments_of(kind, quick))
    for name, parameter in network.named_parameters():
        if name.endswith(".scale"):
            parameter.data.uniform_(0.1, 0.4)
    return network.eval()


def write(kind: str, quick: bool, path: Path, seed: int = 0) -> None:
    """Save one as demucs saves its own, in half precision."""
    network = theirs(kind, quick, seed)
    arguments, keywords = network._init_args_kwargs
    state = {name: value.half() for name, value in network.state_dict().items()}
    content = {"klass": type(network), "args": arguments, "kwargs": keywords, "state": state}
    torch.save(content | {"training_args": {}}, path)

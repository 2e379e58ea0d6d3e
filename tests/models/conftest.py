"""References that the tests of families compare with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.models import build, family
from stemsplit.models.network import Network

DEMUCS_CLASSES = {"demucs": "Demucs", "hdemucs": "HDemucs", "htdemucs": "HTDemucs"}
DEMUCS_RELEASES = Path(__file__).parents[1] / "data/released/demucs"


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[int]]]:
    """Flatten nested names of tensors, with their shapes."""
    for name, child in tree.items():
        if isinstance(child, Mapping):
            yield from leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


@pytest.fixture(scope="session")
def demucs_release() -> Callable[[str], dict[str, Any]]:
    """Contents of a released checkpoint of the Demucs families: its `arguments`, and `shapes` by name."""

    def load(name: str) -> dict[str, Any]:
        signature, _, variant = name.partition(":")
        release: dict[str, Any] = json.loads((DEMUCS_RELEASES / f"{signature}.json").read_text())
        release["shapes"] = dict(leaves(release["tree"]))
        if "arguments" in release:
            release["arguments"] |= release["variants"].get(variant, {})
            release["arguments"]["segment"] = Fraction(release["segment"])
        return release

    return load


@pytest.fixture(scope="session")
def demucs_twins() -> Callable[[str, dict[str, Any]], tuple[nn.Module, Network]]:
    """The demucs package's network and ours with the same random weights.

    Every LayerScale is as large as in a trained network; the initial ones would hide the branches.
    """

    def make(name: str, arguments: dict[str, Any]) -> tuple[nn.Module, Network]:
        reference = pytest.importorskip(f"demucs.{name}")
        torch.manual_seed(0)
        theirs: nn.Module = getattr(reference, DEMUCS_CLASSES[name])(**arguments).eval()
        for key, parameter in theirs.named_parameters():
            if key.endswith(".scale"):
                parameter.data.uniform_(0.1, 0.4)
        ours = build(name, arguments).eval()
        ours.load_state_dict(theirs.state_dict())
        return theirs, ours

    return make


@pytest.fixture(scope="session")
def demucs_signature() -> Callable[[str], tuple[list[Any], list[Any]]]:
    """Names and defaults of the demucs package's constructor, and of our `Arguments`, in order."""
    import inspect
    from dataclasses import MISSING, fields

    def plain(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    def read(name: str) -> tuple[list[Any], list[Any]]:
        theirs = inspect.signature(getattr(pytest.importorskip(f"demucs.{name}"), DEMUCS_CLASSES[name]))
        ours = fields(family(name).Arguments)
        return (
            [(p.name, plain(p.default)) for p in theirs.parameters.values() if p.default is not p.empty],
            [(field.name, plain(field.default)) for field in ours if field.default is not MISSING],
        )

    return read


@pytest.fixture(scope="session")
def demucs2(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Tensor]]:
    """Separate tracks [C, T] with demucs 2.0.3, given its network's name, arguments and weights."""
    folder = os.environ.get("STEMSPLIT_DEMUCS2", "")
    if not Path(folder, "demucs").is_dir():
        pytest.skip(
            "STEMSPLIT_DEMUCS2 names no folder filled by pip install --no-deps --target … demucs==2.0.3"
        )
    program = Path(__file__).parents[1] / "data/references/demucs2.py"

    def separate(
        network: str, arguments: dict[str, Any], state: dict[str, Tensor], tracks: list[Tensor]
    ) -> list[Tensor]:
        place = tmp_path_factory.mktemp("demucs2")
        job = {"network": network, "arguments": arguments, "state": state, "tracks": tracks}
        torch.save(job, place / "job")
        subprocess.run([sys.executable, program, folder, place / "job", place / "result"], check=True)
        stems: list[Tensor] = torch.load(place / "result", weights_only=True)
        return stems

    return separate


@pytest.fixture(scope="session")
def trained() -> Callable[[nn.Module], None]:
    """Give a time-domain network weights of realistic size, so that every one changes the output."""

    @torch.no_grad()
    def randomise(network: nn.Module) -> None:
        for key, value in network.named_parameters():
            if key.endswith((".scale", "query_decay.bias")):
                value.uniform_(0.1, 0.4)
            elif value.squeeze().dim() > 1:
                value.normal_(0, 1.3 / value[0].numel() ** 0.5)
            elif key.endswith(("weight", "gamma")) and value.numel() > 1:
                value.uniform_(0.6, 1.4)
            else:
                value.normal_(0, 0.1)

    return randomise


@pytest.fixture(scope="session")
def music() -> Callable[[int], Tensor]:
    """A stereo track [2, T] of swelling notes, panned differently, over noise."""

    def play(samples: int) -> Tensor:
        time = torch.arange(samples) / 44100
        audio = 0.02 * torch.randn(2, samples) + 0.003
        for step in range(12):
            swell = torch.sin(2 * torch.pi * (0.3 + 0.1 * step) * time).square()
            audio += 0.05 * torch.rand(2, 1) * swell * torch.sin(2 * torch.pi * 80 * 1.45**step * time)
        return audio

    return play

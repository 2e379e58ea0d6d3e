"""The published files of Demucs 2 and 3, Conv-TasNet and Open-Unmix fit: names and shapes of tensors."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from stemsplit.models import build
from stemsplit.models.network import Network

Release = dict[str, Any]
FILES = sorted((Path(__file__).parents[1] / "data/released/waveform").glob("*.json"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def release(request: pytest.FixtureRequest) -> Release:
    found: Release = json.loads(request.param.read_text())
    return found


def outline(release: Release) -> Network:
    with torch.device("meta"):
        return build(release["family"], release["arguments"])


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, list[int]]]:
    for name, child in tree.items():
        if isinstance(child, dict):
            yield from leaves(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", child


def test_tensors_are_those_of_the_published_file(release: Release) -> None:
    state = outline(release).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == dict(leaves(release["tree"]))


def test_chunks_are_as_long_as_published(release: Release) -> None:
    seconds = {"openunmix": 80, "tasnet": 8, "demucs_v2": 40}
    network = outline(release)
    expected = release["arguments"].get("segment", seconds.get(release["family"]))
    assert network.segment_samples == expected * network.sample_rate
    assert network.normalise == (release["family"] != "openunmix")


def test_stems_and_audio_are_those_of_the_model(release: Release) -> None:
    network, speech = outline(release), "speech" in str(release["arguments"])
    assert (network.sample_rate, network.channels) == ((16000, 1) if speech else (44100, 2))
    assert set(network.stems) == ({"speech", "noise"} if speech else {"drums", "bass", "other", "vocals"})

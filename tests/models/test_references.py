"""Whole tracks come out as openunmix 1.3.0 and demucs 2.0.3 separate them (data/references/make.py)."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from stemsplit.core.stream import separate_array
from stemsplit.models import build
from stemsplit.models.network import Network

Reference = tuple[Network, Tensor, Tensor]
# The references are in float32, 118 dB and more from what float64 gives, and every CPU rounds in its own way.
AGREEMENT_DB = 110


@pytest.fixture(
    params=sorted((Path(__file__).parents[1] / "data/references").glob("*.safetensors")),
    ids=lambda path: path.stem,
)
def reference(request: pytest.FixtureRequest) -> Reference:
    """A network with the reference's weights, the track and its stems."""
    with safe_open(request.param, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    mix, stems = tensors.pop("mix"), tensors.pop("stems")
    network = build(metadata["family"], json.loads(metadata["arguments"]))
    network.overlap = float(metadata["overlap"]) if "overlap" in metadata else network.overlap
    network.load_state_dict({key.removeprefix("weights/"): value for key, value in tensors.items()})
    return network.eval(), mix, stems


def test_the_stems_are_those_of_the_reference(
    reference: Reference, decibels: Callable[[Tensor, Tensor], float]
) -> None:
    network, mix, stems = reference
    found = separate_array(network, mix)
    constant = stems.mean(dim=-1, keepdim=True)  # which would flatter the ratio
    assert decibels(stems - constant, found - constant) >= AGREEMENT_DB


def test_each_stem_is_that_of_the_reference_by_itself(
    reference: Reference, decibels: Callable[[Tensor, Tensor], float]
) -> None:
    network, mix, stems = reference
    last = network.stems[-1]
    network.select([last])
    found = separate_array(network, mix)
    assert network.stems == (last,)
    assert decibels(stems[-1:], found) >= AGREEMENT_DB


def test_the_references_tell_their_stems_apart(reference: Reference) -> None:
    _, mix, stems = reference
    assert stems.shape[1:] == mix.shape
    levels = stems.std(dim=(1, 2))
    assert levels.min() > 0.01
    differences = (stems[:, None] - stems[None]).std(dim=(2, 3))
    assert (differences + differences.max() * torch.eye(len(stems))).min() > 0.3 * levels.min()

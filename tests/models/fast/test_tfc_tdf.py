"""TFC-TDF blocks in tiles compute what the plain ones do."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit.models import build
from stemsplit.models.fast import tfc_tdf, winograd
from stemsplit.models.network import Network
from tests.models.test_contract import MDX23C, noise

Decibels = Callable[[Tensor, Tensor], float]


def networks(**more: Any) -> tuple[Network, Network, Tensor]:
    """A network, the same one prepared, and a batch of chunks."""
    found = []
    for _ in range(2):
        torch.manual_seed(0)
        network = build("mdx23c", MDX23C | {"num_blocks_per_scale": 2} | more).eval()
        for value in network.parameters():
            if value.dim() == 1:  # factors and offsets of normalisations
                value.data.uniform_(0.5, 1.5)
        found.append(network)
    return found[0], found[1].prepare(), noise(found[0], found[0].segment_samples, batch=2)


@pytest.mark.parametrize("act", ["gelu", "relu", "elu0.5"])
@pytest.mark.parametrize("block", [1, 500, 2**22])
@torch.inference_mode()
def test_a_prepared_network_computes_the_same(
    act: str, block: int, decibels: Decibels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(winograd, "BLOCK_BYTES", block)
    monkeypatch.setattr(tfc_tdf, "TILE_BYTES", block)
    plain, prepared, mix = networks(act=act)
    before = mix.clone()
    assert decibels(plain(mix), prepared(mix)) >= 105
    assert torch.equal(mix, before)


@pytest.mark.parametrize("norm", ["BatchNorm", "GroupNorm2", None])
@torch.inference_mode()
def test_other_normalisations_stay_as_they_are(norm: str | None) -> None:
    plain, prepared, mix = networks(norm=norm)
    assert torch.equal(plain(mix), prepared(mix))


@torch.inference_mode()
def test_means_far_from_zero_keep_their_precision(
    decibels: Decibels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tfc_tdf, "TILE_BYTES", 20_000)
    norm = torch.nn.InstanceNorm2d(6, affine=True)
    x = (30 + torch.randn(2, 6, 64, 64)).contiguous(memory_format=torch.channels_last)
    activated = tfc_tdf.Activated(norm, torch.nn.Identity())
    expected = torch.nn.functional.instance_norm(x.double())
    assert decibels(expected, activated(x, activated.affine(x))) >= 105

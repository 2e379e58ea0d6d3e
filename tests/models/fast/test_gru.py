"""The packed GRU computes what PyTorch's does."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stemsplit.models import build
from stemsplit.models.fast.gru import PackedGRU
from tests.models.test_contract import BANDIT, noise

Decibels = Callable[[Tensor, Tensor], float]


@pytest.mark.parametrize(("sequences", "steps"), [(1, 1), (3, 40), (40, 3)])
@pytest.mark.parametrize("contiguous", [True, False])
@torch.inference_mode()
def test_states(sequences: int, steps: int, contiguous: bool, decibels: Decibels) -> None:
    torch.manual_seed(0)
    gru = nn.GRU(6, 10, batch_first=True, bidirectional=True)
    x = 3 * torch.randn(sequences, steps, 6)
    if not contiguous:
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    expected, before = gru(x)[0], x.clone()
    assert decibels(expected, PackedGRU(gru)(x)[0]) >= 115
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["GRU", "LSTM"])
@torch.inference_mode()
def test_only_grus_are_replaced(kind: str, decibels: Decibels) -> None:
    network = build("bandit", BANDIT | {"rnn_type": kind}).eval()
    mix = noise(network, network.segment_samples)
    expected = network(mix)
    assert decibels(expected, network.prepare()(mix)) >= 110
    kinds = {type(module) for module in network.modules()} & {PackedGRU, nn.GRU, nn.LSTM}
    assert kinds == ({PackedGRU} if kind == "GRU" else {nn.LSTM})

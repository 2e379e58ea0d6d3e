from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit.models import build
from stemsplit.models.network import Network
from stemsplit.reading import Invalid
from stemsplit.training.adapters import (
    Adapter,
    add_adapters,
    freeze,
    merged_state,
    recompute_activations,
    training_mode,
)
from stemsplit.training.criterion import Criterion
from stemsplit.training.learning import LoraConfig, LossConfig, OptimConfig
from stemsplit.training.optim import Ema, build_optimizer
from stemsplit.training.rng import generator
from tests.training.cases import CASES


def adapted(family: str, arguments: dict[str, Any], **lora: Any) -> tuple[Network, Network]:
    """Return a network without adapters, and one of the same weights with them."""
    torch.manual_seed(0)
    plain = build(family, arguments)
    network = build(family, arguments)
    network.load_state_dict(plain.state_dict())
    add_adapters(network, LoraConfig(**{"rank": 1, **lora}), 7)
    return plain, network


def audio(network: Network, stems: bool) -> Tensor:
    shape = (2, len(network.stems), network.channels) if stems else (2, network.channels)
    samples = network.padded_samples(network.segment_samples)
    return 0.2 * torch.randn(*shape, samples, generator=generator(3))


def step(network: Network, optimizer: torch.optim.Optimizer, times: int) -> list[float]:
    """Return the loss before each of some steps, and after the last."""
    target, criterion = audio(network, True), Criterion(LossConfig(), network.stems)
    losses = []
    training_mode(network)
    for turn in range(times + 1):
        torch.manual_seed(0)
        loss, _ = criterion(network, target.sum(1), target)
        losses.append(loss.item())
        if turn < times:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return losses


@pytest.mark.parametrize(("family", "arguments"), CASES)
def test_adapters_of_every_family(
    family: str, arguments: dict[str, Any], decibels: Callable[[Tensor, Tensor], float]
) -> None:
    plain, network = adapted(family, arguments)
    mix = audio(network, True).sum(1)
    with torch.no_grad():
        assert decibels(plain.eval().estimate(mix), network.eval().estimate(mix)) >= 120
    state = network.state_dict().items()
    frozen = {name: value.clone() for name, value in state if not name.endswith((".up", ".down"))}
    losses = step(network, build_optimizer(network, OptimConfig(lr=1e-3)), 2)
    assert losses[2] < losses[0]
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert any(after[name].any() for name in after if name.endswith(".up"))

    merged = merged_state(network)
    assert list(merged.keys() ^ plain.state_dict().keys()) == []
    changed = [name for name, value in plain.state_dict().items() if not torch.equal(value, merged[name])]
    assert changed
    plain.load_state_dict(merged)
    with torch.no_grad():
        assert decibels(network.eval().estimate(mix), plain.estimate(mix)) >= 120


def test_an_adapter_by_hand() -> None:
    adapter = Adapter((2, 3), 1, 4.0, generator(0))
    adapter.down.data, adapter.up.data = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0], [-1.0]])
    expected = torch.tensor([[5.0, 9.0, 13.0], [-3.0, -7.0, -11.0]])
    assert torch.equal(adapter(torch.ones(2, 3)), expected)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 6, 3)
        self.back = nn.ConvTranspose2d(8, 6, (3, 2), groups=2)
        self.attention = nn.MultiheadAttention(8, 2)
        self.tiny = nn.Linear(2, 1)
        self.norm = nn.BatchNorm1d(6)


def test_patterns_choose_layers() -> None:
    network = Net()
    add_adapters(network, LoraConfig(2, layers=("conv", "attention*")), 1)
    trained = {name: tuple(p.shape) for name, p in network.named_parameters() if p.requires_grad}
    assert trained == {
        "conv.parametrizations.weight.0.down": (2, 24),
        "conv.parametrizations.weight.0.up": (6, 2),
        "attention.parametrizations.in_proj_weight.0.down": (2, 8),
        "attention.parametrizations.in_proj_weight.0.up": (24, 2),
        "attention.out_proj.parametrizations.weight.0.down": (2, 8),
        "attention.out_proj.parametrizations.weight.0.up": (8, 2),
    }
    everything = Net()
    add_adapters(everything, LoraConfig(2), 1)
    names = {name for name, p in everything.named_parameters() if p.requires_grad}
    assert any(name.startswith("back.") for name in names) and not any("tiny" in name for name in names)


def test_adapters_depend_on_the_seed_and_their_name() -> None:
    def downs(seed: int) -> list[Tensor]:
        network = Net()
        add_adapters(network, LoraConfig(2), seed)
        return [p for name, p in network.named_parameters() if name.endswith("down")]

    assert all(torch.equal(a, b) for a, b in zip(downs(1), downs(1), strict=True))
    assert not torch.equal(downs(1)[0], downs(2)[0])


def test_what_cannot_be_adapted_is_refused() -> None:
    with pytest.raises(Invalid, match=r"layers.1: no linear or convolution layer is called encoder.\*"):
        add_adapters(Net(), LoraConfig(layers=("conv", "encoder.*")), 1)
    with pytest.raises(Invalid, match="rank: 99 is too large for the layers of this network"):
        add_adapters(Net(), LoraConfig(99), 1)


def test_frozen_parameters() -> None:
    network = Net()
    freeze(network, ("conv.*", "*.bias"))
    left = {name for name, p in network.named_parameters() if p.requires_grad}
    assert left == {"attention.in_proj_weight", "attention.out_proj.weight", "back.weight", "tiny.weight",
                    "attention.in_proj_bias", "norm.weight"}  # fmt: skip
    with pytest.raises(Invalid, match=r"freeze.0: no parameter is called encoder.\*"):
        freeze(network, ("encoder.*",))
    with pytest.raises(Invalid, match="freeze: leaves nothing to train"):
        freeze(network, ("*",))


def test_statistics_of_frozen_normalisation_stay() -> None:
    network = Net()
    training_mode(network)
    assert network.norm.training
    freeze(network, ("norm.*",))
    training_mode(network)
    assert not network.norm.training and network.conv.training


def test_averages_leave_out_what_is_frozen() -> None:
    network = Net()
    freeze(network, ("attention.*", "back.*"))
    average = Ema(network, 0.5)
    assert not any(name.startswith(("attention", "back")) for name in average.values)
    assert {"conv.weight", "norm.running_mean", "norm.num_batches_tracked"} <= average.values.keys()


@pytest.mark.parametrize(("family", "arguments"), CASES)
def test_recomputed_activations_give_the_same_gradients(family: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build(family, arguments)
    target, criterion = audio(network, True), Criterion(LossConfig(), network.stems)

    def gradients() -> dict[str, Tensor]:
        training_mode(network)
        network.zero_grad(set_to_none=True)
        torch.manual_seed(5)  # of dropout
        criterion(network, target.sum(1), target)[0].backward()
        return {n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None}

    before = gradients()
    recompute_activations(network)
    after = gradients()
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-7)

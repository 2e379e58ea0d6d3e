from importlib.util import find_spec
from math import sqrt
from typing import Any, get_args, get_type_hints

import pytest
import torch
from torch import nn

from stemsplit.models import build
from stemsplit.reading import Invalid
from stemsplit.training.learning import GroupConfig, OptimConfig, ScheduleConfig
from stemsplit.training.optim import (
    KINDS,
    Ema,
    build_optimizer,
    parameter_groups,
    schedule_factor,
    temporary_weights,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(2, 3)
        self.transformer = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)


def groups(*given: GroupConfig, **changes: Any) -> list[dict[str, Any]]:
    return parameter_groups(Net(), OptimConfig(groups=given, **changes))


def test_without_groups_all_trainable_parameters_are_one() -> None:
    (only,) = groups()
    assert [tuple(p.shape) for p in only["params"]] == [(3, 2), (3,), (3, 3), (3,), (1, 3), (1,)]


def test_the_transformer_has_its_own_settings() -> None:
    rest, transformer = groups(GroupConfig("transformer.*", weight_decay=0.05))
    assert len(rest["params"]) == 2 and "weight_decay" not in rest
    assert len(transformer["params"]) == 4 and transformer["weight_decay"] == 0.05 and "lr" not in transformer


def test_the_first_matching_group_counts_and_nothing_is_lost() -> None:
    found = groups(GroupConfig("transformer.1.*", lr=1e-5), GroupConfig("*", weight_decay=0.1))
    assert [len(group["params"]) for group in found] == [2, 4]
    assert found[0]["lr"] == 1e-5 and found[1]["weight_decay"] == 0.1


def test_a_group_that_matches_nothing_is_refused() -> None:
    with pytest.raises(Invalid, match=r"groups.1.match: no parameter is called encoder.\*"):
        groups(GroupConfig("conv.*"), GroupConfig("encoder.*"))
    with pytest.raises(Invalid, match=r"groups.1.match: earlier groups take all parameters called conv.\*"):
        groups(GroupConfig("*"), GroupConfig("conv.*"))


HTDEMUCS = {
    "sources": ["a", "b"],
    "channels": 8,
    "bottom_channels": 16,
    "t_layers": 1,
    "t_heads": 2,
    "nfft": 1024,
}


def of_htdemucs(*given: GroupConfig, **arguments: Any) -> list[dict[str, Any]]:
    """Return the settings and the number of parameters of each group of an HT Demucs."""
    network = build("htdemucs", {**HTDEMUCS, "segment": 1.0, **arguments})
    found = parameter_groups(network, OptimConfig(groups=given))
    assert sum(len(group["params"]) for group in found) == len(list(network.parameters()))
    return [{**group, "params": len(group["params"])} for group in found]


def test_a_network_has_settings_of_its_own() -> None:
    rest, transformer = of_htdemucs(t_lr=1e-5, t_weight_decay=0.05)
    assert set(rest) == {"params"}
    assert transformer == {"params": transformer["params"], "lr": 1e-5, "weight_decay": 0.05}
    assert transformer["params"] > 10
    assert [set(group) for group in of_htdemucs(t_layers=0)] == [{"params"}]


def test_the_configuration_overrides_the_network_s_settings() -> None:
    rest, transformer = of_htdemucs(
        GroupConfig("crosstransformer.*", lr=2e-4), t_lr=1e-5, t_weight_decay=0.05
    )
    assert set(rest) == {"params"}
    assert (transformer["lr"], transformer["weight_decay"]) == (2e-4, 0.05)
    rest, norms, transformer = of_htdemucs(GroupConfig("*.norm_in.*", lr=1e-6), t_weight_decay=0.05)
    assert (norms["lr"], norms["weight_decay"]) == (1e-6, 0.05)
    assert set(transformer) == {"params", "weight_decay"}


def test_optimisers_get_their_settings() -> None:
    config = OptimConfig(kind="adamw", lr=0.1, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2)
    optimiser = build_optimizer(Net(), config)
    assert isinstance(optimiser, torch.optim.AdamW)
    defaults = optimiser.param_groups[0]
    assert (defaults["lr"], defaults["betas"], defaults["eps"], defaults["weight_decay"]) == (
        0.1,
        (0.8, 0.95),
        1e-6,
        0.2,
    )
    assert type(build_optimizer(Net(), OptimConfig(kind="adam"))) is torch.optim.Adam


def test_the_table_of_kinds() -> None:
    assert set(KINDS) == set(get_args(get_type_hints(OptimConfig)["kind"]))


@pytest.mark.parametrize(("kind", "lr"), [("adamw8bit", 0.01), ("muon", 0.01), ("prodigy", 1.0)])
def test_kinds_of_other_libraries(kind: Any, lr: float) -> None:
    """A step of each where its library is installed; else an error that names the extra."""
    config = OptimConfig(kind=kind, lr=lr)
    library = KINDS[kind][0].partition(".")[0]
    if find_spec(library) is None:
        with pytest.raises(Invalid, match=rf"kind: {kind} needs {library}: pip install .*\[optim\]"):
            build_optimizer(Net(), config)
        return
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 128), nn.Conv1d(128, 32, 1), nn.LayerNorm(1))
    optimizer, before = build_optimizer(network, config), [p.clone() for p in network.parameters()]
    used = [*network[0].parameters(), *network[1].parameters()]
    torch.stack([(p * torch.randn_like(p)).sum() for p in used]).sum().backward()
    optimizer.step()
    moved = [not torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True)]
    assert moved == [True] * 4 + [False] * 2  # of those with a gradient
    assert all(group["lr"] == lr for group in optimizer.param_groups)
    if kind == "muon":
        # a step of orthogonal directions: unlike the gradient's, its singular values are alike
        values = torch.linalg.svdvals(before[0] - network[0].weight)
        assert values.min() > 0.5 * values.max()
        assert [len(group["params"]) for group in optimizer.param_groups] == [2, 4]
    if kind == "adamw8bit":
        assert optimizer.state[network[0].weight]["state1"].dtype == torch.uint8


def test_prodigy_refuses_a_learning_rate_for_other_optimisers() -> None:
    with pytest.raises(Invalid, match="lr: is a factor of the rate that prodigy estimates"):
        OptimConfig(kind="prodigy")


def factors(config: ScheduleConfig, steps: range, per_epoch: int = 10, total: int = 100) -> list[float]:
    return [schedule_factor(config, step, per_epoch, total) for step in steps]


def test_constant() -> None:
    assert set(factors(ScheduleConfig(), range(100))) == {1.0}


def test_decay_every_two_epochs() -> None:
    found = factors(ScheduleConfig(kind="decay", decay=0.98, every_epochs=2), range(0, 100, 10))
    assert found == pytest.approx([1, 1, 0.98, 0.98, 0.9604, 0.9604, 0.98**3, 0.98**3, 0.98**4, 0.98**4])
    assert factors(ScheduleConfig(kind="decay"), range(18, 22)) == pytest.approx([1, 1, 0.98, 0.98])


def test_noam_by_hand() -> None:
    config = ScheduleConfig(kind="noam", dimension=1025, warmup_steps=4000)
    values = factors(config, range(0, 16000))
    assert values[0] == pytest.approx(4000**-1.5 / sqrt(1025))
    assert values[3999] == pytest.approx(1 / sqrt(1025 * 4000)) and max(values) == values[3999]
    assert values[15999] == pytest.approx(values[3999] / 2)


def test_cosine_with_warm_up() -> None:
    config = ScheduleConfig(kind="cosine", warmup_steps=4, least=0.1)
    values = factors(config, range(0, 105), total=104)
    assert values[:4] == [0.25, 0.5, 0.75, 1.0] and values[4] == pytest.approx(1)
    assert values[54] == pytest.approx(0.55) and values[104] == pytest.approx(0.1)
    assert values[4:] == sorted(values[4:], reverse=True)


def test_the_average_by_hand() -> None:
    net = nn.Linear(1, 1, bias=False)
    net.weight.data.fill_(100.0)
    average = Ema(net, 0.5)
    for value in (1.0, 2.0, 4.0):
        net.weight.data.fill_(value)
        average.update(net)
    # (4 + 2/2 + 1/4) / (1 + 1/2 + 1/4); what the network began with has no weight
    assert average.values["weight"].item() == pytest.approx(5.25 / 1.75)
    assert net.weight.item() == 4.0


def test_the_average_keeps_running_statistics() -> None:
    net = nn.BatchNorm1d(1)
    average = Ema(net, 0.5)
    for value in (1.0, 4.0):
        net(torch.full((8, 1), value))
        average.update(net)
    assert average.values["num_batches_tracked"].item() == 2
    # running means 0.1, then 0.49; (0.49 + 0.1 / 2) / 1.5
    assert average.values["running_mean"].item() == pytest.approx(0.36)


def test_the_average_resumes_exactly() -> None:
    torch.manual_seed(1)
    net = Net()
    whole, first = Ema(net, 0.9), Ema(net, 0.9)
    for step in range(6):
        for parameter in net.parameters():
            parameter.data.normal_()
        whole.update(net)
        if step == 3:
            second = Ema(Net(), 0.9)
            second.load_state_dict(first.state_dict())
            first = second
        first.update(net)
    assert all(first.values[name].equal(value) for name, value in whole.values.items())


def test_temporary_weights_are_restored() -> None:
    net, other = Net(), Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameter = net.conv.weight
    with pytest.raises(RuntimeError, match="stop"), temporary_weights(net, other.state_dict()):
        assert net.conv.weight.equal(other.conv.weight) and net.conv.weight is parameter
        raise RuntimeError("stop")
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    net.conv.weight.data.zero_()
    assert other.conv.weight.any()

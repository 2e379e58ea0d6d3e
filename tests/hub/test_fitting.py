"""State dicts as training programs save them: in mappings, with prefixes, beside a trainer's tensors."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stemsplit import load_model, models
from stemsplit.errors import CheckpointError
from stemsplit.hub.checkpoints import convert
from stemsplit.hub.fitting import fit, flat
from tests.cli.test_stem_names import published
from tests.models.test_contract import FAMILIES

State = dict[str, Tensor]
Wrap = Callable[[State], dict[str, Any]]


def behind(prefix: str) -> Wrap:
    return lambda state: {prefix + key: value for key, value in state.items()}


def compiled_within(state: State) -> dict[str, Any]:
    """Rename like torch.compile of a part of the network."""
    return {key.replace("layers.0.", "layers._orig_mod.0.", 1): value for key, value in state.items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


OTHER = {"ema": torch.zeros(3), "exp_avg": torch.ones(2)}
WRAPS: dict[str, Wrap] = {
    "DataParallel": behind("module."),
    "torch.compile": behind("_orig_mod."),
    "both": behind("module._orig_mod."),
    "both the other way round": behind("_orig_mod.module."),
    "FSDP": behind("_fsdp_wrapped_module."),
    "a part compiled": compiled_within,
    "an average": behind("ema_model."),
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(7), **behind("module.")(s)},
    "an unheard-of prefix": behind("trainer.generator.net."),
    "in a mapping": lambda s: {"model": s, "epoch": 3, "lr": 0.1},
    "in mappings": lambda s: {"checkpoint": {"weights": behind("module.")(s)}, "args": {"dim": 3}},
    "beside its optimizer": lambda s: {
        "net": behind("module.")(s),
        "optimizer": {"state": {0: dict(OTHER)}, "param_groups": [{"lr": 1.0}]},
    },
    "Lightning": lambda s: {
        "state_dict": {
            **behind("model.")(s),
            "loss.weight": torch.ones(4),
            "val_metrics.total": torch.ones(1),
        },
        "optimizer_states": [{"state": {0: OTHER}}],
        "pytorch-lightning_version": "2.5.0",
        "callbacks": {"EMA": {"decay": torch.tensor(0.99)}},
    },
    "an average beside it": lambda s: {
        "ema": {k: v + 1 if v.is_floating_point() else v for k, v in s.items()},
        "model": s,
    },
    "an average in front of it": lambda s: {
        **{f"ema_model.{k}": v + 1 if v.is_floating_point() else v for k, v in s.items()},
        **behind("net_model.")(s),
    },
    "an average by another word": lambda s: {"emaModel": zeros(s), "avg_model": zeros(s), "model_state": s},
    "statistics of the same names": lambda s: {
        "optimizer": zeros(s),
        "exp_avg": zeros(s),
        "grads": zeros(s),
        "state_dict": behind("model.")(s),
    },
    "loss weights beside bare names": lambda s: {**s, "loss_weights": torch.ones(3), "epoch": 5},
}


@pytest.mark.parametrize("wrap", WRAPS.values(), ids=WRAPS)
def test_a_published_checkpoint_loads_however_it_is_wrapped(wrap: Wrap, tmp_path: Path) -> None:
    path = tmp_path / published(tmp_path, "m", ["Vocals", "Other"])
    state = torch.load(path, weights_only=True)
    torch.save(wrap(state), path)
    found = load_model(path).state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


def one_place_up(state: State) -> dict[str, Any]:
    """Number the layers like releases that skip the place of an unused linear transformer."""
    return {
        re.sub(r"^(layers\.\d+\.)(\d+)", lambda m: f"{m[1]}{int(m[2]) + 1}", key): value
        for key, value in state.items()
    }


@pytest.mark.parametrize("wrap", [behind("module."), one_place_up, lambda s: behind("net.")(one_place_up(s))])
def test_what_is_converted_loads_by_itself(wrap: Wrap, tmp_path: Path) -> None:
    path, target = tmp_path / published(tmp_path, "m", ["Vocals", "Other"]), tmp_path / "out.safetensors"
    state = torch.load(path, weights_only=True)
    torch.save(wrap(state), path)
    convert(path, target)
    found = load_model(target).state_dict()
    assert all(torch.equal(found[key], state[key]) for key in state)


def complaint(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: {**s, "refiner.weight": torch.ones(2)}, "unexpected refiner.weight"),
        (
            lambda s: behind("module.")({**s, "refiner.weight": torch.ones(2)}),
            "unexpected refiner.weight (its names begin with module.)",
        ),
        (
            lambda s: {**behind("model.")(s), "semantic_encoder.weight": torch.ones(2)},
            "unexpected semantic_encoder.weight (its names begin with model.)",
        ),
        (
            lambda s: behind("net.")(dict(list(s.items())[:-1])),
            "missing mask_estimators.1.to_freqs.2.0.2.bias (its names begin with net.)",
        ),
        (
            lambda s: {"state_dict": dict(list(s.items())[:-1]), "ema": s},
            "missing mask_estimators.1.to_freqs.2.0.2.bias (its names begin with state_dict/)",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_the_yaml_is_not_blamed(wrap: Wrap, said: str, tmp_path: Path) -> None:
    path = tmp_path / published(tmp_path, "m", ["Vocals", "Other"])
    torch.save(wrap(torch.load(path, weights_only=True)), path)
    reason = complaint(path)
    assert reason.startswith(f"{path}: its weights don't fit a bs_roformer: ") and reason.endswith(said)


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64])
def test_weights_that_are_no_floating_point_numbers(tmp_path: Path, kind: torch.dtype) -> None:
    path = tmp_path / published(tmp_path, "m", ["Vocals", "Other"])
    state = torch.load(path, weights_only=True)
    torch.save({key: value.to(kind) for key, value in state.items()}, path)
    name = str(kind).removeprefix("torch.")
    assert re.search(rf"its weights aren't floating-point numbers: \S+ is {name}$", complaint(path))


def test_tensors_of_no_known_network_are_named(tmp_path: Path) -> None:
    path = tmp_path / published(tmp_path, "m", ["Vocals", "Other"])
    torch.save({"module.conv.weight": torch.ones(2), "module.conv.bias": torch.ones(2)}, path)
    assert complaint(path).startswith(f"{path}: its tensors don't belong to a known network")
    assert "module.conv.weight" in complaint(path)


def test_a_mapping_that_holds_itself_ends(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"x": torch.ones(1)}
    loop["model"] = loop
    assert set(flat(loop)) >= {"x", "model/x"}


def test_nothing_at_all_fits() -> None:
    found = fit({"a.b": torch.ones(1)}, {"c"})
    assert found.prefix == "" and set(found.state) == {"a.b"}


@pytest.mark.parametrize(("name", "arguments"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_no_network_has_names_like_a_wrappers(name: str, arguments: dict[str, Any]) -> None:
    for key in models.build(name, arguments).state_dict():
        assert not any(part.startswith("_") for part in key.split(".")), key


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.float64])
def test_weights_that_are_not_finite_are_refused(value: float, kind: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / published(tmp_path, "m", ["Vocals", "Other"])
    state = torch.load(path, weights_only=True)
    state["final_norm.gamma"] = state["final_norm.gamma"].to(kind)
    state["final_norm.gamma"][5] = value
    torch.save(state, path)
    assert (
        complaint(path) == f"{path}: its weights are damaged: final_norm.gamma holds NaN or infinite values"
    )


def test_large_weights_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / published(tmp_path, "m", ["Vocals", "Other"])
    state = torch.load(path, weights_only=True)
    nn.init.constant_(state["final_norm.gamma"], torch.finfo(torch.float32).max)
    torch.save(state, path)
    load_model(path)

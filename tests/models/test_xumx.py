"""X-UMX equals asteroid's network, and Open-Unmix where the coupling changes nothing."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub.checkpoints import build_network, read_package
from stemsplit.models import build
from stemsplit.models.network import Network
from stemsplit.models.xumx import XUMXArguments
from tests.models.test_contract import UMX, XUMX
from tests.models.test_published_families import ZOO

Decibels = Callable[[Tensor, Tensor], float]

ASTEROID: dict[str, Any] = {
    "window_length": 64,
    "in_chan": 64,
    "n_hop": 16,
    "sample_rate": 1000,
    "sources": ["a", "b"],
    "hidden_size": 8,
    "nb_channels": 2,
    "input_mean": None,
    "input_scale": None,
    "max_bin": 20,
    "nb_layers": 3,
    "bidirectional": True,
    "spec_power": 1,
    "return_time_signals": False,
}
LAYERS = {
    "layer_enc.{}.enc.0": "fc1",
    "layer_enc.{}.enc.1": "bn1",
    "layer_lstm.{}": "lstm",
    "layer_dec.{}.dec.0": "fc2",
    "layer_dec.{}.dec.1": "bn2",
    "layer_dec.{}.dec.3": "fc3",
    "layer_dec.{}.dec.4": "bn3",
}


@torch.inference_mode()
def test_outputs_are_asteroids(decibels: Decibels) -> None:
    path = ZOO / "goldens/xumx.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    with safe_open(path, "pt") as file:
        constructor = json.loads(file.metadata()["constructor"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    arguments = XUMXArguments.from_config({"model": constructor})
    network = build("xumx", asdict(arguments) | {"niter": 0}).eval()
    network.load_state_dict({k.removeprefix("weights/"): v for k, v in tensors.items() if "/" in k})
    stems = network(tensors["input"])
    assert decibels(tensors["output"].transpose(0, 1), stems) >= 115
    network.select(["vocals"])
    assert "output_mean_bass" not in network.state_dict() and torch.equal(
        network(tensors["input"]), stems[:, 2:3]
    )


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{}, {"nb_channels": 1, "bidirectional": False, "max_bin": None}])
@torch.inference_mode()
def test_files_that_asteroid_saves_give_its_stems(
    changed: dict[str, Any],
    oracle: Callable[..., dict[str, Tensor]],
    tmp_path: Path,
    decibels: Decibels,
) -> None:
    asked = ASTEROID | changed | {"return_time_signals": True, "path": str(tmp_path / "pytorch_model.bin")}
    mix = torch.randn(2, asked["nb_channels"], 16 * 40)
    stems = oracle("xumx_asteroid.py", asked, mix=mix)["stems"]
    package = read_package(tmp_path / "pytorch_model.bin")
    network = build_network(replace(package, arguments={**package.arguments, "niter": 0}))
    assert decibels(stems, network.estimate(mix)) >= 110


@torch.inference_mode()
def test_equal_networks_are_open_unmix(decibels: Decibels) -> None:
    reference, ours = build("openunmix", UMX).eval(), build("xumx", XUMX).eval()
    for parameter in reference.parameters():
        parameter.uniform_(-0.4, 0.5)
    state = reference.state_dict()
    theirs = {key.removeprefix("targets.a."): value for key, value in state.items() if "targets.a." in key}
    reference.load_state_dict({f"targets.{s}.{key}": value for key, value in theirs.items() for s in "ab"})
    own = {}
    for stem in "ab":
        for pattern, layer in LAYERS.items():
            found = {key: value for key, value in theirs.items() if key.startswith(f"{layer}.")}
            own |= {pattern.format(stem) + key.removeprefix(layer): value for key, value in found.items()}
        for name in ("input_mean", "input_scale", "output_mean", "output_scale"):
            own[f"mean_scale.{name}_{stem}"] = theirs[name]
    ours.load_state_dict(own)
    mix = torch.randn(1, 2, 700)
    assert decibels(reference(mix), ours(mix)) >= 100


@torch.inference_mode()
def test_every_stem_hears_all_networks() -> None:
    network, mix = build("xumx", XUMX | {"niter": 0}).eval(), torch.randn(1, 2, 500)
    before = network(mix)
    state = network.state_dict()
    state["layer_enc.a.enc.0.weight"].mul_(3)
    assert not torch.equal(network(mix)[:, 1], before[:, 1])


def saved(path: Path, network: Network, arguments: dict[str, Any]) -> Path:
    windows = {"encoder.0.window": torch.hann_window(64), "decoder.window": torch.hann_window(64)}
    content = {
        "model_name": "XUMX",
        "state_dict": network.state_dict() | windows,
        "model_args": arguments,
        "infos": {"software_versions": {"torch_version": "1.9"}},
    }
    torch.save(content, path)
    return path


@torch.inference_mode()
def test_asteroids_files_load_by_path(tmp_path: Path) -> None:
    network = build("xumx", XUMX).eval()
    loaded = load_model(saved(tmp_path / "pytorch_model.bin", network, ASTEROID))
    mix = torch.randn(1, 2, 500)
    assert isinstance(loaded, Network) and torch.equal(loaded(mix), network(mix))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"spec_power": 2}, "spec_power"),
        ({"window_length": 32}, "window_length 32"),
        ({"max_bin": 34}, "max_bin 34"),
        ({"max_bin": 0}, "max_bin 0"),
        ({"hidden_size": 7}, "hidden_size 7"),
        ({"nb_channels": 3}, "nb_channels 3"),
        ({"sources": ["a"]}, "two sources"),
        ({"attention": True}, "attention"),
    ],
)
def test_what_the_network_does_not_have_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        XUMXArguments.from_config({"model": ASTEROID | changed})


@pytest.mark.parametrize("arguments", [None, 3, {"in_chan": "x"}, {"sources": 5}])
def test_malformed_arguments_of_a_file_are_refused(arguments: Any, tmp_path: Path) -> None:
    path = saved(tmp_path / "pytorch_model.bin", build("xumx", XUMX), arguments)
    with pytest.raises(CheckpointError):
        load_model(path)


def test_all_bins_are_seen_if_none_are_cut() -> None:
    assert XUMXArguments.from_config({"model": ASTEROID | {"max_bin": None}}).max_bin == 33

"""The first Wave-U-Net equals its graph in TensorFlow, from a checkpoint, and has the paper's sizes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit import load_model
from stemsplit.core.stream import separate_array
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.models import build
from stemsplit.models.first_wave_u_net import FirstWaveUNet, FirstWaveUNetArguments, interpolated, lengths
from stemsplit.models.network import Network
from tests.data.references.make_first_wave_u_net import CASES, asked
from tests.hub.bundles import bundle
from tests.models.test_contract import FIRST_WAVE_U_NET

Decibels = Callable[[Tensor, Tensor], float]


def test_the_network_has_the_papers_lengths() -> None:
    assert lengths(FirstWaveUNetArguments(), 16384) == (147_443, 16_389)  # table 1 and section 3.2.2
    with torch.device("meta"):
        network = build("first_wave_u_net", {})
    assert (network.segment_samples, network.context_samples) == (16_389, 65_527)


@pytest.mark.parametrize("least", [1, 2, 5, 6, 37, 100])
def test_the_context_is_the_same_for_all_lengths(least: int) -> None:
    a = FirstWaveUNetArguments(num_layers=3, filter_size=5, merge_filter_size=3)
    (taken, given), (one, other) = lengths(a, least), lengths(a, 1)
    assert given >= least and taken - given == one - other


def test_samples_are_put_between_others() -> None:
    x = torch.tensor([[[0.0, 4.0, 2.0]]])
    assert interpolated(x, 0.5).tolist() == [[[0, 2, 4, 3, 2]]]
    assert interpolated(x, torch.tensor([[0.25]])).tolist() == [[[0, 3, 4, 2.5, 2]]]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_checkpoints_of_tensorflow_give_the_stems_of_its_graph(
    name: str, oracle: Callable[..., dict[str, Tensor]], tmp_path: Path, decibels: Decibels
) -> None:
    mix = 0.3 * torch.randn(2, 777)
    arguments = {**asked(CASES[name]), "checkpoint": str(tmp_path)}
    stems = oracle("wave_u_net_tf.py", arguments, mix=mix)["stems"]
    (tmp_path / "model.yaml").write_text(f"family: first_wave_u_net\narguments: {CASES[name]}")
    network = load_model(tmp_path / "model.index")
    assert isinstance(network, Network)
    found = separate_array(network, mix)
    assert all(decibels(theirs, ours) >= 110 for theirs, ours in zip(stems, found, strict=True))


def written(folder: Path, arguments: dict[str, Any]) -> FirstWaveUNet:
    """Write a checkpoint of TensorFlow, and return its network."""
    network = build("first_wave_u_net", arguments).eval()
    assert isinstance(network, FirstWaveUNet)
    levels = network.arguments.num_layers
    tensors: dict[str, Tensor] = {"global_step": torch.tensor(7)}
    for name, value in network.state_dict().items():
        kind, *rest = name.split(".")
        if kind == "interpolation":
            tensors[f"separator/interp_{rest[0]}"] = value
            continue
        start = {"down": 0, "bottleneck": levels, "up": levels + 1, "outputs": 2 * levels + 1}[kind]
        number = start + (int(rest[0]) if len(rest) > 1 else 0)
        layer = f"conv1d_{number}" if number else "conv1d"
        part = "kernel" if rest[-1] == "weight" else "bias"
        theirs = value.permute(2, 1, 0).contiguous() if part == "kernel" else value
        tensors[f"separator/{layer}/{part}"] = theirs
        tensors[f"separator_solver/separator/{layer}/{part}/Adam"] = torch.zeros_like(theirs)
    index, data = bundle(tensors)
    (folder / "model-7.index").write_bytes(index)
    (folder / "model-7.data-00000-of-00001").write_bytes(data)
    return network


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("stems", [("accompaniment", "vocals"), ("bass", "drums", "other", "vocals")])
def test_a_checkpoint_tells_its_network(tmp_path: Path, stems: tuple[str, ...], learned: bool) -> None:
    rate = 44100 if learned else 22050
    known = {"source_names": stems, "learned_upsampling": learned, "expected_sr": rate}
    network = written(tmp_path, FIRST_WAVE_U_NET | known | {"num_frames": 16384})
    found = load_model(tmp_path)
    assert isinstance(found, FirstWaveUNet) and found.arguments == network.arguments
    mix = torch.randn(1, 2, 300)
    with torch.inference_mode():
        assert torch.equal(found.estimate(mix), network.estimate(mix))


def test_another_number_of_stems_is_refused(tmp_path: Path) -> None:
    written(tmp_path, FIRST_WAVE_U_NET | {"source_names": ("a", "b", "c")})
    with pytest.raises(CheckpointError, match="two or four stems"):
        load_model(tmp_path)


@pytest.mark.parametrize("changed", [{"filter_size": 4}, {"num_layers": 0}, {"source_names": ["vocals"]}])
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(StemsplitError):
        build("first_wave_u_net", changed)


@torch.inference_mode()
def test_the_last_stem_is_the_rest() -> None:
    network = build("first_wave_u_net", FIRST_WAVE_U_NET).eval()
    mix = 0.3 * torch.rand(1, 2, 200)
    stems = network.estimate(mix)
    rest = mix - stems[:, :-1].sum(1)
    assert torch.equal(stems[:, -1], rest.clamp(-1, 1))
    assert torch.equal(network.select(["vocals"]).estimate(mix)[:, 0], stems[:, -1])

"""The networks of bytesep equal the released program's, with its names of the weights and its segments."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from stemsplit import load_model
from stemsplit.core.stream import separate_array
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models.blocks.resunet import FilterBank
from stemsplit.models.bytesep import Bytesep, BytesepArguments
from tests.data.bytesep import make
from tests.models.test_contract import BYTESEP
from tests.models.test_published_families import ZOO
from tests.models.test_roformer_variants import golden

Decibels = Callable[[Tensor, Tensor], float]

RELEASED = {
    "mobilenet_subband": "MobileNet_Subbandtime",
    "resunet143_subband": "ResUNet143_Subbandtime",
}
FULL_BAND = "ResUNet143_DecouplePlusInplaceABN_ISMIR2021"
RESUNET = Path(__file__).parents[1] / "data/bytesep/resunet.safetensors"
# Trainable numbers of bytesep's own class for two sources, and of one source's; its README says 102 million
NUMBERS, PER_SOURCE = 102_571_542, 8 * 33
TRAIN: dict[str, Any] = {
    "model_type": "MobileNet_Subbandtime",
    "input_channels": 2,
    "output_channels": 2,
    "target_source_types": ["vocals"],
    "sample_rate": 44100,
    "loss_type": "l1_wav",
}


@pytest.mark.parametrize(
    "name", ["mobilenet_subband", pytest.param("resunet143_subband", marks=pytest.mark.slow)]
)
@torch.inference_mode()
def test_outputs_are_the_references(name: str, decibels: Decibels) -> None:
    _, weights, mix, expected = golden(f"bytesep_{name}")
    network = build("bytesep", {"model_type": RELEASED[name]}).eval()
    network.load_state_dict({**network.state_dict(), **weights})  # counts have no rule
    stems = network.estimate(mix)
    assert (
        decibels(expected, stems[..., : expected.shape[-1]]) >= 100
    )  # it drops samples beyond a multiple of 4


def full_band(answer: dict[str, Tensor]) -> Bytesep:
    """The network of the full band with the weights of the reference's."""
    sizes = {key: make.SIZES[key] for key in ("n_fft", "hop_length", "widths")}
    stems = ["a", "b"][: answer["stems"].shape[1]]
    network = build("bytesep", {"model_type": FULL_BAND, "target_source_types": stems, **sizes}).eval()
    assert isinstance(network, Bytesep)
    weights = {key.removeprefix("weights/"): value for key, value in answer.items() if "weights/" in key}
    network.load_state_dict(weights)
    return network


@torch.inference_mode()
def test_the_full_band_is_the_references(decibels: Decibels) -> None:
    expected = load_file(RESUNET)
    found = full_band(expected).estimate(expected["mix"])
    assert all(decibels(*pair) >= 100 for pair in zip(expected["stems"][0], found[0], strict=True))


@pytest.mark.slow
@torch.inference_mode()
def test_the_full_band_is_the_references_on_other_input(
    oracle: Callable[..., dict[str, Tensor]], decibels: Decibels
) -> None:
    mix = 0.3 * torch.randn(1, 2, 2777)
    answer = oracle("resunet_bytesep.py", make.SIZES, mix=mix)
    assert int(answer["numbers"]) == NUMBERS
    assert decibels(answer["stems"], full_band(answer).estimate(mix)) >= 95


@pytest.mark.parametrize("stem", ["vocals", "accompaniment"])
def test_the_released_full_band_has_the_numbers_of_the_original(stem: str) -> None:
    spec = find_model(f"resunet_decouple_{stem}")
    with torch.device("meta"):
        network = build("bytesep", spec.arguments)
    assert isinstance(network, Bytesep) and network.stems == spec.stems == (stem,)
    assert sum(p.numel() for p in network.parameters()) == NUMBERS - PER_SOURCE
    assert (network.n_fft, network.hop_length, network.segment_samples) == (2048, 441, 661_500)


@pytest.mark.parametrize("name", RELEASED)
def test_tensors_are_those_of_the_released_constructor(name: str) -> None:
    path = ZOO / f"keys/bytesep_{name}.json"
    if not path.is_file():
        pytest.skip(f"no list of tensors at {path}")
    listed = json.loads(path.read_text())
    with torch.device("meta"):
        network = build("bytesep", {"model_type": RELEASED[name]})
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    transform = {key: torch.zeros(listed[key], device="meta") for key in listed.keys() - shapes.keys()}
    assert {key.split(".")[0] for key in transform} == {"stft", "istft"}
    assert shapes == {key: shape for key, shape in listed.items() if key not in transform}
    network.load_state_dict({**network.state_dict(), **transform}, assign=True)


@pytest.mark.parametrize("samples", [1, 3, 64, 1001, 1002, 1003, 1004])
def test_subbands_sum_to_the_signal_again(samples: int, decibels: Decibels) -> None:
    bank, x = FilterBank(), torch.randn(2, samples)
    bands = bank.analyse(x)
    assert bands.shape == (2, 4, samples // 4 + 16)
    assert decibels(x, bank.synthesise(bands, samples)) >= 80


def test_each_subband_has_a_quarter_of_the_bandwidth() -> None:
    time = torch.arange(8000)
    for band in range(4):
        tone = torch.cos(torch.pi * (band + 0.5) / 4 * time)[None]
        power = FilterBank().analyse(tone)[0, :, 20:-20].square().mean(-1)
        assert power[band] / power.sum() > 0.99


@pytest.mark.parametrize("seconds", [2.0, 1.37])
@torch.inference_mode()
def test_segments_are_the_released_programs(seconds: float, decibels: Decibels) -> None:
    network = build("bytesep", BYTESEP).eval()
    assert isinstance(network, Bytesep)
    mix = torch.randn(2, int(seconds * 8000))
    segment = 2000
    padded = torch.nn.functional.pad(mix, (0, -mix.shape[1] % segment))
    middles = [
        network.estimate(padded[None, :, start : start + segment])[0, ..., 500:1500]
        for start in range(0, padded.shape[1] - segment + 1, segment // 2)
    ]
    expected = torch.cat(middles, dim=-1)[..., : mix.shape[1] - segment]  # from sample 500 on
    ours = separate_array(network, mix)[..., 500 : 500 + expected.shape[-1]]
    assert decibels(expected, ours) >= 100


@torch.inference_mode()
def test_checkpoints_load_by_path_with_their_yaml(tmp_path: Path) -> None:
    network = build("bytesep", {"model_type": TRAIN["model_type"]}).eval()
    transform = {"stft.conv_real.weight": torch.zeros(257, 1, 512), "istft.ola_window": torch.zeros(512)}
    path = tmp_path / "mobilenet.pth"
    torch.save({"step": 500_000, "model": {**network.state_dict(), **transform}}, path)
    with pytest.raises(CheckpointError, match="bare state dict"):
        load_model(path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump({"task_name": "musdb18", "train": TRAIN}))
    loaded = load_model(path)
    assert isinstance(loaded, Bytesep) and loaded.stems == ("vocals",)
    mix = torch.randn(1, 2, 5000)
    assert torch.equal(loaded.estimate(mix), network.estimate(mix))
    assert (loaded.segment_samples, loaded.context_samples, loaded.overlap) == (661_500, 330_750, 0)


def test_a_yaml_of_another_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mobilenet.safetensors"
    save_file(build("bytesep", BYTESEP).state_dict(), path)
    path.with_suffix(".yaml").write_text("train: {epochs: 3}")
    with pytest.raises(CheckpointError, match="not a configuration of a bytesep"):
        load_model(path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"model_type": "ResUNet143_FullBand"}, "ResUNet143_FullBand"),
        ({"output_channels": 1}, "output_channels 1"),
    ],
)
def test_what_the_network_does_not_have_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        BytesepArguments.from_config({"train": TRAIN | changed})


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"widths": [4, 4]}, "widths"), ({"n_fft": 192}, "n_fft 192"), ({"n_fft": 0}, "n_fft 0")],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        build("bytesep", BYTESEP | changed)

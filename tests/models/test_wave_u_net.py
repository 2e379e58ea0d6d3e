"""Wave-U-Net has the sizes and names of the released program, and reads what it saves."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from stemsplit import load_model
from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models.wave_u_net import WaveUNet, WaveUNetArguments, lengths_of, lowpass
from tests.data.references.make_wave_u_net import CASES
from tests.models.test_contract import WAVE_U_NET

REFERENCES = Path(__file__).parents[1] / "data/references"
# Of the program's own network with its default options: trainable numbers, tensors, samples in and out
NUMBERS, TENSORS, LENGTHS = 69_910_152, 384, (97_961, 88_409)


def test_the_released_network_has_the_sizes_of_the_original() -> None:
    with torch.device("meta"):
        network = build("wave_u_net", {})
    state = network.state_dict()
    assert sum(p.numel() for p in network.parameters()) == NUMBERS and len(state) == TENSORS
    assert lengths_of(WaveUNetArguments(), 2 * 44_100) == LENGTHS
    assert network.segment_samples == LENGTHS[1]
    assert network.context_samples == (LENGTHS[0] - LENGTHS[1]) // 2
    assert find_model("wave_u_net").stems == network.stems
    assert find_model("wave-u-net-pytorch").name == "wave_u_net"


def test_the_lowpass_filter_is_the_released_programs() -> None:
    with safe_open(REFERENCES / "wave_u_net.safetensors", "pt") as file:
        theirs = file.get_tensor("weights/waveunets.bass.downsampling_blocks.0.downconv.filter")
    torch.testing.assert_close(theirs, lowpass(0.5 / 4).expand_as(theirs))


@pytest.mark.parametrize("case", CASES)
def test_shapes_tell_the_arguments(case: str) -> None:
    a = WaveUNetArguments(**CASES[case])
    state = build("wave_u_net", CASES[case]).state_dict()
    told = WaveUNetArguments.from_shapes({name: tuple(value.shape) for name, value in state.items()})
    if not a.separate:
        assert "instruments" not in told
        told["instruments"] = a.instruments
    told["instruments"] = list(told["instruments"])
    assert told == {name: getattr(a, name) for name in told}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_the_program_saves_loads_by_its_path(tmp_path: Path, prefix: str) -> None:
    network = build("wave_u_net", WAVE_U_NET | {"strides": 4}).eval()
    saved = {
        "model_state_dict": {prefix + name: value for name, value in network.state_dict().items()},
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]},
        "state": {"step": 7, "worse_epochs": 0, "epochs": 1, "best_loss": float("inf")},
    }
    torch.save(saved, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, WaveUNet) and loaded.stems == ("a", "b")
    mix = torch.randn(1, 2, 500)
    with torch.inference_mode():
        assert torch.equal(loaded.estimate(mix), network.estimate(mix))


@torch.inference_mode()
def test_estimates_end_at_full_scale() -> None:
    network = build("wave_u_net", WAVE_U_NET).eval()
    assert isinstance(network, WaveUNet)
    for unet in network.waveunets.values():
        unet.output_conv.bias.fill_(5.0)
    assert network.estimate(torch.randn(1, 2, 100)).max() == 1
    assert network.train().estimate(torch.randn(1, 2, 100)).max() > 1


@pytest.mark.parametrize("samples", [1, 7, 799, 800, 801])
@pytest.mark.parametrize("changed", [{}, {"res": "learned", "kernel_size": 5}, {"strides": 3, "levels": 4}])
def test_lengths_are_the_least_that_do(samples: int, changed: dict[str, Any]) -> None:
    a = WaveUNetArguments(**(WAVE_U_NET | changed))
    lengths = lengths_of(a, samples)
    step = a.strides ** (a.levels - 1)
    least = lengths_of(a, 1)
    assert lengths.given >= samples and (lengths.given - step < samples or lengths == least)
    assert (lengths.taken - lengths.given) == (least.taken - least.given)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"conv_type": "ln"}, UnknownNameError),
        ({"res": "nearest"}, UnknownNameError),
        ({"kernel_size": 4}, StemsplitError),
        ({"levels": 1}, StemsplitError),
        ({"features": 6}, StemsplitError),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any], error: type[StemsplitError]) -> None:
    with pytest.raises(error):
        build("wave_u_net", WAVE_U_NET | changed)

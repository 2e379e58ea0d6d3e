"""Spleeter equals the original graph in TensorFlow, from its own checkpoints, on its grid of frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit.core.stream import separate_array
from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.hub.checkpoints import build_network, read_package
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from tests.data.references.make_spleeter import CASES, params
from tests.models.test_contract import SPLEETER

Decibels = Callable[[Tensor, Tensor], float]

# Trainable numbers of spleeter's own graphs, and those of the normalisation whose output it doesn't use
TRAINABLE = {"2stems": 19_647_498, "4stems": 39_294_996, "5stems": 49_118_745}
UNUSED = 2 * 512


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_stems_are_spleeters(
    name: str, oracle: Callable[..., dict[str, Tensor]], tmp_path: Path, decibels: Decibels
) -> None:
    mix = 0.3 * torch.randn(2, 9400)
    asked = params(CASES[name]) | {"checkpoint": str(tmp_path)}
    expected = oracle("spleeter_tf.py", asked, mix=mix)["stems"]
    arguments = CASES[name] | {"groups": 1, "sample_rate": 8000}
    package = read_package(tmp_path / "model.index", family="spleeter", arguments=arguments)
    stems = separate_array(build_network(package), mix)
    assert all(decibels(theirs, ours) >= 110 for theirs, ours in zip(expected, stems, strict=True))


@pytest.mark.parametrize("name", [f"{kind}{rate}" for kind in TRAINABLE for rate in ("", "-16khz")])
def test_released_networks_have_the_numbers_of_the_original(name: str) -> None:
    spec = find_model(f"spleeter-{name}")
    with torch.device("meta"):
        network = build("spleeter", spec.arguments)
    assert find_model(f"spleeter:{name.replace('khz', 'kHz')}").name == spec.name
    assert network.stems == spec.stems
    numbers = sum(parameter.numel() for parameter in network.parameters())
    assert numbers == TRAINABLE[name.split("-")[0]] - len(network.stems) * UNUSED
    assert network.arguments.F == (1536 if name.endswith("16khz") else 1024)


@pytest.mark.parametrize("samples", [1, 63, 64, 128, 129, 500])
@torch.inference_mode()
def test_chunks_are_on_the_grid_of_the_whole_track(samples: int, decibels: Decibels) -> None:
    network = build("spleeter", SPLEETER).eval()  # groups of 8 frames, 16 samples apart; chunks of two
    mix = torch.randn(2, samples)
    assert decibels(network.estimate(mix[None])[0], separate_array(network, mix)) >= 120


@torch.inference_mode()
def test_shares_add_up_to_the_mix_below_the_highest_bin(decibels: Decibels) -> None:
    network = build("spleeter", SPLEETER | {"F": 24}).eval()
    mix = torch.randn(1, 2, 400)
    above = network.estimate(mix).sum(1)
    everything = build("spleeter", SPLEETER | {"F": 24, "mask_extension": "average"}).eval()
    everything.load_state_dict(network.state_dict())
    assert decibels(mix, everything.estimate(mix).sum(1)) >= 80
    assert decibels(mix, above) < 20


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"F": 23}, StemsplitError),
        ({"F": 40}, StemsplitError),
        ({"T": 0}, StemsplitError),
        ({"conv_activation": "GELU"}, UnknownNameError),
        ({"mask_extension": "mirror"}, UnknownNameError),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any], error: type[StemsplitError]) -> None:
    with pytest.raises(error):
        build("spleeter", SPLEETER | changed)

"""D3Net and X-UMX compute what Sony's programs do, with the weights of files that NNabla wrote."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import StemsplitError
from stemsplit.hub.checkpoints import build_network, read_package
from stemsplit.models import build
from stemsplit.models.d3net import RELEASED, D3Net
from stemsplit.models.xumx import XUMX
from tests.data.nnabla import make
from tests.models.test_contract import D3NET, D3NET_SIZES

pytest.importorskip("h5py")

Decibels = Callable[[Tensor, Tensor], float]

FILES = Path(__file__).parents[1] / "data/nnabla"
# Trainable numbers of Sony's own networks
NUMBERS = {"bass": 2_419_822, "drums": 2_873_284, "other": 2_967_407, "vocals": 2_967_407}
OURS = make.D3NET | {"sample_rate": 8000, "segment_s": 1.0}


@pytest.fixture
def d3net() -> D3Net:
    """Networks with the weights of the file, of the sizes that it was made with."""
    network = build_network(read_package(FILES / "d3net.zip", family="d3net", arguments=OURS))
    assert isinstance(network, D3Net)
    return network


@torch.inference_mode()
def test_d3nets_stems_are_the_originals(d3net: D3Net, decibels: Decibels) -> None:
    expected = load_file(FILES / "d3net.safetensors")
    stems = d3net.estimate(expected["mix"][None])[0]
    assert all(decibels(*pair) >= 110 for pair in zip(expected["stems"], stems, strict=True))
    d3net.select(["vocals"])
    assert decibels(expected["stems"][1:], d3net.estimate(expected["mix"][None])[0]) >= 110


@torch.inference_mode()
def test_xumxs_magnitudes_are_nnablas(decibels: Decibels) -> None:
    expected = load_file(FILES / "x-umx.safetensors")
    network = load_model(FILES / "x-umx.h5")
    assert isinstance(network, XUMX) and network.stems == ("bass", "drums", "vocals", "other")
    a = network.arguments
    assert (a.hidden_size, a.nb_layers, a.max_bin, a.nb_channels, a.in_chan) == (6, 3, 9, 2, 32)
    assert decibels(expected["stems"], network.magnitudes(expected["magnitudes"])) >= 120


@pytest.mark.slow
def test_both_are_nnablas_on_other_inputs(
    oracle: Callable[..., dict[str, Tensor]], tmp_path: Path, decibels: Decibels
) -> None:
    mix = 0.3 * torch.randn(2, 8 * 49 + 5)
    answer = oracle("d3net_nnabla.py", make.D3NET | {"checkpoint": str(tmp_path)}, mix=mix)
    network = build_network(read_package(tmp_path / "d3net.h5", family="d3net", arguments=OURS))
    assert isinstance(network, D3Net)
    with torch.inference_mode():
        assert decibels(answer["stems"], network.estimate(mix[None])[0]) >= 95
    numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in network.targets.items()}
    assert numbers == {name: int(answer[f"numbers/{name}"]) for name in numbers}
    magnitudes = torch.rand(2, 2, 17, 30)
    answer = oracle("xumx_nnabla.py", make.XUMX | {"checkpoint": str(tmp_path)}, magnitudes=magnitudes)
    coupled = load_model(tmp_path / "x-umx.h5")
    assert isinstance(coupled, XUMX)
    with torch.inference_mode():
        assert decibels(answer["stems"], coupled.magnitudes(magnitudes)) >= 110


def test_released_networks_have_the_numbers_of_the_original() -> None:
    with torch.device("meta"):
        network = build("d3net", {})
    assert isinstance(network, D3Net) and network.stems == tuple(RELEASED)
    numbers = {name: sum(p.numel() for p in part.parameters()) for name, part in network.targets.items()}
    assert numbers == NUMBERS


@torch.inference_mode()
def test_patches_are_averaged_over_the_whole_track(d3net: D3Net) -> None:
    """Every frame is the mean of the patches that it is in, the last frames too."""
    target: Any = d3net.targets["vocals"]  # patches of 12 frames, 4 apart
    mix = torch.rand(1, 2, 23, 17)
    padded = torch.nn.functional.pad(mix, (0, 0, 8, 12))
    last = [d3net._patch(target, padded[:, :, start : start + 12]) for start in (20, 24, 28)]
    expected = sum(patch[:, :, 30 - start] for patch, start in zip(last, (20, 24, 28), strict=True)) / 3
    torch.testing.assert_close(d3net.magnitudes(target, mix)[:, :, 22], expected)


@pytest.mark.parametrize(
    "changed",
    [
        {"out_shift": 5},
        {"test_patch_len": 10},
        {"band_split_idxs": [7]},
        {"band_split_idxs": []},
        {"f_dens_k": [2, 2]},
        {"dens_k": [[2, 3, 2], [1, 1]]},
        {"valid_signal_idx": 40},
    ],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(StemsplitError):
        build("d3net", D3NET | {"targets": {"a": D3NET_SIZES | changed, "b": D3NET_SIZES}})


def test_the_filter_needs_two_of_each() -> None:
    with pytest.raises(StemsplitError, match="two channels and two targets"):
        build("d3net", D3NET | {"nb_channels": 1})

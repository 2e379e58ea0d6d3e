"""CWS-PResUNet equals the authors' program on random weights, and its files tell which network they hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import StemsplitError
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models.cws_presunet import CWSPResUNet
from tests.data.cws_presunet import make
from tests.models.test_contract import CWS

Decibels = Callable[[Tensor, Tensor], float]

GOLDENS = Path(__file__).parents[1] / "data/cws_presunet"
STEMS = {"vocals": ("vocals",), "joint": ("bass", "drums", "other")}


def weights(answer: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the authors' network, as their checkpoint names them."""
    return {key.removeprefix("weights/"): value for key, value in answer.items() if "weights/" in key}


@pytest.mark.parametrize("name", STEMS)
@torch.inference_mode()
def test_a_bare_checkpoint_is_told_by_shapes_and_equals_the_authors(
    name: str, tmp_path: Path, decibels: Decibels
) -> None:
    expected = load_file(GOLDENS / f"{name}.safetensors")
    unused = {f"{part}.conv_real.weight": torch.zeros(3) for part in ("f_helper.stft", "wav_spec_loss.stft")}
    path = tmp_path / "epoch=1.ckpt"
    torch.save({"epoch": 1, "state_dict": {**weights(expected), **unused}}, path)
    network = load_model(path)
    assert isinstance(network, CWSPResUNet) and network.stems == STEMS[name]
    assert (network.segment_samples, network.context_samples) == (441_000, 66_150)
    found = network.estimate(expected["mix"])
    for reference, ours in zip(expected["stems"][0], found[0], strict=True):
        assert decibels(reference, ours) >= 115


@pytest.mark.parametrize(("name", "golden"), [("vocals", "vocals"), ("other", "joint")])
def test_the_released_network_has_the_numbers_of_the_original(name: str, golden: str) -> None:
    spec = find_model(f"cws_presunet_{name}")
    with torch.device("meta"):
        network = build("cws_presunet", spec.arguments)
    assert network.stems == spec.stems == STEMS[golden]
    expected = load_file(GOLDENS / f"{golden}.safetensors")["numbers"]
    assert sum(p.numel() for p in network.parameters()) == int(expected)


@pytest.mark.parametrize("name", STEMS)
def test_tensors_are_named_as_the_authors(name: str) -> None:
    with torch.device("meta"):
        arguments = {"stems": STEMS[name], "joint": name == "joint", "widths": make.WIDTHS}
        network = build("cws_presunet", arguments)
    assert network.state_dict().keys() == weights(load_file(GOLDENS / f"{name}.safetensors")).keys()


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"widths": [4, 4]}, "widths"), ({"n_fft": 192}, "n_fft 192"), ({"stems": ["a", "b"]}, "stems")],
)
def test_sizes_that_do_not_fit_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(StemsplitError, match=said):
        build("cws_presunet", CWS | changed)

"""LaSAFT has the released network's size, and its checkpoints load without a description."""

from pathlib import Path

import pytest
import torch

from stemsplit.errors import StemsplitError
from stemsplit.hub.checkpoints import build_network, read_package
from stemsplit.hub.registry import find_model
from stemsplit.models import build
from stemsplit.models.lasaft import LaSAFTArguments
from tests.models.test_contract import LASAFT


def test_the_network_is_as_large_as_the_released_file() -> None:
    with torch.device("meta"):
        network = build("lasaft", {})
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == 31_541_908
    # its file also has two moments per parameter, of Adam, and some 350 bytes for every tensor
    contents = 12 * parameters + sum(b.numel() * b.element_size() for b in network.buffers())
    assert 0 < 378_945_635 - contents < 500_000
    assert find_model("lasaft").stems == network.stems


@pytest.mark.parametrize("changed", [{}, {"n_blocks": 3, "control_n_layer": 1, "audio_channels": 1}])
def test_shapes_tell_the_arguments(changed: dict[str, int]) -> None:
    state = build("lasaft", LASAFT | changed).state_dict()
    told = LaSAFTArguments.from_shapes({name: tuple(tensor.shape) for name, tensor in state.items()})
    expected = LASAFT | {"control_n_layer": 4, "audio_channels": 2} | changed
    assert told == {key: value for key, value in expected.items() if key in told}
    assert expected.keys() - told.keys() == {"sources", "hop_length", "num_frame"}


def test_a_checkpoint_of_lightning_loads_without_a_description(tmp_path: Path) -> None:
    """The tensors with the window beside them, as the authors' program saves both."""
    torch.manual_seed(0)
    network = build(
        "lasaft", {k: v for k, v in LASAFT.items() if k not in ("sources", "hop_length", "num_frame")}
    )
    state = network.state_dict() | {"stft.stft.window": torch.hann_window(64)}
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"dk": 4}}, tmp_path / "lasaft.ckpt")
    package = read_package(tmp_path / "lasaft.ckpt")
    assert package.family == "lasaft"
    found = build_network(package)
    assert found.stems == ("vocals", "drums", "bass", "other")
    for name, tensor in network.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sources": ["a"]}, "two sources"),
        ({"n_blocks": 4}, "must be odd"),
        ({"n_fft": 68}, "multiple of 8"),
        ({"dk": 4, "control_n_layer": 0}, "1 at least"),
        ({"num_frame": 100}, "nothing is left"),
    ],
)
def test_arguments_that_make_no_network_are_refused(changed: dict[str, object], message: str) -> None:
    with pytest.raises(StemsplitError, match=message):
        build("lasaft", LASAFT | changed)

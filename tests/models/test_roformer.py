"""The structure of the RoFormers; their released weights are compared in test_released.py."""

from typing import Any

import pytest
import torch
from torch import Tensor

from stemsplit.errors import StemsplitError
from stemsplit.models import build
from stemsplit.models.roformer import BANDS_62, AxialNetwork

SMALL = {
    "stems": ["a", "b", "c"],
    "num_stems": 3,
    "stereo": True,
    "dim": 8,
    "depth": 2,
    "heads": 2,
    "dim_head": 4,
    "stft_n_fft": 64,
    "stft_win_length": 64,
    "stft_hop_length": 16,
    "mlp_expansion_factor": 1,
}
TABLES: list[tuple[str, dict[str, Any]]] = [
    ("bs_roformer", {"freqs_per_bands": [2, 3, 4, 8, 16]}),
    ("mel_band_roformer", {"num_bands": 5}),
]
both = pytest.mark.parametrize(("name", "table"), TABLES, ids=[name for name, _ in TABLES])


def roformer(name: str, *arguments: dict[str, Any]) -> AxialNetwork:
    merged: dict[str, Any] = {}
    for part in arguments:
        merged |= part
    network = build(name, merged)
    assert isinstance(network, AxialNetwork)
    return network.eval()


@both
@torch.inference_mode()
def test_stems_scale_with_the_mix(name: str, table: dict[str, Any]) -> None:
    network, mix = roformer(name, SMALL, table), torch.randn(1, 2, 700)
    for gain in (1e-3, 100.0):
        torch.testing.assert_close(network(gain * mix) / gain, network(mix), rtol=1e-4, atol=1e-5)


@both
@torch.inference_mode()
def test_silence_stays_silent(name: str, table: dict[str, Any]) -> None:
    assert not roformer(name, SMALL, table)(torch.zeros(1, 2, 700)).any()


@both
@torch.inference_mode()
def test_stems_have_no_direct_current_unless_allowed(name: str, table: dict[str, Any]) -> None:
    mix = torch.randn(1, 2, 700) + 1
    without = roformer(name, SMALL, table)
    allowed = roformer(name, SMALL, table, {"zero_dc": False})
    allowed.load_state_dict(without.state_dict())
    a, b = without.spectrograms(mix), allowed.spectrograms(mix)
    assert not a[..., 0, :].any() and b[..., 0, :].abs().min() > 0
    assert torch.equal(a[..., 1:, :], b[..., 1:, :])


@both
def test_narrowing_frees_the_other_estimators(name: str, table: dict[str, Any]) -> None:
    network = roformer(name, SMALL, table)
    kept = network.mask_estimators[1]
    network.select(["b", "c"]).select(["b"])
    assert network.stems == ("b",) and network.kept == (1,)
    assert list(network.mask_estimators) == [kept]


def shared(network: AxialNetwork) -> list[Tensor]:
    return list(
        {id(v): v for k, v in network.state_dict(keep_vars=True).items() if "freqs" in k.split(".")}.values()
    )


def test_each_axis_has_one_rotary_embedding() -> None:
    network = roformer("bs_roformer", SMALL, TABLES[0][1], {"depth": 3})
    assert len(shared(network)) == 2
    assert not any("rotary" in name for name, _ in network.named_parameters())


def test_the_default_bands_fill_the_spectrum() -> None:
    assert len(BANDS_62) == 62 and sum(BANDS_62) == 1025


@torch.inference_mode()
def test_skip_connections_start_at_the_second_block() -> None:
    mix, table = torch.randn(1, 2, 700), TABLES[0][1]
    for depth, same in ((1, True), (2, False)):
        plain = roformer("bs_roformer", SMALL, table, {"depth": depth})
        skipping = roformer("bs_roformer", SMALL, table, {"depth": depth, "skip_connection": True})
        skipping.load_state_dict(plain.state_dict())
        assert torch.equal(plain(mix), skipping(mix)) == same


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_stems": 2},
        {"stft_win_length": 65},
        {"dim_head": 5},
        {"freqs_per_bands": [2, 3]},
        {"use_hyper_connections": True},
        {"siamese": True, "use_pope": True},
        {"siamese": True, "use_value_residual_learning": True},
        {"siamese": True, "skip_connection": True},
        {"use_value_residual_learning": True, "use_pope": True},
        {"use_value_residual_learning": True, "linear_transformer_depth": 1},
    ],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StemsplitError):
        roformer("bs_roformer", SMALL, TABLES[0][1], wrong)

"""The structure of SCNet; released weights are compared in test_released.py."""

from typing import Any

import pytest
import torch

from stemsplit.errors import StemsplitError
from stemsplit.models import build
from stemsplit.models.scnet import Band, BandBins, SCNet, SDLayer, SULayer

SMALL = {"dims": [4, 8, 8], "nfft": 64, "win_size": 64, "hop_size": 16, "num_dplayer": 2}

# per released network: shares, strides, and at each level the bins per band before and after
LAYOUTS = [
    (
        [0.175, 0.392, 0.433],
        [1, 4, 16],
        [([359, 803, 887], [359, 201, 56]), ([108, 242, 266], [108, 61, 17]), ([33, 73, 80], [33, 19, 5])],
    ),
    (
        [0.225, 0.372, 0.403],
        [1, 4, 16],
        [([462, 762, 825], [462, 191, 52]), ([159, 262, 284], [159, 66, 18]), ([55, 91, 97], [55, 23, 7])],
    ),
    (
        [0.23, 0.37, 0.4],
        [1, 4, 4],
        [
            ([472, 758, 819], [472, 190, 205]),
            ([200, 321, 346], [200, 81, 87]),
            ([85, 136, 147], [85, 34, 37]),
        ],
    ),
]


def scnet(**arguments: Any) -> SCNet:
    network = build("scnet", SMALL | arguments)
    assert isinstance(network, SCNet)
    return network.eval()


@pytest.mark.parametrize(("shares", "strides", "levels"), LAYOUTS)
def test_bands_lie_where_the_released_networks_have_them(
    shares: list[float], strides: list[int], levels: list[tuple[list[int], list[int]]]
) -> None:
    bands = [Band(share, stride, max(3, stride), 1) for share, stride in zip(shares, strides, strict=True)]
    downsample, bins = SDLayer(1, 1, bands), 2049
    upsample = SULayer(1, 1, bands)
    for before, after in levels:
        assert downsample.band_bins(bins) == before
        pieces = downsample(torch.zeros(1, 1, bins, 1))
        assert [piece.shape[2] for piece in pieces] == after
        back = upsample(torch.cat(pieces, dim=2), BandBins(before, after))
        assert back.shape == (1, 1, bins, 1)
        bins = sum(after)


@pytest.mark.parametrize("samples", [1, 15, 16, 17, 31, 32, 47, 48, 49, 500])
def test_the_frames_are_even_in_number(samples: int) -> None:
    network = scnet()
    frames = network.spectrograms(torch.randn(1, 2, samples)).shape[-1]
    assert frames % 2 == 0 and (frames - 1) * 16 > samples


@torch.inference_mode()
def test_with_a_standardised_spectrogram_stems_scale_with_the_mix() -> None:
    network, mix = scnet(normalise_spectrogram=True), torch.randn(1, 2, 500)
    torch.testing.assert_close(10 * network(mix), network(10 * mix), rtol=1e-3, atol=1e-3)
    plain = scnet()
    plain.load_state_dict(network.state_dict())
    assert not torch.allclose(10 * plain(mix), plain(10 * mix), rtol=0.1)


def test_the_wave_is_standardised_where_asked() -> None:
    assert scnet(normalise=True).normalise and not scnet().normalise


@pytest.mark.parametrize(
    "wrong",
    [{"dims": [2, 8, 8]}, {"num_dplayer": 3}, {"conv_kernel": 4}, {"band_stride": [1, 4]}],
)
def test_arguments_that_do_not_fit_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(StemsplitError):
        scnet(**wrong)

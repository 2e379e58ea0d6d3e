"""The structure of SCNet and its variants.

Weights are compared in test_released.py and test_published_families.py.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import StemsplitError
from stemsplit.models import build, family
from stemsplit.models.blocks.band_sampling import Band, BandBins, FusionLayer, SDLayer, SULayer
from stemsplit.models.scnet import SCNet
from tests.models.test_contract import TRAN
from tests.models.test_published_families import ZOO, Decibels, from_config

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


TRAN_YAML = """
audio: {chunk_size: 485100, num_channels: 2, sample_rate: 44100, min_mean_abs: 0.0}
model: {sources: [drums, bass, other, vocals], audio_channels: 2, dims: [4, 32, 64, 128], nfft: 4096,
  hop_size: 1024, win_size: 4096, normalized: true, band_SR: [0.175, 0.392, 0.433], band_stride: [1, 4, 16],
  band_kernel: [3, 4, 16], conv_depths: [3, 2, 1], compress: 4, conv_kernel: 3, num_dplayer: 6, expand: 1,
  tran_rotary_embedding_dim: 64, tran_depth: 1, tran_heads: 8, tran_dim_head: 64, tran_attn_dropout: 0.0,
  tran_ff_dropout: 0.0, tran_flash_attn: true}
training: {instruments: [drums, bass, other, vocals], target_instrument: null, normalize: false}
inference: {batch_size: 2, dim_t: 256, num_overlap: 2, normalize: false}
"""


def test_tensors_of_the_transformer_variant_are_the_released_ones() -> None:
    path = ZOO / "keys/scnet_tran__config_musdb18_scnet_tran.json"
    if not path.is_file():
        pytest.skip(f"no list of tensors at {path}")
    listed = json.loads(path.read_text())
    with torch.device("meta"):
        network = from_config("scnet_tran", yaml.safe_load(TRAN_YAML))
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert shapes | {"first_conv.weight": [4, 4, 1, 1]} == listed["keys"]


def test_the_configuration_of_the_transformer_variant_is_read() -> None:
    found: Any = family("scnet_tran").Arguments.from_config(yaml.safe_load(TRAN_YAML))
    plain = family("scnet_tran").Arguments(overlap=0.5)
    assert json.dumps(asdict(found)) == json.dumps(asdict(plain))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"tran_rotary_embedding_dim": 32}, "tran_rotary_embedding_dim 32"),
        ({"tran_dim_head": 32}, "must be tran_dim_head, 32"),
        ({"tran_linear_attn": True}, "tran_linear_attn"),
    ],
)
def test_other_transformers_are_refused_by_name(changed: dict[str, Any], said: str) -> None:
    config = yaml.safe_load(TRAN_YAML)
    config["model"] |= changed
    with pytest.raises(StemsplitError, match=said):
        family("scnet_tran").Arguments.from_config(config)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("variant", ["scnet", "scnet_masked", "scnet_tran"])
@torch.inference_mode()
def test_a_checkpoint_says_by_its_tensors_which_variant_it_is(
    variant: str, prefix: str, tmp_path: Path
) -> None:
    model = SMALL | (TRAN | {"tran_flash_attn": False} if variant == "scnet_tran" else {})
    four = ["drums", "bass", "other", "vocals"]
    config = {"model": model, "audio": {"chunk_size": 500}, "training": {"instruments": four}}
    network = from_config(variant, config)
    state = {prefix + key: value for key, value in network.state_dict().items()}
    if variant == "scnet_tran":
        state[prefix + "first_conv.weight"] = torch.randn(4, 4, 1, 1)
    torch.save(state, tmp_path / "model.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    loaded, mix = load_model(tmp_path / "model.ckpt"), torch.randn(1, 2, 500)
    assert isinstance(loaded, type(network))
    assert torch.equal(loaded(mix), network(mix))


@torch.inference_mode()
def test_masks_are_at_most_one_in_both_parts() -> None:
    network: Any = build("scnet_masked", SMALL).eval()
    network.mask_layer[2].bias.fill_(100)  # tanh is 1 in both parts, and 1 + i is √2 in magnitude
    mix = torch.randn(1, 2, 500)
    z = network.transform.analyse(torch.nn.functional.pad(mix, (0, 528 - 500)))
    torch.testing.assert_close(network.spectrograms(mix), (z * (1 + 1j))[:, None].expand(1, 4, 2, 33, 34))


@pytest.mark.parametrize("variant", ["scnet", "scnet_masked", "scnet_tran"])
@pytest.mark.parametrize("dims", [[4, 8, 8], [4, 64, 64]])  # narrow, and wide enough for Winograd's products
@torch.inference_mode()
def test_prepared_networks_compute_the_same(variant: str, dims: list[int], decibels: Decibels) -> None:
    torch.manual_seed(0)
    arguments = SMALL | {"dims": dims} | (TRAN if variant == "scnet_tran" else {})
    network, mix = build(variant, arguments).eval(), torch.randn(2, 2, 500)
    expected = network(mix)
    assert decibels(expected, network.prepare()(mix)) >= 105


@torch.inference_mode()
def test_the_equal_inputs_of_a_fusion_layer_are_folded_into_one(decibels: Decibels) -> None:
    layer, x, skip = FusionLayer(6), torch.randn(2, 6, 9, 7), torch.randn(2, 6, 9, 7)
    expected = layer(x, skip)
    layer.fold()
    assert layer.conv.in_channels == 6
    assert decibels(expected, layer(x, skip)) >= 115


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["scnet_masked", "scnet_tran"])
@torch.inference_mode()
def test_the_released_arguments_compute_what_the_reference_does(
    variant: str, oracle: Callable[..., dict[str, Tensor]], decibels: Decibels
) -> None:
    # those of the masks aren't published; they have the plain network's sizes
    constructor = yaml.safe_load(TRAN_YAML)["model"]
    if variant == "scnet_masked":
        constructor = {key: value for key, value in constructor.items() if not key.startswith("tran_")}
    mix = 0.1 * torch.randn(1, 2, 88_200)
    found = oracle("scnet_variants.py", constructor | {"variant": variant}, mix=mix)
    network = from_config(variant, yaml.safe_load(TRAN_YAML) | {"model": constructor})
    network.load_state_dict(
        {k.removeprefix("weights/"): v for k, v in found.items() if k.startswith("weights/")}
    )
    assert decibels(found["stems"], network(mix)) >= 95

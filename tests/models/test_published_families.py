"""MDX23C, Apollo, Bandit and variants of SCNet fit what is published: tensors, configurations and outputs.

The references lie in `shared/zoo` beside the repository; without it their tests are skipped.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stemsplit import load_model
from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.models import build, family
from stemsplit.models.blocks.filterbanks import musical_bands
from stemsplit.models.network import Network
from tests.models.test_contract import APOLLO, BANDIT, MDX23C

REPOSITORY = Path(__file__).parents[2]
PLACES = [parent / "shared/zoo" for parent in REPOSITORY.parents]
ZOO = next((place for place in PLACES if place.is_dir()), PLACES[0])

Config = dict[str, Any]
Decibels = Callable[[Tensor, Tensor], float]

REFERENCES = {
    "mdx23c_2stem": "mdx23c",
    "mdx23c_target": "mdx23c",
    "apollo": "apollo",
    "bandit_v1": "bandit",
    "bandit_v1_lstm": "bandit",
    "bandit_v2": "bandit_v2",
    "scnet_masked": "scnet_masked",
    "scnet_tran": "scnet_tran",
}
KEYS = {
    "mdx23c__aufr33-jarredou_drumsep_model_mdx23c_ep_141_sdr_10.8059.ckpt": "mdx23c",
    "mdx23c__config_centerwide_mdx23c_gilliaan_v1": "mdx23c",
    "mdx23c__config_dereverb_mdx23c": "mdx23c",
    "mdx23c__config_musdb18_mdx23c": "mdx23c",
    "mdx23c__model1": "mdx23c",
    "mdx23c__model2": "mdx23c",
    "mdx23c__model3": "mdx23c",
    "mdx23c__modela": "mdx23c",
    "mdx23c__model_2_stem_061321": "mdx23c",
    "mdx23c__model_2_stem_full_band": "mdx23c",
    "mdx23c__model_2_stem_full_band_2": "mdx23c",
    "mdx23c__sndfx": "mdx23c",
    "apollo_192x6": "apollo",
    "apollo_256x6": "apollo",
    "apollo_384x6": "apollo",
    "apollo_384x8": "apollo",
    "config_dnr_bandit_bsrnn_multi_mus64": "bandit",
    "config_dnr_bandit_v2_mus64": "bandit_v2",
}


def published(name: str, constructor: Config, channels: int = 2) -> Config:
    """A configuration in the published layout around a constructor's arguments."""
    if name == "mdx23c":
        return constructor
    section = "kwargs" if name == "bandit_v2" else "model"
    named = constructor.get("stems") or constructor.get("sources", ["restored"])
    return {
        section: constructor,
        "audio": {"chunk_size": 9000, "num_channels": channels},
        "training": {"instruments": named, "target_instrument": None},
    }


def from_config(name: str, config: Config) -> Network:
    return build(name, asdict(family(name).Arguments.from_config(config))).eval()


@pytest.mark.parametrize("name", REFERENCES)
@torch.inference_mode()
def test_outputs_are_the_references(name: str, decibels: Decibels) -> None:
    path = ZOO / f"goldens/{name}.safetensors"
    if not path.is_file():
        pytest.skip(f"no golden at {path}")
    with safe_open(path, "pt") as file:
        constructor = json.loads(file.metadata()["constructor"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    mix, expected = tensors["input"], tensors["output"]
    network = from_config(REFERENCES[name], published(REFERENCES[name], constructor, mix.shape[1]))
    network.load_state_dict(
        {k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")}
    )
    stems = network(mix)
    assert decibels(expected if expected.ndim == 4 else expected[:, None], stems) >= 105
    network.select([network.stems[-1]])
    assert decibels(stems[:, -1:], network(mix)) >= 120


@pytest.mark.parametrize("name", KEYS)
def test_tensors_are_those_of_the_released_constructor(name: str) -> None:
    path = ZOO / f"keys/{name}.json"
    if not path.is_file():
        pytest.skip(f"no list of tensors at {path}")
    listed = json.loads(path.read_text())
    with torch.device("meta"):
        network = from_config(KEYS[name], published(KEYS[name], listed["constructor"]))
    shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
    assert shapes == listed["keys"]
    assert sum(p.numel() for p in network.parameters()) == listed["parameters"]


@pytest.mark.parametrize("name", ["v1 musical48", "v1 musical64", "v2 musical64"])
def test_bands_are_those_of_the_reference(name: str) -> None:
    path = ZOO / "keys/bandit_band_specs.json"
    if not path.is_file():
        pytest.skip(f"no table of bands at {path}")
    listed = next(bands for key, bands in json.loads(path.read_text()).items() if key.startswith(name))
    rate = 48000 if name.startswith("v2") else 44100
    assert [[band.start, band.stop] for band in musical_bands(len(listed), 2048, rate)] == listed


@pytest.mark.parametrize(("count", "n_fft"), [(1, 4), (1, 64), (2, 64), (4, 64), (64, 64), (64, 2048)])
def test_bands_leave_no_gap(count: int, n_fft: int) -> None:
    table = musical_bands(count, n_fft, 44100)
    assert len(table) == count and all(table)
    assert sorted({k for band in table for k in band}) == list(range(n_fft // 2 + 1))


MDX_YAML = """
audio: {chunk_size: 261120, dim_f: 4096, dim_t: 256, hop_length: 1024, n_fft: 8192, num_channels: 2,
  sample_rate: 44100, min_mean_abs: 0.001}
model: {act: gelu, bottleneck_factor: 4, growth: 128, norm: InstanceNorm, num_blocks_per_scale: 2,
  num_channels: 128, num_scales: 5, num_subbands: 4, scale: [2, 2]}
training: {instruments: [Vocals, Instrumental], target_instrument: null}
inference: {batch_size: 1, dim_t: 256, num_overlap: 8}
"""
APOLLO_YAML = """
audio: {chunk_size: 882000, num_channels: 2, sample_rate: 44100, min_mean_abs: 0.0}
model: {sr: 44100, win: 20, feature_dim: 384, layer: 6}
training: {instruments: [restored, addition], target_instrument: restored, use_amp: true}
inference: {batch_size: 1, num_overlap: 4}
"""
BANDIT_YAML = """
name: MultiMaskMultiSourceBandSplitRNN
audio: {chunk_size: 264600, num_channels: 2, sample_rate: 44100, min_mean_abs: 0.001}
model: {in_channel: 1, stems: [speech, music, effects], band_specs: musical, n_bands: 64, fs: 44100,
  require_no_overlap: false, require_no_gap: true, normalize_channel_independently: false,
  treat_channel_as_feature: true, n_sqm_modules: 8, emb_dim: 128, rnn_dim: 256, bidirectional: true,
  rnn_type: GRU, mlp_dim: 512, hidden_activation: Tanh, hidden_activation_kwargs: null, complex_mask: true,
  n_fft: 2048, win_length: 2048, hop_length: 512, window_fn: hann_window, wkwargs: null, power: null,
  center: true, normalized: true, pad_mode: constant, onesided: true}
training: {instruments: [Speech, Music, Effects], target_instrument: null, use_amp: true}
inference: {batch_size: 1, dim_t: 256, num_overlap: 4}
"""
BANDIT2_YAML = """
cls: Bandit
audio: {chunk_size: 384000, num_channels: 2, sample_rate: 48000, min_mean_abs: 0.0}
kwargs: {in_channels: 1, stems: [speech, music, sfx], band_type: musical, n_bands: 64,
  normalize_channel_independently: false, treat_channel_as_feature: true, n_sqm_modules: 8, emb_dim: 128,
  rnn_dim: 256, bidirectional: true, rnn_type: GRU, mlp_dim: 512, hidden_activation: Tanh,
  hidden_activation_kwargs: null, complex_mask: true, use_freq_weights: true, n_fft: 2048, win_length: 2048,
  hop_length: 512, window_fn: hann_window, wkwargs: null, power: null, center: true, normalized: true,
  pad_mode: reflect, onesided: true}
training: {instruments: [speech, music, sfx], target_instrument: null, use_amp: true}
inference: {batch_size: 8, dim_t: 256, num_overlap: 4}
"""
YAMLS = {"mdx23c": MDX_YAML, "apollo": APOLLO_YAML, "bandit": BANDIT_YAML, "bandit_v2": BANDIT2_YAML}


@pytest.mark.parametrize(
    ("name", "changed", "stems", "samples", "rate", "overlap"),
    [
        ("mdx23c", {"stems": ["Vocals", "Instrumental"]}, ("vocals", "instrumental"), 261_120, 44_100, 0.875),
        ("apollo", {"feature_dim": 384, "segment_samples": 882_000}, ("restored",), 882_000, 44_100, 0.75),
        ("bandit", {}, ("speech", "music", "effects"), 264_600, 44_100, 0.75),
        ("bandit_v2", {}, ("speech", "music", "sfx"), 384_000, 48_000, 0.75),
    ],
)
def test_published_configurations_are_read(
    name: str, changed: Config, stems: tuple[str, ...], samples: int, rate: int, overlap: float
) -> None:
    arguments: Any = family(name).Arguments
    found = json.loads(json.dumps(asdict(arguments.from_config(yaml.safe_load(YAMLS[name])))))
    assert found == json.loads(json.dumps(asdict(arguments(**changed, overlap=overlap))))
    with torch.device("meta"):
        network = build(name, found)
    assert (network.stems, network.channels, network.sample_rate) == (stems, 2, rate)
    assert (network.segment_samples, network.overlap, network.normalise) == (samples, overlap, False)


@pytest.mark.parametrize("name", YAMLS)
def test_inference_decides_how_the_network_is_used(name: str) -> None:
    config = yaml.safe_load(YAMLS[name])
    config["inference"] = {"num_overlap": 2, "normalize": True, "chunk_size": 100_000}
    found: Any = family(name).Arguments.from_config(config)
    assert (found.overlap, found.normalise, found.segment_samples) == (0.5, True, 100_000)
    config["inference"] = {"num_overlap": 0}
    with pytest.raises(StemsplitError, match="num_overlap 0"):
        family(name).Arguments.from_config(config)


def test_a_target_is_the_only_stem_and_dim_t_says_the_chunk() -> None:
    config = yaml.safe_load(MDX_YAML)
    config["training"]["target_instrument"] = "Vocals"
    del config["audio"]["chunk_size"]
    found: Any = family("mdx23c").Arguments.from_config(config)
    assert (found.stems, found.segment_samples) == (("Vocals",), 261_120)


@pytest.mark.parametrize(
    ("name", "section", "changed", "said"),
    [
        ("mdx23c", "model", {"use_attention": True}, "use_attention"),
        ("mdx23c", "model", {"norm": "LayerNorm"}, "norm .* not LayerNorm"),
        ("mdx23c", "model", {"act": "silu"}, "act .* not silu"),
        ("mdx23c", "model", {"act": "eluent"}, "act .* not eluent"),
        ("mdx23c", "model", {"num_subbands": 3}, "dim_f 4096"),
        ("mdx23c", "model", {"bottleneck_factor": 17}, "bottleneck_factor 17"),
        ("mdx23c", "model", {"scale": [2]}, "scale"),
        ("mdx23c", "audio", {"dim_f": 8192}, "8192 bins"),
        ("apollo", "model", {"heads": 4}, "heads"),
        ("apollo", "model", {"sr": 48000}, "sr 48000"),
        ("apollo", "model", {"win": 3}, "win 3"),
        ("apollo", "model", {"feature_dim": 100}, "feature_dim 100"),
        ("apollo", "training", {"target_instrument": None}, "one stem"),
        ("bandit", "model", {"band_specs": "barks"}, "band_specs.*barks"),
        ("bandit", "model", {"in_channel": 2}, "in_channel 2"),
        ("bandit", "model", {"cond_dim": 4}, "cond_dim 4"),
        ("bandit", "model", {"normalized": False}, "normalized False"),
        ("bandit", "model", {"rnn_type": "RNN"}, "rnn_type"),
        ("bandit", "model", {"pad_mode": "circular"}, "pad_mode"),
        ("bandit", "model", {"win_length": 4096}, "window of 4096"),
        ("bandit", "model", {"n_bands": 0}, "0 bands"),
        ("bandit", "training", {"instruments": ["Music", "Speech", "Effects"]}, "instruments music, speech"),
        ("bandit_v2", "kwargs", {"use_freq_weights": False}, "use_freq_weights False"),
        ("bandit_v2", "kwargs", {"hidden_activation": "ReLU"}, "hidden_activation ReLU"),
    ],
)
def test_what_the_network_does_not_have_is_refused_by_name(
    name: str, section: str, changed: Config, said: str
) -> None:
    config = yaml.safe_load(YAMLS[name])
    config[section] |= changed
    with pytest.raises(StemsplitError, match=said), torch.device("meta"):
        from_config(name, config)


SMALL = {"mdx23c": MDX23C, "apollo": APOLLO, "bandit": BANDIT, "bandit_v2": BANDIT}


def small_config(name: str) -> Config:
    """The published layout of the contract's small arguments."""
    config: Config = yaml.safe_load(YAMLS[name])
    given = {k: v for k, v in SMALL[name].items() if k not in ("stems", "segment_samples")}
    if name == "mdx23c":
        config["audio"] |= {key: given.pop(key) for key in ("n_fft", "hop_length", "dim_f")}
    section = "kwargs" if name == "bandit_v2" else "model"
    config[section] |= given
    config["audio"] |= {"chunk_size": 500, "sample_rate": given.get("sr", 44100)}
    if name != "apollo":
        config["training"]["instruments"] = ["A", "B"]
    if name.startswith("bandit"):
        config[section]["stems"] = ["a", "b"]
    return config


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("name", YAMLS)
@torch.inference_mode()
def test_checkpoints_load_by_path_with_their_yaml(name: str, prefix: str, tmp_path: Path) -> None:
    config = small_config(name)
    network = from_config(name, config)
    path = tmp_path / "published.safetensors"
    save_file({prefix + key: value.clone() for key, value in network.state_dict().items()}, path)
    with pytest.raises(CheckpointError, match="bare state dict"):
        load_model(path)
    path.with_suffix(".yaml").write_text(yaml.safe_dump(config))
    loaded = load_model(path)
    mix = torch.randn(1, 2, 500)
    assert isinstance(loaded, Network)
    assert torch.equal(loaded(mix), network(mix))
    assert loaded.overlap == network.overlap is not None


@torch.inference_mode()
def test_stored_weights_of_bins_are_used() -> None:
    network, mix = build("bandit", BANDIT).eval(), torch.randn(1, 2, 500)
    before, state = network(mix), network.state_dict()
    for key in state:
        if "freq_weights" in key:
            state[key] = 2 * state[key].double()
    network.load_state_dict(state)
    torch.testing.assert_close(network(mix), 2 * before)
    network.load_state_dict(state, assign=True)
    torch.testing.assert_close(network(mix), 2 * before)


@pytest.mark.parametrize("name", ["apollo", "bandit", "bandit_v2"])
@torch.inference_mode()
def test_channels_are_separated_each_by_itself(name: str) -> None:
    network, mix = build(name, SMALL[name]).eval(), torch.randn(1, 2, 500)
    torch.testing.assert_close(network(mix.flip(1)), network(mix).flip(2))


@torch.inference_mode()
def test_bins_that_mdx23c_does_not_see_are_silent() -> None:
    network: Any = build("mdx23c", MDX23C | {"n_fft": 128}).eval()
    z = network.spectrograms(torch.randn(1, 2, 500))
    assert z.shape[3] == 65 and z[..., :32, :].abs().min() > 0 and not z[..., 32:, :].any()


def known_weights(network: Network) -> None:
    """Give every parameter values that don't depend on a generator of random numbers."""
    for i, (name, parameter) in enumerate(network.named_parameters()):
        wave = 0.3 * torch.cos(torch.arange(parameter.numel(), dtype=torch.float64) ** 2 * 0.7 + i)
        is_scale = parameter.ndim == 1 and name.endswith("weight")
        parameter.copy_((wave + is_scale).view_as(parameter))


@torch.inference_mode()
def test_apollo_computes_what_it_did_when_this_was_written(decibels: Decibels) -> None:
    network = build("apollo", APOLLO).eval()  # a golden of 80 bands would be large
    known_weights(network)
    time = torch.arange(1000, dtype=torch.float64) ** 2
    mix = (torch.sin(time / 300) + torch.cos(time * 1.3)).float().view(1, 2, 500)
    expected = torch.tensor(
        [
            [
                0.0097658,
                0.1168786,
                -0.0155235,
                -0.0325053,
                0.0248863,
                -0.0156802,
                0.0885842,
                0.0493711,
                0.0120699,
                0.1164331,
            ],
            [
                -0.0036245,
                0.0597833,
                -0.0237004,
                0.0370005,
                0.0065008,
                -0.0086630,
                0.0980746,
                0.0076896,
                -0.0146992,
                0.0890112,
            ],
        ]
    )
    assert decibels(expected, network(mix)[0, 0, :, 25::50]) >= 90

"""Published configurations: every key is obeyed, known to be harmless, or refused by name."""

from typing import Any

import pytest
import yaml

from stemsplit.errors import StemsplitError
from stemsplit.models import family
from stemsplit.models.blocks.released import HARMLESS, OBEYED, released_arguments
from tests.hub.published import YAMLS as SMALL
from tests.models.test_published_families import YAMLS

Config = dict[str, Any]

MEL_YAML = """
audio: {chunk_size: 22050, sample_rate: 44100}
model: {dim: 16, depth: 1, stereo: true, num_bands: 6, sample_rate: 44100, stft_n_fft: 256,
  stft_win_length: 256, stft_hop_length: 64}
training: {instruments: [vocals, other], target_instrument: vocals}
inference: {num_overlap: 4, normalize: true}
"""
ALL = {**YAMLS, **SMALL, "mel_band_roformer": MEL_YAML}
HOPS = {
    "mdx23c": 1024,
    "bandit": 512,
    "bandit_v2": 512,
    "bs_roformer": 128,
    "scnet": 128,
    "mel_band_roformer": 64,
}

every = pytest.mark.parametrize("name", ALL)


def config_of(name: str) -> Config:
    config: Config = yaml.safe_load(ALL[name].replace("!!python/tuple ", ""))
    return config


def read(name: str, config: Config) -> Any:
    arguments: Any = family(name).Arguments
    return arguments.from_config(config)


def constructor(name: str, config: Config) -> Config:
    section: Config = config["kwargs" if name == "bandit_v2" else "model"]
    return section


@every
def test_overlap_and_normalisation_are_the_configurations(name: str) -> None:
    config = config_of(name)
    config["inference"] |= {"num_overlap": 8, "normalize": True}
    assert (read(name, config).overlap, read(name, config).normalise) == (0.875, True)
    config["inference"] |= {"normalize": False}
    del config["inference"]["num_overlap"]
    assert (read(name, config).overlap, read(name, config).normalise) == (None, False)
    config["inference"] = None
    assert (read(name, config).overlap, read(name, config).normalise) == (None, False)


@every
@pytest.mark.parametrize("chunks", [0, -1, 0.5, 101, float("nan")])
def test_overlaps_that_no_track_can_be_cut_with_are_refused(name: str, chunks: float) -> None:
    config = config_of(name)
    config["inference"]["num_overlap"] = chunks
    with pytest.raises(StemsplitError, match=f"num_overlap {chunks}: must be from 1 to 100"):
        read(name, config)


@every
def test_the_chunk_of_inference_precedes_that_of_audio_and_dim_t(name: str) -> None:
    config = config_of(name)
    config["audio"] |= {"chunk_size": 20_000, "dim_t": 99}
    config["inference"] |= {"chunk_size": 30_000, "dim_t": 77}
    assert read(name, config).segment_samples == 30_000
    del config["inference"]["chunk_size"]
    assert read(name, config).segment_samples == 20_000
    config["audio"]["chunk_size"] = None
    if name == "apollo":  # its hop isn't stated
        with pytest.raises(StemsplitError, match="dim_t 77, but neither a chunk_size nor a hop_length"):
            read(name, config)
        return
    assert read(name, config).segment_samples == 76 * HOPS[name]
    del config["inference"]["dim_t"]
    assert read(name, config).segment_samples == 98 * HOPS[name]
    del config["audio"]["dim_t"]
    assert read(name, config).segment_samples == type(read(name, config)).segment_samples


@every
def test_harmless_keys_change_nothing(name: str) -> None:
    config = config_of(name)
    expected = read(name, config)
    constructor(name, config).update(dict.fromkeys(HARMLESS["model"], "anything"))
    config["audio"] |= dict.fromkeys(HARMLESS["audio"], "anything")
    config["inference"] |= dict.fromkeys(HARMLESS["inference"], "anything")
    config["training"] |= {"batch_size": 8, "optimizer": "muon", "use_amp": True, "ema_momentum": 0.999}
    config |= {"augmentations": {"enable": True}, "loss": {"l1": 3}, "optimizer": {"lr": 1}, "note": "x"}
    assert read(name, config) == expected


@every
@pytest.mark.parametrize("section", ["model", "audio", "inference"])
def test_unknown_keys_are_refused_by_name_unless_they_are_off(name: str, section: str) -> None:
    config = config_of(name)
    expected = read(name, config)
    place = constructor(name, config) if section == "model" else config[section]
    for off in (None, False):
        place["use_magic"] = off
        assert read(name, config) == expected
    for on in (True, 3, "x", [1]):
        place["use_magic"] = on
        with pytest.raises(StemsplitError, match="supported: .*use_magic"):
            read(name, config)


def test_a_familys_own_arguments_come_before_what_is_harmless_to_others() -> None:
    config = {"model": {"conv_dropout": 0.3, "flash_attn": True}}
    assert released_arguments(config, {"conv_dropout"}) == {"conv_dropout": 0.3}
    assert released_arguments(config, set()) == {}


def test_no_key_is_both_obeyed_and_harmless() -> None:
    assert not any(HARMLESS[section] & OBEYED[section] for section in OBEYED)


@pytest.mark.parametrize("name", ["bs_roformer", "scnet", "mel_band_roformer", "mdx23c"])
def test_outputs_are_named_by_the_training_in_its_order(name: str) -> None:
    config = config_of(name)
    config["training"] = {"instruments": ["Drums", "Bass"], "target_instrument": None}
    model = constructor(name, config)
    model |= {"num_stems": 2} if name.endswith("roformer") else {}
    stems = "sources" if name == "scnet" else "stems"
    assert getattr(read(name, config), stems) == ("Drums", "Bass")
    config["training"]["target_instrument"] = "Bass"
    if name != "mdx23c":  # the number of its outputs isn't stated
        with pytest.raises(StemsplitError, match="target_instrument Bass: but the network has 2 outputs"):
            read(name, config)
    model |= {"num_stems": 1} if name.endswith("roformer") else {}
    model |= {"sources": ["x"]} if name == "scnet" else {}
    assert getattr(read(name, config), stems) == ("Bass",)
    config["training"] = {"instruments": ["Drums", "Bass", "Other"]}
    if name != "mdx23c":
        with pytest.raises(StemsplitError, match="instruments Drums, Bass, Other: but the network has 1"):
            read(name, config)


@pytest.mark.parametrize("name", ["bs_roformer", "mel_band_roformer"])
@pytest.mark.parametrize("stated", [True, False])
def test_the_lowest_bin_is_what_the_configuration_says(name: str, stated: bool) -> None:
    config = config_of(name)
    config["model"]["zero_dc"] = stated
    assert read(name, config).zero_dc is stated
    del config["model"]["zero_dc"]
    assert read(name, config).zero_dc is True


@pytest.mark.parametrize(("name", "own"), [("bs_roformer", False), ("mel_band_roformer", True)])
def test_norms_that_the_other_family_has_are_refused(name: str, own: bool) -> None:
    config = config_of(name)
    config["model"]["norm_output"] = own
    read(name, config)
    config["model"]["norm_output"] = not own
    with pytest.raises(StemsplitError, match=f"norm_output {not own}"):
        read(name, config)


@pytest.mark.parametrize("name", ["bs_roformer", "mel_band_roformer", "scnet"])
def test_channels_must_reach_for_the_network(name: str) -> None:
    config = config_of(name)
    config["audio"]["num_channels"] = 1
    with pytest.raises(StemsplitError, match="num_channels 1, but the network has 2"):
        read(name, config)
    if name != "scnet":  # a mono network separates each of two channels
        config["model"]["stereo"], config["audio"]["num_channels"] = False, 2
        assert read(name, config).channels == 1


@pytest.mark.parametrize(("name", "key"), [("mel_band_roformer", "sample_rate"), ("bandit", "fs")])
def test_two_sample_rates_are_refused(name: str, key: str) -> None:
    config = config_of(name)
    config["audio"]["sample_rate"] = 48000
    with pytest.raises(StemsplitError, match="48000 in audio, but 44100 in model"):
        read(name, config)
    constructor(name, config)[key] = 48000
    assert read(name, config).sample_rate == 48000

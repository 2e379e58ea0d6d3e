"""Checkpoints of MSST's training of demucs' networks load by their published configurations."""

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
from stemsplit.errors import CheckpointError
from stemsplit.hub.bare import read_foreign
from stemsplit.hub.checkpoints import convert
from stemsplit.models import build, family
from stemsplit.models.network import Network

Decibels = Callable[[Tensor, Tensor], float]

HT_YAML = """
audio: {chunk_size: 485100, min_mean_abs: 0.001, hop_length: 1024}
training: {batch_size: 8, segment: 11, shift: 1, samplerate: 44100, channels: 2, normalize: true,
  instruments: [drums, bass, other, vocals, guitar, piano], target_instrument: null, lr: 9.0e-05}
inference: {num_overlap: 4}
model: htdemucs
htdemucs: {channels: 48, channels_time: , growth: 2, num_subbands: 1, nfft: 4096, wiener_iters: 0,
  end_iters: 0, wiener_residual: false, cac: true, depth: 4, rewrite: true, multi_freqs: [],
  multi_freqs_depth: 3, freq_emb: 0.2, emb_scale: 10, emb_smooth: true, kernel_size: 8, stride: 4,
  time_stride: 2, context: 1, context_enc: 0, norm_starts: 4, norm_groups: 4, dconv_mode: 3, dconv_depth: 2,
  dconv_comp: 8, dconv_init: 1e-3, bottom_channels: 0, t_layers: 5, t_hidden_scale: 4.0, t_heads: 8,
  t_dropout: 0.0, t_layer_scale: True, t_gelu: True, t_emb: sin, t_max_positions: 10000,
  t_max_period: 10000.0, t_weight_pos_embed: 1.0, t_cape_mean_normalize: True, t_cape_augment: True,
  t_cape_glob_loc_scale: [5000.0, 1.0, 1.4], t_sin_random_shift: 0, t_norm_in: True, t_norm_in_group: False,
  t_group_norm: False, t_norm_first: True, t_norm_out: True, t_weight_decay: 0.0, t_lr: ,
  t_sparse_self_attn: False, t_sparse_cross_attn: False, t_mask_type: diag, t_mask_random_seed: 42,
  t_sparse_attn_window: 400, t_global_window: 100, t_sparsity: 0.95, t_auto_sparsity: False,
  t_cross_first: False, rescale: 0.1}
"""
HD_YAML = """
audio: {chunk_size: 485100, min_mean_abs: 0.0, hop_length: 1024}
training: {batch_size: 8, segment: 11, shift: 1, samplerate: 44100, channels: 2, normalize: true,
  instruments: [kick, snare, cymbals, toms], target_instrument: null, lr: 9.0e-05}
inference: {num_overlap: 4, batch_size: 8}
model: hdemucs
hdemucs: {channels: 48, channels_time: null, growth: 2, nfft: 4096, wiener_iters: 0, end_iters: 0,
  wiener_residual: False, cac: True, depth: 6, rewrite: True, hybrid: True, hybrid_old: False,
  multi_freqs: [], multi_freqs_depth: 3, freq_emb: 0.2, emb_scale: 10, emb_smooth: True, kernel_size: 8,
  stride: 4, time_stride: 2, context: 1, context_enc: 0, norm_starts: 4, norm_groups: 4, dconv_mode: 1,
  dconv_depth: 2, dconv_comp: 4, dconv_attn: 4, dconv_lstm: 4, dconv_init: 0.001, rescale: 0.1}
"""
YAMLS = {"htdemucs": HT_YAML, "hdemucs": HD_YAML}
CHANGED: dict[str, dict[str, Any]] = {
    "htdemucs": {
        "sources": ["drums", "bass", "other", "vocals", "guitar", "piano"],
        "multi_freqs": [],
        "dconv_mode": 3,
        "t_sparse_attn_window": 400,
    },
    "hdemucs": {
        "sources": ["kick", "snare", "cymbals", "toms"],
        "multi_freqs": [],
        "multi_freqs_depth": 3,
        "dconv_init": 0.001,
    },
}
SMALL: dict[str, dict[str, Any]] = {
    "htdemucs": {"channels": 8, "nfft": 512, "depth": 3, "t_layers": 1, "t_heads": 2, "num_subbands": 1},
    "hdemucs": {"channels": 8, "nfft": 256, "depth": 4, "norm_starts": 2, "dconv_attn": 2},
    "demucs": {"channels": 8, "depth": 3, "dconv_lstm": 2, "norm_starts": 2},
}
TRAINING = {"instruments": ["Drums", "Bass"], "channels": 2, "samplerate": 8000, "segment": 0.25}


def small(name: str, **changed: Any) -> dict[str, Any]:
    """The published layout of a small network."""
    return {"model": name, name: SMALL[name] | changed, "training": TRAINING, "inference": {"num_overlap": 4}}


def saved(folder: Path, name: str, config: dict[str, Any]) -> tuple[Path, Network]:
    """A checkpoint with random weights and a configuration beside it, and its network."""
    given = {key: value for key, value in config[name].items() if key != "num_subbands"}
    given |= {"sources": TRAINING["instruments"], "samplerate": 8000, "segment": 0.25}
    network = build(name, given).eval()
    torch.save(network.state_dict(), folder / "model.ckpt")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "model.ckpt", network


@pytest.mark.parametrize("name", YAMLS)
def test_published_configurations_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(YAMLS[name])
    arguments: Any = family(name).Arguments
    found = asdict(arguments.from_config(read_foreign(tmp_path / "config.yaml")))
    assert json.dumps(found) == json.dumps(asdict(arguments(**CHANGED[name], segment=11)))
    with torch.device("meta"):
        network = build(name, found)
    assert (network.segment_samples, network.sample_rate, network.channels) == (485_100, 44_100, 2)


@pytest.mark.parametrize("name", SMALL)
@torch.inference_mode()
def test_checkpoints_load_by_path_and_keep_their_overlap(name: str, tmp_path: Path) -> None:
    path, network = saved(tmp_path, name, small(name))
    loaded, mix = load_model(path), torch.randn(1, 2, 2000 + 2 * network.context_samples)
    assert isinstance(loaded, Network) and loaded.stems == ("drums", "bass")
    assert (loaded.segment_samples, loaded.overlap) == (2000, 0.75)
    assert torch.equal(loaded(mix), network(mix))
    convert(path, tmp_path / "converted.safetensors")
    again = load_model(tmp_path / "converted.safetensors")
    assert isinstance(again, Network) and again.overlap == 0.75
    assert torch.equal(again(mix), network(mix))


def test_without_num_overlap_the_overlap_is_the_programs_own(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "htdemucs", small("htdemucs") | {"inference": None})
    loaded = load_model(path)
    assert isinstance(loaded, Network) and loaded.overlap is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"htdemucs": SMALL["htdemucs"] | {"num_subbands": 4}}, "num_subbands 4"),
        ({"htdemucs": SMALL["htdemucs"] | {"t_mamba": True}}, "t_mamba"),
        ({"htdemucs": SMALL["htdemucs"] | {"dconv_init": "much"}}, "'much'"),
        ({"htdemucs": [1, 2]}, "not a configuration of a htdemucs"),
        (
            {"training": {"instruments": ["a"], "channels": 2}},
            "its section training lacks samplerate, segment",
        ),
        ({"training": None}, "not a configuration of a htdemucs"),
        ({"model": "swin_upernet"}, "model swin_upernet: not a network of this package"),
        ({"model": "scnet"}, "model scnet: not a network of this package"),
        ({"inference": {"num_overlap": 0}}, "num_overlap 0"),
    ],
)
def test_other_configurations_are_refused_by_name(changed: dict[str, Any], said: str, tmp_path: Path) -> None:
    path, _ = saved(tmp_path, "htdemucs", small("htdemucs"))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(small("htdemucs") | changed))
    with pytest.raises(CheckpointError, match=said) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("name", YAMLS)
@torch.inference_mode()
def test_a_chunk_is_separated_as_msst_does(
    name: str, tmp_path: Path, oracle: Callable[..., dict[str, Tensor]], decibels: Decibels
) -> None:
    config = YAMLS[name].replace("segment: 11", "segment: 2")  # the released chunks take minutes
    mix = 0.1 * torch.randn(1, 2, 88_200) + 0.01
    found = oracle("demucs_msst.py", {"config": config}, mix=mix)
    state = {k.removeprefix("weights/"): v for k, v in found.items() if k.startswith("weights/")}
    torch.save({"state": state}, tmp_path / "released.ckpt")
    (tmp_path / "released.yaml").write_text(config)
    network = load_model(tmp_path / "released.ckpt")
    assert isinstance(network, Network)
    assert decibels(found["stems"], network.estimate(mix)) >= 95

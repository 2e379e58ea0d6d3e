"""Small random networks as training programs publish them: wrapped, renamed, halved, with a YAML."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from stemsplit.models import build, family
from stemsplit.models.network import Network

State = dict[str, Tensor]
Config = dict[str, Any]

ROFORMER_YAML = """
audio: {chunk_size: 22050, sample_rate: 44100, num_channels: 2, min_mean_abs: 0.0, dim_t: 801, n_fft: 2048,
  hop_length: 441, dim_f: 1024}
model: {dim: 16, depth: 1, stereo: true, num_stems: 2, time_transformer_depth: 1, freq_transformer_depth: 1,
  linear_transformer_depth: 0, dim_head: 8, heads: 2, stft_n_fft: 512, stft_hop_length: 128,
  stft_win_length: 512, freqs_per_bands: !!python/tuple [32, 96, 129], flash_attn: true, zero_dc: false,
  use_torch_checkpoint: true, multi_stft_resolutions_window_sizes: !!python/tuple [4096, 2048]}
training: {batch_size: 2, instruments: [Vocals, Other], target_instrument: null, optimizer: muon}
augmentations: {enable: true, loudness: true}
optimizer: {weight_decay: 0.1}
inference: {batch_size: 4, dim_t: 1101, num_overlap: 4, normalize: true}
"""
SCNET_YAML = """
audio: {chunk_size: 20000, sample_rate: 44100, num_channels: 2, min_mean_abs: 0.001}
model: {sources: [vocals, other], dims: [4, 4, 8, 8], nfft: 512, hop_size: 128, win_size: 512, num_dplayer: 2}
training: {instruments: [Vocals, Other], target_instrument: null, q: 0.95}
inference: {batch_size: 8, dim_t: 256, num_overlap: 4, normalize: true}
"""
YAMLS = {"bs_roformer": ROFORMER_YAML, "scnet": SCNET_YAML}


def config_of(name: str) -> Config:
    """The family's configuration."""
    text = YAMLS[name].replace("!!python/tuple ", "")
    config: Config = yaml.safe_load(text)
    return config


def network_of(name: str) -> Network:
    """A random network of the family's configuration."""
    torch.manual_seed(0)
    cls: Any = family(name)
    arguments = cls.Arguments.from_config(config_of(name))
    return build(name, asdict(arguments)).eval()


def behind(prefix: str, state: State) -> State:
    """The tensors under names with a prefix."""
    return {prefix + key: value for key, value in state.items()}


def averaged(state: State) -> State:
    """Other values under the same names."""
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


def adam(state: State) -> dict[str, Any]:
    """An optimiser's state, twice the size of the weights."""
    moments = {
        i: {"step": torch.tensor(5.0), "exp_avg": value, "exp_avg_sq": value}
        for i, value in enumerate(state.values())
    }
    return {"state": moments, "param_groups": [{"lr": 1e-4, "params": list(moments)}]}


def msst(state: State) -> dict[str, Any]:
    """A checkpoint to continue a training from."""
    metrics = defaultdict(list, {"sdr": [np.float64(8.5)]})
    return {
        "epoch": 3,
        "model_state_dict": state,
        "optimizer_name": "AdamW",
        "optimizer_state_dict": adam(state),
        "scheduler_state_dict": {"best": np.float64(8.5), "_last_lr": [1e-4]},
        "best_metric": np.float32(8.5),
        "all_metrics": metrics,
        "all_losses": np.arange(3.0),
        "meta": {},
    }


def lightning(state: State) -> dict[str, Any]:
    """What Lightning saves."""
    return {
        "state_dict": {**behind("model._orig_mod.", state), "loss.window": torch.ones(4)},
        "hyper_parameters": defaultdict(dict, {"model": {"dim": 3}, "home": Path("x")}),
        "optimizer_states": [adam(state)],
        "lr_schedulers": [],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(8.5), "dirpath": Path("x")}},
        "loops": {"fit_loop": {"epoch_progress": {"current": {"ready": 3}}}},
        "pytorch-lightning_version": "2.5.0",
    }


WRAPPED: dict[str, Callable[[State], dict[str, Any]]] = {
    "bare": lambda s: s,
    "state": lambda s: {"state": s, "training_args": {"lr": 1e-3}},
    "state_dict": lambda s: {"state_dict": behind("module.", s), "global_step": 10},
    "model": lambda s: {"model": s, "optimizer": adam(s), "step": torch.tensor(7)},
    "model_state_dict": msst,
    "lightning": lightning,
    "ema": lambda s: {"ema": s, "epoch": 5},
    "ema_model prefix": lambda s: behind("ema_model.", s),
    "weights beside ema": lambda s: {"ema": averaged(s), "state_dict": s},
    "weights beside ema_model": lambda s: {"ema_model": averaged(s), "model": behind("module.", s)},
    "weights beside ema_state_dict": lambda s: {"ema_state_dict": averaged(s), "model_state_dict": s},
    "ema_pytorch": lambda s: {
        **behind("ema_model.", averaged(s)),
        **behind("online_model.", s),
        **{"initted": torch.tensor(True), "step": torch.tensor(900)},
    },
    "module._orig_mod prefix": lambda s: behind("module._orig_mod.", s),
    "counters": lambda s: {
        **behind("model.", s),
        "n_averaged": torch.tensor(3),
        "updates": torch.ones(1),
    },
}
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def halved(state: State, kind: torch.dtype) -> State:
    """The weights in half precision."""
    return {key: value.to(kind) if value.is_floating_point() else value for key, value in state.items()}


def write_plain(folder: Path, name: str, config: str = "m.yaml") -> Network:
    """Write a family's network as `m.ckpt`, with its YAML."""
    network = network_of(name)
    torch.save(dict(network.state_dict()), folder / "m.ckpt")
    (folder / config).write_text(YAMLS[name])
    return network


def write_safetensors(folder: Path, state: State) -> Path:
    """Write tensors as `m.safetensors`."""
    save_file({key: value.clone() for key, value in state.items()}, folder / "m.safetensors")
    return folder / "m.safetensors"

"""Tensors in checkpoints of TensorFlow, and the names and layouts that the families have for them.

TensorFlow numbers the layers of a kind in the order in which they were made. Spleeter makes the U-Net of one
stem after the other, each from the outside inwards and back; the first Wave-U-Net makes one, then the outputs
of all stems but one.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stemsplit.errors import CheckpointError
from stemsplit.hub.fitting import State

_LAYER = re.compile(r"(conv2d|conv2d_transpose|batch_normalization)(?:_(\d+))?/(\w+)")
_PARTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_WAVE = re.compile(r"separator/(?:conv1d(?:_(\d+))?/(kernel|bias)|interp_(\d+))")
LEVELS = 6  # of Spleeter's U-Nets
# Spleeter's released networks by their number of stems, which is all that their checkpoints tell of them
SPLEETER: Mapping[int, Mapping[str, Any]] = {
    2: {},
    4: {
        "instrument_list": ("vocals", "drums", "bass", "other"),
        "conv_activation": "ELU",
        "deconv_activation": "ELU",
    },
    5: {
        "instrument_list": ("vocals", "piano", "drums", "bass", "other"),
        "conv_activation": "ELU",
        "deconv_activation": "ELU",
        "softmax": True,
    },
}

# Stems of the first Wave-U-Net by their number
WAVE_STEMS = {2: ("accompaniment", "vocals"), 4: ("bass", "drums", "other", "vocals")}


def named(path: Path, tensors: State) -> State:
    """Return the tensors of a checkpoint of TensorFlow as the network's, without those of its optimiser.

    Args:
        path: the checkpoint, for error messages.
        tensors: by TensorFlow's names, in its layouts.

    Raises:
        CheckpointError: they are those of no known network.
    """
    found = _of_wave_u_net(tensors)
    for name, tensor in tensors.items():
        if match := _LAYER.fullmatch(name):
            found |= _of_spleeter(match[1], int(match[2] or 0), match[3], tensor)
    if not found:
        shown = ", ".join(sorted(tensors)[:2]) or "none"
        raise CheckpointError(path, f"its tensors don't belong to a known network ({shown} …)")
    return found


def describe(path: Path, state: State) -> tuple[str, Mapping[str, Any]]:
    """Return family and arguments of a checkpoint's network, if it is a released one.

    Raises:
        CheckpointError: it isn't.
    """
    if "bottleneck.weight" in state:
        return "first_wave_u_net", _wave_u_net(path, state)
    count = len({name.split(".")[1] for name in state})
    if count not in SPLEETER:
        raise CheckpointError(
            path,
            f"{count} U-Nets, whose stems it doesn't say",
            hint=f"put a {path.stem}.yaml with `family: spleeter` and its `arguments` beside it",
        )
    return "spleeter", SPLEETER[count]


def _of_spleeter(kind: str, number: int, part: str, tensor: Tensor) -> State:
    """Return a tensor of a layer as those of our network; none for a layer that changes no output."""
    per_net = {"conv2d": LEVELS + 1, "conv2d_transpose": LEVELS, "batch_normalization": 2 * LEVELS}[kind]
    net, layer = divmod(number, per_net)
    if kind == "conv2d":
        home = "mask" if layer == LEVELS else f"down.{layer}.conv"
    elif kind == "conv2d_transpose":
        home = f"up.{layer}.conv"
    else:
        home = f"down.{layer + 1}.before.0" if layer < LEVELS else f"up.{layer - LEVELS}.norm"
    if part not in _PARTS or home == f"down.{LEVELS}.before.0":  # nothing follows the innermost level
        return {}
    if part == "kernel" and tensor.dim() == 4:
        # [height, width, in, out], of transposed convolutions [height, width, out, in]
        tensor = tensor.permute(3, 2, 0, 1).contiguous()
    name = f"unets.{net}.{home}"
    counted = {f"{name}.num_batches_tracked": torch.tensor(0)} if part == "moving_mean" else {}
    return {f"{name}.{_PARTS[part]}": tensor, **counted}


def _of_wave_u_net(tensors: State) -> State:
    """Return the tensors of a first Wave-U-Net as those of our network; none if they are another's.

    The widest convolution is that of the lowest level, in the middle.
    """
    parts = {match: tensor for name, tensor in tensors.items() if (match := _WAVE.fullmatch(name))}
    kernels = {match: tensor for match, tensor in parts.items() if tensor.dim() == 3}
    widest = max(kernels, key=lambda match: kernels[match].shape[2], default=None)
    levels = int(widest[1] or 0) if widest else 0
    found: State = {}
    for match, tensor in parts.items():
        if match[3]:
            found[f"interpolation.{match[3]}"] = tensor
            continue
        number = int(match[1] or 0)
        if number <= levels:
            home = "bottleneck" if number == levels else f"down.{number}"
        else:
            ups = number - levels - 1
            home = f"up.{ups}" if ups < levels else f"outputs.{ups - levels}"
        # [size, in, out] -> [out, in, size]
        values = tensor.permute(2, 1, 0).contiguous() if tensor.dim() == 3 else tensor
        found[f"{home}.{_PARTS[match[2]]}"] = values
    return found


def _wave_u_net(path: Path, state: State) -> Mapping[str, Any]:
    """Return the arguments of a first Wave-U-Net; the released ones of 44.1 kHz learned to interpolate."""
    outputs = sum(name.startswith("outputs.") and name.endswith("weight") for name in state)
    first, up = (state.get(f"{way}.0.weight", torch.zeros(0)) for way in ("down", "up"))
    if outputs + 1 not in WAVE_STEMS or first.dim() != 3 or up.dim() != 3:
        raise CheckpointError(path, "not a first Wave-U-Net of two or four stems")
    features, channels, size = first.shape
    learned = "interpolation.0" in state
    return {
        "source_names": WAVE_STEMS[outputs + 1],
        "num_initial_filters": features,
        "num_layers": sum(name.startswith("down.") and name.endswith("weight") for name in state),
        "filter_size": size,
        "merge_filter_size": up.shape[2],
        "learned_upsampling": learned,
        "channels": channels,
        "expected_sr": 44100 if learned else 22050,
    }

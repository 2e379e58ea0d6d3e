"""Tensors in checkpoints of TensorFlow, and the names and layouts that the families have for them.

TensorFlow numbers the layers of a kind in the order in which they were made. Spleeter makes the U-Net of one
stem after the other, each from the outside inwards and back.
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


def named(path: Path, tensors: State) -> State:
    """Return the tensors of a checkpoint of TensorFlow as the network's, without those of its optimiser.

    Args:
        path: the checkpoint, for error messages.
        tensors: by TensorFlow's names, in its layouts.

    Raises:
        CheckpointError: they are those of no known network.
    """
    found: State = {}
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

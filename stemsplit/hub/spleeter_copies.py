"""Read copies of Spleeter's networks in PyTorch and ONNX, by the names that their programs gave the layers.

| program | files | layers of a U-Net |
|---|---|---|
| k2-fsa/sherpa-onnx (`.pt`, `.onnx`) | one per stem, named after it | `conv`, `bn`, `conv1` … `up7` |
| tuan3w/spleeter-pytorch | one, with `instruments.0` … | `down1_conv.1`, `down1_act.0` … `up7.0` |
| generalwave/spleeter.pytorch | one, with `vocals` … | `conv_layers.0.conv` … `last_layer` |
| dcyoung/pt-spleeter | one, with `stems.vocals` … | `encoder_layers.0.conv` … `up_final` |

A stem's share of the mix depends on all U-Nets, so a file with one of them is read with those beside it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stemsplit.errors import CheckpointError
from stemsplit.hub.fitting import State
from stemsplit.hub.tensorflow_names import SPLEETER

FAMILY = "spleeter"
STEMS = ("vocals", "accompaniment", "piano", "drums", "bass", "other")
# A layer's name in a copy, its name here, and the difference of their numbers. Long names come first, because
# the last ones end others.
_LAYERS = (
    (r"(?:conv|encoder)_layers\.(\d)\.conv", "down.{}.conv", 0),
    (r"(?:conv|encoder)_layers\.(\d)\.bn", "down.{}.before.0", 1),
    (r"(?:deconv|decoder)_layers\.(\d)\.t?conv", "up.{}.conv", 0),
    (r"(?:deconv|decoder)_layers\.(\d)\.bn", "up.{}.norm", 0),
    (r"mask_layer\.conv()", "up.5.conv", 0),
    (r"mask_layer\.bn()", "up.5.norm", 0),
    (r"(?:last_layer|up_final)()", "mask", 0),
    (r"down(\d)_conv\.1", "down.{}.conv", -1),
    (r"down(\d)_act\.0", "down.{}.before.0", 0),
    (r"up([1-6])\.0", "up.{}.conv", -1),
    (r"up([1-6])\.3", "up.{}.norm", -1),
    (r"up7\.0()", "mask", 0),
    (r"conv([1-5]?)", "down.{}.conv", 0),
    (r"bn([1-4]?)", "down.{}.before.0", 1),
    (r"bn([5-9]|10)", "up.{}.norm", -5),
    (r"up([1-6])", "up.{}.conv", -1),
    (r"up7()", "mask", 0),
)
LAYERS = tuple((re.compile(rf"(?:(.*)\.)?{name}"), home, shift) for name, home, shift in _LAYERS)
FIRST = "down.0.conv.weight"
ACTIVATIONS = {"LeakyRelu": "LeakyReLU", "Relu": "ReLU", "Elu": "ELU"}


class Whole(NamedTuple):
    """A network with all its stems.

    Attributes:
        state: tensors by the names of `models.spleeter.Spleeter`.
        arguments: those of the family that the stems and the tensors tell.
        parts: the other files that it was read from.
    """

    state: State
    arguments: Mapping[str, Any]
    parts: tuple[Path, ...]


def is_copy(state: Mapping[str, Tensor]) -> bool:
    """Return whether tensors are those of a copy, whose last layer makes masks of a single feature."""
    return any(value.shape[1:] == (1, 4, 4) for value in state.values()) and bool(_nets(state))


def whole(path: Path, state: Mapping[str, Tensor], read: Callable[[Path], State]) -> Whole:
    """Return the network of a copy, with the U-Nets that are in files beside it.

    Args:
        path: the file.
        state: its tensors.
        read: returns those of another file.

    Raises:
        CheckpointError: the other stems' files are missing, or other networks, or the stems aren't known.
    """
    nets = _nets(state)
    parts: tuple[Path, ...] = ()
    if len(nets) == 1:
        files = _files(path)
        parts = tuple(file for file in files.values() if file != path)
        nets = {stem: _net(file, state if file == path else read(file)) for stem, file in files.items()}
    stems = _stems(path, tuple(nets))
    released = next((SPLEETER[n] for n in SPLEETER if set(_instruments(n)) == set(stems)), {})
    first = next(iter(nets.values()))
    sizes = {"n_channels": first[FIRST].shape[1], "conv_n_filters": _widths(first)}
    tensors = {
        f"unets.{i}.{name}": value for i, net in enumerate(nets.values()) for name, value in net.items()
    }
    return Whole(tensors, {**released, "instrument_list": stems, **sizes}, parts)


def of_graph(graph: Any) -> dict[str, Any]:
    """Return the arguments that an ONNX graph of a U-Net shows: sizes of its input, and activations."""
    names = {tensor.name for tensor in graph.initializer}
    inputs = [one for one in graph.input if one.name not in names]
    sizes = [size.dim_value for size in inputs[0].type.tensor_type.shape.dim] if len(inputs) == 1 else []
    used = [ACTIVATIONS[node.op_type] for node in graph.node if node.op_type in ACTIVATIONS]
    shown = dict(zip(("T", "F"), sizes[2:], strict=False)) if len(sizes) == 4 and all(sizes[2:]) else {}
    return shown | ({"conv_activation": used[0], "deconv_activation": used[-1]} if used else {})


def _home(layer: str) -> tuple[str, str] | None:
    """Return what stands before a layer's name, and its name here; None for a layer of another network."""
    for pattern, home, shift in LAYERS:
        if match := pattern.fullmatch(layer):
            return match[1] or "", home.format(int(match[2] or 0) + shift)
    return None


def _nets(state: Mapping[str, Tensor]) -> dict[str, State]:
    """Return the tensors of each U-Net by our names, by what stands before its names."""
    found: dict[str, State] = {}
    for name, value in state.items():
        layer, _, part = name.rpartition(".")
        home = _home(layer)
        if home is None or part == "num_batches_tracked":
            continue
        net = found.setdefault(home[0], {})
        net[f"{home[1]}.{part}"] = value
        if part == "running_mean":
            net[f"{home[1]}.num_batches_tracked"] = torch.tensor(0)
    return {prefix: _used(net) for prefix, net in found.items() if "mask.weight" in net and _widths(net)}


def _used(net: State) -> State:
    """Return a U-Net's tensors without the normalisation of the innermost level, whose output isn't used."""
    unused = f"down.{len(_widths(net))}.before."
    return {name: value for name, value in net.items() if not name.startswith(unused)}


def _widths(net: State) -> tuple[int, ...]:
    """Return the widths of a U-Net's levels."""
    widths: list[int] = []
    while (value := net.get(f"down.{len(widths)}.conv.weight")) is not None and value.dim() == 4:
        widths.append(value.shape[0])
    return tuple(widths)


def _net(path: Path, state: Mapping[str, Tensor]) -> State:
    nets = _nets(state)
    if len(nets) != 1:
        raise CheckpointError(path, "not one U-Net of Spleeter, as the file beside it")
    return next(iter(nets.values()))


def _files(path: Path) -> dict[str, Path]:
    """Return the files of all stems by stem, where one is named after its stem: most stems count.

    Raises:
        CheckpointError: it isn't, or the others are missing.
    """
    words = list(re.finditer(r"[a-z]+", path.name))
    own = [word for word in words if word[0] in STEMS]
    for count in sorted(SPLEETER, reverse=True):
        if len(own) != 1 or own[0][0] not in _instruments(count):
            continue
        start, end = path.name[: own[0].start()], path.name[own[0].end() :]
        files = {stem: path.with_name(f"{start}{stem}{end}") for stem in _instruments(count)}
        if all(file.is_file() for file in files.values()):
            return files
    names = f"vocals{path.suffix} and accompaniment{path.suffix}"
    raise CheckpointError(
        path,
        "one U-Net of Spleeter, without the other stems' beside it",
        hint=f"put the files of all stems into one folder, named after them: {names}",
    )


def _stems(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the stems of the U-Nets, which are told by name, or numbered in the order of the original."""
    lasts = tuple(name.rpartition(".")[2] for name in names)
    if not all(map(str.isdecimal, lasts)):
        return lasts
    if len(lasts) not in SPLEETER:
        raise CheckpointError(path, f"{len(lasts)} U-Nets, whose stems it doesn't say")
    return _instruments(len(lasts))


def _instruments(count: int) -> tuple[str, ...]:
    return tuple(SPLEETER[count].get("instrument_list", STEMS[:2]))

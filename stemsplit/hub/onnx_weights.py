"""Read the weights of an exported MDX-Net or Spleeter from an ONNX file, whose graph is never run.

Spleeter's have the names of PyTorch's layers (see `spleeter_copies`).

Exporters of MDX-Nets fold the normalisation after a convolution into the convolution, and leave anonymous
tensors (`onnx::Conv_266`, in older files bare numbers). Names are therefore ignored: the layers are taken in
the order of the graph, which is that of the computation, and have to be those of an MDX-Net, one by one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub import spleeter_copies
from stemsplit.hub.fitting import State

FAMILY = "mdx_net"  # of the networks that are read
# The released files have up to 67 MB and 250 nodes, those with group normalisation some 1000.
LARGEST_BYTES = 2**30
MOST_NODES = 20_000
MOST_BLOCKS = 101
EPSILON = 1e-5  # of the network's normalisations
GROUPS = 2  # of its group normalisation

# Nodes that only arrange, connect or activate. Others would be another network.
_CONNECTIONS = {"Add", "Mul", "Relu", "Reshape", "Shape", "Transpose"}
# An ONNX file is a protobuf message: field 1, the version of the format, is a small number. One of the other
# fields of a model follows it.
_FIELD_1, _NEXT_FIELDS = 0x08, {0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42}


class Exported(NamedTuple):
    """Content of an ONNX file.

    Attributes:
        state: tensors by the names of `models.mdx_net.MDXNet`, or by those of a copy of Spleeter.
        arguments: the network's arguments that the graph shows, which are all but those of the transform.
    """

    state: State
    arguments: Mapping[str, Any]


@dataclass
class Layer:
    """A convolution or linear layer of the graph, with its normalisation.

    Attributes:
        kind: 1 for a convolution of kernel size 1, c for any other, d for one of stride 2, u for a transposed
            one, l for a linear layer.
        weight: as PyTorch stores it.
        bias: None for none.
        batch: weight, bias, mean and variance of batch normalisation.
        scale, shift: of group normalisation, None for none.
    """

    kind: str
    weight: Tensor
    bias: Tensor | None = None
    batch: tuple[Tensor, ...] | None = None
    scale: Tensor | None = None
    shift: Tensor | None = None


def is_onnx(path: Path) -> bool:
    """Return whether a file looks like an ONNX model."""
    with path.open("rb") as file:
        start = file.read(3)
    return len(start) == 3 and start[0] == _FIELD_1 and 0 < start[1] < 0x80 and start[2] in _NEXT_FIELDS


def read(path: Path) -> Exported:
    """Return the weights and the arguments of an MDX-Net, or of a copy of Spleeter.

    Raises:
        CheckpointError: the file is damaged, too large, or another network.
        StemsplitError: the package onnx isn't installed.
    """
    try:
        import onnx
    except ImportError as error:
        hint = "pip install 'stemsplit-cli[onnx]'"
        raise StemsplitError(f"{path}: reading ONNX files needs onnx", hint=hint) from error
    if path.stat().st_size > LARGEST_BYTES:
        raise CheckpointError(path, "too large for an MDX-Net")
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except MemoryError:
        raise
    except Exception as error:  # protobuf's errors have no common base
        raise CheckpointError(path, "not a readable ONNX file") from error
    try:
        return _exported(graph)
    except StemsplitError as error:
        raise CheckpointError(path, error.reason) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError) as error:
        raise CheckpointError(path, "not a readable ONNX file: its graph is damaged") from error


def _exported(graph: Any) -> Exported:
    if len(graph.node) > MOST_NODES:
        raise StemsplitError("an ONNX graph of more nodes than an MDX-Net has")
    tensors = {tensor.name: _tensor(tensor) for tensor in graph.initializer}
    if spleeter_copies.is_copy(tensors):
        return Exported(tensors, spleeter_copies.of_graph(graph))
    layers = _layers(graph.node, tensors)
    blocks, convolutions = _shape("".join(layer.kind for layer in layers))
    grouped = layers[0].scale is not None
    named = dict(zip(_names(blocks, convolutions), layers, strict=True))
    state: State = {}
    for name, layer in named.items():
        state |= _named(name, layer, grouped and name != "final_conv.0")
    narrow, bins = named["encoding_blocks.0.tdf.0" if blocks > 1 else "bottleneck_block.tdf.0"].weight.shape
    arguments = {
        "audio_channels": layers[0].weight.shape[1] // 2,
        "dim_f": bins,
        "num_blocks": blocks,
        "l": convolutions,
        "g": layers[0].weight.shape[0],
        "k": layers[1].weight.shape[-1],
        "bn": bins // narrow,
        "bias": "bottleneck_block.tdf.0.bias" in state,
        "norm": "gn" if grouped else "bn",
        "folded": not grouped,
    }
    if frames := _frames(graph):
        arguments["dim_t"] = frames
    return Exported(state, arguments)


def _tensor(proto: Any) -> Tensor:
    from onnx import TensorProto, numpy_helper

    if proto.data_location == TensorProto.EXTERNAL:
        raise StemsplitError("keeps its weights in another file, which isn't read")
    if proto.data_type == TensorProto.STRING or any(size < 0 for size in proto.dims):
        raise StemsplitError("an ONNX file with weights that aren't numbers")
    values = numpy_helper.to_array(proto)
    return torch.from_numpy(np.array(values, np.float32 if values.dtype.kind == "f" else values.dtype))


def _layers(nodes: Iterable[Any], known: dict[str, Tensor]) -> list[Layer]:
    """Return the graph's layers in their order.

    Args:
        nodes: of the graph.
        known: its constants by name; those that nodes make of them are added.
    """
    found: list[Layer] = []
    for node in nodes:
        constants = [known[name] for name in node.input if name in known]
        if node.op_type == "Constant":
            known[node.output[0]] = _constant(node)
        elif constants and len(constants) == len([n for n in node.input if n]):
            known[node.output[0]] = _rearranged(node, constants[0])
        elif node.op_type in ("Conv", "ConvTranspose", "MatMul"):
            found.append(_layer(node, constants))
        elif node.op_type == "BatchNormalization":
            if _attribute(node, "epsilon", EPSILON) != np.float32(EPSILON):
                raise StemsplitError("batch normalisation with another epsilon than an MDX-Net's")
            found[-1].batch = tuple(constants)
        elif node.op_type == "InstanceNormalization":
            if len(constants[0]) != GROUPS or _attribute(node, "epsilon", EPSILON) != np.float32(EPSILON):
                raise StemsplitError("another group normalisation than an MDX-Net's")
        elif node.op_type not in _CONNECTIONS:
            raise StemsplitError(f"an ONNX graph with {str(node.op_type)[:40]}, which isn't an MDX-Net")
        elif constants and node.op_type in ("Add", "Mul"):
            _adjust(found[-1], node.op_type, constants[0].flatten())
    return found


def _constant(node: Any) -> Tensor:
    if len(node.attribute) != 1 or node.attribute[0].name != "value":
        raise StemsplitError("an ONNX graph with a constant that is no tensor")
    return _tensor(node.attribute[0].t)


def _rearranged(node: Any, value: Tensor) -> Tensor:
    """Return the constant that a node makes of a constant: a linear layer's weight, transposed."""
    if node.op_type == "Transpose" and value.dim() == 2:
        return value.t()
    if node.op_type in ("Identity", "Unsqueeze"):  # a norm's factors are flattened anyway
        return value
    raise StemsplitError(f"an ONNX graph that computes weights by {node.op_type}, which isn't done here")


def _layer(node: Any, constants: list[Tensor]) -> Layer:
    weight, bias = constants[0], constants[1] if len(constants) > 1 else None
    if node.op_type == "MatMul":
        if weight.dim() != 2 or bias is not None:
            raise StemsplitError("an ONNX graph with a product that is no linear layer")
        return Layer("l", weight.t())
    if weight.dim() != 4 or _attribute(node, "group", 1) != 1:
        raise StemsplitError("an ONNX graph with a convolution that isn't over frames and bins")
    strides = list(_attribute(node, "strides", [1, 1]))
    if node.op_type == "ConvTranspose":
        kind = "u" if strides == [2, 2] else "?"
    else:
        kind = {1: "1" if weight.shape[-1] == 1 else "c", 2: "d"}.get(max(strides), "?")
    return Layer(kind, weight, weight.new_zeros(_outputs(kind, weight)) if bias is None else bias)


def _outputs(kind: str, weight: Tensor) -> int:
    return weight.shape[1 if kind == "u" else 0]


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    found = (helper.get_attribute_value(one) for one in node.attribute if one.name == name)
    return next(found, default)


def _adjust(layer: Layer, operator: str, value: Tensor) -> None:
    """Add a constant to a layer: the bias of a linear one, or factor and offset of a group normalisation."""
    if operator == "Mul" and layer.scale is None:
        layer.scale = value
    elif operator == "Add" and layer.scale is not None and layer.shift is None:
        layer.shift = value
    elif operator == "Add" and layer.kind == "l" and layer.bias is None and layer.batch is None:
        layer.bias = value
    else:
        raise StemsplitError("an ONNX graph with constants that an MDX-Net doesn't have")


def _shape(kinds: str) -> tuple[int, int]:
    """Return the numbers of blocks, and of convolutions per block, of an MDX-Net with layers of these kinds.

    Raises:
        StemsplitError: an MDX-Net has other layers.
    """
    scales, convolutions = kinds.count("d"), kinds.find("l") - 1
    if 0 < convolutions and 2 * scales < MOST_BLOCKS:
        block = "c" * convolutions + "ll"
        if kinds == "1" + (block + "d") * scales + block + ("u" + block) * scales + "1":
            return 2 * scales + 1, convolutions
    raise StemsplitError("an ONNX file, but not that of an MDX-Net")


def _names(blocks: int, convolutions: int) -> list[str]:
    """Return the names of all layers in the order of the computation."""

    def inside(block: str) -> list[str]:
        return [f"{block}.tfc.H.{i}.0" for i in range(convolutions)] + [f"{block}.tdf.{i}" for i in (0, 3)]

    names = ["first_conv.0"]
    for i in range(blocks // 2):
        names += [*inside(f"encoding_blocks.{i}"), f"ds.{i}.0"]
    names += inside("bottleneck_block")
    for i in range(blocks // 2):
        names += [f"us.{i}.0", *inside(f"decoding_blocks.{i}")]
    return [*names, "final_conv.0"]


def _named(name: str, layer: Layer, grouped: bool) -> State:
    """Return the tensors of a layer by name, batch normalisation after a convolution folded into it.

    Raises:
        StemsplitError: the layer has another normalisation than those of an MDX-Net.
    """
    place, index = name.rsplit(".", 1)
    norm = f"{place}.{int(index) + 1}"
    if grouped != (layer.scale is not None and layer.shift is not None) or (grouped and layer.batch):
        raise StemsplitError("an ONNX graph with the normalisation of some layers only")
    state = {f"{name}.weight": layer.weight}
    if layer.bias is not None:
        state[f"{name}.bias"] = layer.bias
    if grouped and layer.scale is not None and layer.shift is not None:
        return state | {f"{norm}.weight": layer.scale, f"{norm}.bias": layer.shift}
    if layer.kind != "l":
        return state if layer.batch is None else _folded(name, layer)
    if layer.batch is None:
        raise StemsplitError("an ONNX graph with a linear layer without normalisation")
    keys = ("weight", "bias", "running_mean", "running_var")
    return state | {f"{norm}.{key}": value for key, value in zip(keys, layer.batch, strict=True)}


def _folded(name: str, layer: Layer) -> State:
    """Return weight and bias of a convolution with its batch normalisation: γ (W x + b − μ)/√(σ² + ε) + β."""
    weight, bias, mean, variance = layer.batch or ()
    scale = weight / (variance + EPSILON).sqrt()
    across = scale[None, :, None, None] if layer.kind == "u" else scale[:, None, None, None]
    before = mean.new_zeros(()) if layer.bias is None else layer.bias
    return {f"{name}.weight": layer.weight * across, f"{name}.bias": (before - mean) * scale + bias}


def _frames(graph: Any) -> int | None:
    """Return the number of frames of the graph's input [B, 2C, F, frames]; None for any."""
    names = {tensor.name for tensor in graph.initializer}  # older exporters list them as inputs too
    inputs = [one for one in graph.input if one.name not in names]
    if len(inputs) != 1 or len(sizes := inputs[0].type.tensor_type.shape.dim) != 4:
        return None
    return int(sizes[3].dim_value) or None

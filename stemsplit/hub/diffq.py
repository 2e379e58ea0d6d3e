"""Decode weights that were quantised by DiffQ.

Défossez, Adi and Synnaeve, "Differentiable Model Compression via Pseudo Quantization Noise", 2021 (arXiv
2104.09987): the weights of a tensor are rounded to 2^b − 1 equal steps between its minimum and its maximum
(section 3.1). Each group of adjacent weights has its own number of bits b, or all have the same ("uniform").

| key of a state | content |
|---|---|
| `quantized` | per quantised parameter, in order: (levels, (minimum, maximum), bits); uniform: without bits |
| `others`, or `float16` | the other parameters, in order |
| `meta` | `init_kwargs`: `group_size`, `min_bits` (2), `bits` of a uniform one (8); not in the oldest files |
| `compressed` | instead of all that, in demucs 2: such a state as `torch.save` writes it, by zlib |

Quantised are the parameters of more weights than a limit. Levels and bits are arrays of integers, or packed:
an int64 array [blocks, planes, 32] holds 2048 integers per block, and bit i of word w in plane p is bit p of
integer 32·i + w. Packed bits count from `min_bits`. Packed levels are a list, whose item b − 1 has those of
the groups of b bits.

All of this was found out from states that the package wrote; nothing of its code is here.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.hub.fitting import State

WORDS, WORD_BITS = 32, 64
BLOCK = WORDS * WORD_BITS  # integers per block of a packed array
MOST_BITS = 15  # per weight

Shapes = Mapping[str, Sequence[int]]


def is_quantised(state: Mapping[Any, Any]) -> bool:
    """Return whether a state is quantised."""
    return isinstance(state.get("quantized"), list) or isinstance(state.get("compressed"), bytes)


def decompressed(data: bytes, shapes: Shapes) -> bytes:
    """Return the content of `compressed`, for parameters of known shapes.

    Raises:
        ValueError: it is damaged, or longer than any state of these parameters.
    """
    # at most two bytes per level and one per group, or four per weight; and a few names for each parameter
    most = 8 * sum(map(math.prod, shapes.values())) + 4096 * (len(shapes) + 1)
    stream = zlib.decompressobj()
    try:
        content = stream.decompress(data, most)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not stream.eof:
        raise ValueError("its compressed data is too long, or cut short")
    return content


def restored(state: Mapping[str, Any], shapes: Shapes) -> State:
    """Return the weights of a quantised state.

    Args:
        state: with the keys above but `compressed`.
        shapes: of all parameters by name, in the order of the network that was quantised.

    Raises:
        ValueError: the state doesn't fit the parameters; others may come from a malformed state, too.
    """
    settings = state.get("meta", {}).get("init_kwargs", {})
    entries, others = state["quantized"], [*state.get("float16", ()), *state["others"]]
    if len(entries) + len(others) != len(shapes):
        raise ValueError(f"{len(entries)} and {len(others)} parameters, of {len(shapes)}")
    quantised = _largest(shapes, len(entries))
    left, right = iter(entries), iter(others)
    found = {}
    for name, shape in shapes.items():
        if name in quantised:
            found[name] = _weights(next(left), math.prod(shape), settings).view(*shape)
            continue
        found[name] = other = next(right)
        if list(other.shape) != list(shape) or not other.is_floating_point():
            raise ValueError(f"{name} is {list(other.shape)}, not {list(shape)}")
    return found


def _largest(shapes: Shapes, count: int) -> set[str]:
    """Return the names of the `count` parameters of the most weights.

    Raises:
        ValueError: one of them is as large as one that isn't among them.
    """
    by_size = sorted(shapes, key=lambda name: -math.prod(shapes[name]))
    first, rest = by_size[:count], by_size[count:]
    if first and rest and math.prod(shapes[first[-1]]) == math.prod(shapes[rest[0]]):
        raise ValueError(f"{first[-1]} is quantised, but not {rest[0]}, which is as large")
    return set(first)


def _weights(entry: Any, count: int, settings: Mapping[str, Any]) -> Tensor:
    """Return the weights of one parameter, [count]."""
    levels, (low, high), *bits = entry
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"weights from {low} to {high}")
    if not bits:
        each = torch.tensor([[int(settings.get("bits", 8))]])  # [1, 1]
        levels = _integers(levels, count).view(1, -1)
    elif isinstance(levels, list):
        groups = count // (int(settings.get("group_size", 1)) or count)
        each = (_integers(bits[0], groups) + int(settings.get("min_bits", 2))).view(-1, 1)  # [groups, 1]
        levels = _merged(levels, each, count)  # [groups, size]
    else:
        each = _integers(bits[0], bits[0].numel()).view(-1, 1)  # [groups, 1]
        levels = _integers(levels, count).view(len(each), -1)  # [groups, size]
    steps = 2 ** each.long().clamp(1, MOST_BITS) - 1
    if (each != each.clamp(1, MOST_BITS)).any() or (levels < 0).any() or (levels > steps).any():
        raise ValueError("levels beyond their number of bits")
    # in this order, in which DiffQ computes: the result is the same to the bit
    weights: Tensor = levels.float() * (1 / steps.float()) * (high - low) + low
    return weights.flatten()


def _merged(by_bits: list[Any], bits: Tensor, count: int) -> Tensor:
    """Return the levels of all groups, from a packed array for each number of bits.

    Args:
        by_bits: the arrays; item b − 1 is for b bits, None if there are none.
        bits: per group, [groups, 1].
        count: number of levels.

    Returns:
        [groups, size].

    Raises:
        ValueError: there is no array for a number of bits. DiffQ stores none for 15 bits, and reads those
            groups as whatever the memory holds.
    """
    levels = torch.zeros(len(bits), count // len(bits), dtype=torch.int16)
    for b in bits.unique().tolist():
        if not 0 < b <= len(by_bits):
            raise ValueError(f"groups of {b} bits, whose levels aren't stored")
        chosen = bits.flatten() == b
        size = int(chosen.sum()) * levels.shape[1]
        levels[chosen] = _integers(by_bits[b - 1], size).to(torch.int16).view(-1, levels.shape[1])
    return levels


def _integers(array: Any, count: int) -> Tensor:
    """Return `count` integers, packed or not, as int16 or as they are stored: [count].

    Raises:
        ValueError: there are more or fewer, or they aren't integers.
    """
    if not isinstance(array, Tensor) or array.is_floating_point() or array.is_complex():
        raise ValueError(f"no array of integers where {count} are expected")
    if array.dtype == torch.int64 and array.ndim == 3:
        return torch.from_numpy(unpacked(array, count))
    if array.numel() != count:
        raise ValueError(f"{array.numel()} integers, not {count}")
    return array.flatten().to(torch.int16) if array.dtype != torch.int64 else array.flatten()


def unpacked(packed: Tensor, count: int) -> NDArray[np.int16]:
    """Return the `count` integers of a packed array, int64 [blocks, planes, 32]: [count].

    Raises:
        ValueError: it has another shape than that of so many integers.
    """
    blocks, planes, words = packed.shape
    if (blocks, words) != (-(-count // BLOCK), WORDS) or planes > MOST_BITS:
        raise ValueError(f"a packed array of {list(packed.shape)} for {count} integers")
    values = np.zeros((blocks, WORD_BITS, WORDS), np.int16)
    for plane in range(planes):
        rows = packed[:, plane].numpy().astype("<i8", order="C")  # [blocks, 32]
        bits = np.unpackbits(rows.view(np.uint8), axis=-1, bitorder="little")  # [blocks, 32·64]
        values |= bits.reshape(blocks, WORDS, WORD_BITS).transpose(0, 2, 1).astype(np.int16) << plane
    return values.reshape(-1)[:count]


def nested(tensors: State, structure: Any) -> Any:
    """Return the state that demucs 4.1 stores as tensors by name and their places, as JSON, in safetensors.

    Args:
        tensors: by name.
        structure: of a node: `{"_tensor": name}`, `{"_dict": [[key, node], …]}`, `{"_list": nodes}`,
            `{"_tuple": nodes}`, `{"_class": name}`, or a plain value.

    Raises:
        ValueError: a node is of another kind, or names no tensor.
    """
    match structure:
        case {"_tensor": str(name)} if name in tensors:
            return tensors[name]
        case {"_dict": [*items]}:
            return {key: nested(tensors, value) for key, value in items}
        case {"_list": [*items]}:
            return [nested(tensors, item) for item in items]
        case {"_tuple": [*items]}:
            return tuple(nested(tensors, item) for item in items)
        case {"_class": str(name)}:
            return name
        case str() | int() | float() | None:
            return structure
    raise ValueError(f"an unknown kind of node in its structure: {str(structure)[:50]}")

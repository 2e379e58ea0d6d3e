"""Read checkpoints of TensorFlow without TensorFlow: an index, and files with the tensors' bytes.

| file | content |
|---|---|
| `X.index` | table from each tensor's name to a `BundleEntryProto`: type, shape, place, check value |
| `X.data-00000-of-00001` … | the bytes |
| archive (`.tar.gz`, `.zip`) | both, as the releases of Spleeter and of the first Wave-U-Net have them |

The graph (`.meta`) isn't read.
Reference: tensorflow/core/protobuf/tensor_bundle.proto.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub import archives, sstables
from stemsplit.hub.archives import MOST_DATA, BadArchive
from stemsplit.hub.bags import INDEX
from stemsplit.hub.fitting import State
from stemsplit.hub.sstables import FOOTER_BYTES, MOST_BYTES, Damaged, Varints

Bytes = NDArray[np.uint8]

SHARD = re.compile(r"\.data-(\d{5})-of-(\d{5})$")
MOST_DIMENSIONS = 8
TYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    9: torch.int64,
    14: torch.bfloat16,
    19: torch.float16,
}
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types of protobuf


@dataclass
class Entry:
    """A tensor of the index.

    Attributes:
        dtype: number of its type.
        shape: its sizes.
        shard: number of the file with its bytes.
        offset: of its first byte.
        size: its bytes.
        check: its check value, masked.
        sliced: whether it is stored in parts.
    """

    dtype: int = 0
    shape: list[int] = field(default_factory=list)
    shard: int = 0
    offset: int = 0
    size: int = 0
    check: int = 0
    sliced: bool = False


def is_bundle(path: Path) -> bool:
    """Return whether a file is the index of a checkpoint, a zip archive with one, or any archive of tar."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - FOOTER_BYTES))
        if sstables.is_table(file.read()):
            return True
    return archives.kind(path) == "tar" or archives.has(path, lambda name: name.endswith(INDEX))


def read(path: Path, member: str = "") -> State:
    """Return the tensors of a checkpoint by name, without strings and other things that aren't numbers.

    Args:
        path: the `.index` file, with the others beside it, or an archive.
        member: the folder in the archive; empty for all of it.

    Raises:
        CheckpointError: a file is damaged, missing or too large.
    """
    try:
        index, shards = _beside(path) if path.suffix == INDEX else _archived(path, member)
        return dict(_tensors(index, shards))
    except StemsplitError as error:
        raise CheckpointError(path, error.reason) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"not a readable checkpoint ({error})") from error


def _beside(path: Path) -> tuple[bytes, dict[int, Bytes]]:
    """Return the index and the mapped data files of a checkpoint."""
    if path.stat().st_size > MOST_BYTES:
        raise Damaged("its index is too large")
    shards = {}
    for file in sorted(path.parent.glob("*.data-*")):
        match = SHARD.search(file.name)
        if match and file.name[: match.start()] == path.stem and file.stat().st_size:
            shards[int(match[1])] = np.memmap(file, np.uint8, "r")
    return path.read_bytes(), dict(shards)


def _archived(path: Path, member: str) -> tuple[bytes, dict[int, Bytes]]:
    """Return the index and the data files in an archive, which are read into memory."""
    inside = archives.within(member)
    indices: list[bytes] = []
    shards: dict[int, Bytes] = {}
    for name, content in archives.contents(path, lambda n: inside(n) and _is_part(n)):
        match = SHARD.search(name)
        if match is None:
            indices.append(bytes(content))
            continue
        if int(match[1]) in shards:
            raise BadArchive("its archive has several checkpoints")
        shards[int(match[1])] = np.frombuffer(content, np.uint8)
    if len(indices) != 1:
        where = f" in {member}" if member else ""
        raise BadArchive(f"its archive has {len(indices)} checkpoints of TensorFlow{where}, not one")
    return indices[0], shards


def _is_part(name: str) -> bool:
    return name.endswith(INDEX) or SHARD.search(name) is not None


def _tensors(index: bytes, shards: Mapping[int, Bytes]) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and tensors of a checkpoint."""
    for key, value in sstables.entries(index):
        if not key:
            _check_header(value)
            continue
        name = key.decode("utf-8", "replace")
        entry = _entry(value)
        if entry.dtype in TYPES:
            yield name, _tensor(name, entry, shards)


def _tensor(name: str, entry: Entry, shards: Mapping[int, Bytes]) -> Tensor:
    """Return a tensor, whose memory is its own."""
    dtype = TYPES[entry.dtype]
    if entry.sliced:
        raise Damaged(f"{name} is stored in slices, which aren't supported")
    if math.prod(entry.shape) * dtype.itemsize != entry.size:
        raise Damaged(f"its index is damaged ({name} has {entry.size} bytes)")
    if not entry.size:
        return torch.zeros(entry.shape, dtype=dtype)
    data = shards.get(entry.shard)
    if data is None:
        raise Damaged(f"its data file {entry.shard} is missing")
    if entry.offset + entry.size > len(data):
        raise Damaged(f"its data file {entry.shard} is cut short: {name} lies beyond its end")
    content = np.array(data[entry.offset : entry.offset + entry.size])
    sstables.require_unchanged(name, content, entry.check)
    return torch.from_numpy(content).view(dtype).view(entry.shape)


def _check_header(message: bytes) -> None:
    """Refuse a checkpoint whose numbers have their highest byte first."""
    if any(number == 2 and value != 0 for number, value in _fields(message)):
        raise Damaged("a checkpoint of a big-endian machine, which isn't supported")


def _entry(message: bytes) -> Entry:
    entry = Entry()
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            entry.shape = _shape(value)
        elif number == 7:
            entry.sliced = True
        elif isinstance(value, int) and number in (1, 3, 4, 5, 6):
            setattr(entry, ("dtype", "", "shard", "offset", "size", "check")[number - 1], value)
    return entry


def _shape(message: bytes) -> list[int]:
    """Return the sizes of a `TensorShapeProto`."""
    sizes = []
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            found = [size for inner, size in _fields(value) if inner == 1 and isinstance(size, int)]
            sizes.append(found[-1] if found else 0)
    if len(sizes) > MOST_DIMENSIONS or math.prod(sizes) > MOST_DATA:
        raise Damaged("its index is damaged (an impossible shape)")
    return sizes


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the fields of a protobuf message: their numbers and values."""
    place = Varints(message, 0)
    while place.at < len(message):
        tag = place.next()
        number, kind = tag >> 3, tag & 7
        if kind == VARINT:
            yield number, place.next()
        elif kind == LENGTH:
            yield number, place.take(place.next())
        elif kind in (FIXED32, FIXED64):
            yield number, int.from_bytes(place.take(4 if kind == FIXED32 else 8), "little")
        else:
            raise Damaged("its index is damaged (an unknown kind of field)")

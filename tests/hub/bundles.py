"""Writer of TensorFlow's checkpoints, which shares no code with the reader.

Made from the descriptions of the formats:
tensorflow/core/util/tensor_bundle and LevelDB's doc/table_format.md.
"""

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

NUMBERS = {
    torch.float32: 1,
    torch.float64: 2,
    torch.int32: 3,
    torch.int64: 9,
    torch.bfloat16: 14,
    torch.float16: 19,
}
RESTART = 16  # entries between two keys that are written in full
MAGIC = bytes.fromhex("57fb808b247547db")


def varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def after(register: int, bits: int) -> int:
    """A register of CRC-32C some bits later."""
    for _ in range(bits):
        register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register


AFTER_BYTE = [after(byte, 8) for byte in range(256)]


def check(data: bytes) -> bytes:
    """The masked CRC-32C of data, byte by byte."""
    register = 0xFFFFFFFF
    for byte in data:
        register = AFTER_BYTE[(register ^ byte) & 0xFF] ^ register >> 8
    value = register ^ 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def snappy(data: bytes) -> bytes:
    """Data as literals of up to 60 bytes, and copies of the last 1 to 64 bytes where they repeat."""
    found, at = bytearray(varint(len(data))), 0
    while at < len(data):
        for offset in (1, 3, 8, 40):
            length = 0
            while at + length < len(data) and offset <= at and length < 64:
                if data[at + length] != data[at + length - offset]:
                    break
                length += 1
            if length >= 4:
                short = length < 12
                found += bytes([length - 4 << 2 | 1, offset]) if short else b""
                found += b"" if short else bytes([length - 1 << 2 | 2]) + struct.pack("<H", offset)
                at += length
                break
        else:
            part = data[at : at + 7]
            found += bytes([len(part) - 1 << 2]) + part
            at += len(part)
    return bytes(found)


def block(entries: list[tuple[bytes, bytes]], compress: bool) -> bytes:
    content, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % RESTART:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        else:
            restarts.append(len(content))
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    content += struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))
    packed = snappy(bytes(content)) + b"\x01" if compress else bytes(content) + b"\x00"
    return packed + check(packed)


def table(entries: list[tuple[bytes, bytes]], *, size: int = 40, compress: bool = False) -> bytes:
    """A table with up to `size` entries in a block."""
    found, handles = bytearray(), []

    def add(part: list[tuple[bytes, bytes]]) -> bytes:
        written = block(part, compress)
        handle = varint(len(found)) + varint(len(written) - 5)
        found.extend(written)
        return handle

    for start in range(0, len(entries), size):
        part = entries[start : start + size]
        handles.append((part[-1][0], add(part)))
    others = add([])
    index = add(handles)
    return bytes(found) + (others + index).ljust(40, b"\x00") + MAGIC


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """A protobuf message of integers and bytes; field 6 of a bundle's entry is of four bytes."""
    found = b""
    for number, value in fields:
        if isinstance(value, int):
            found += varint(number << 3) + varint(value)
        elif number == 6:
            found += varint(number << 3 | 5) + value
        else:
            found += varint(number << 3 | 2) + varint(len(value)) + value
    return found


def bundle(
    tensors: Mapping[str, Tensor], *, compress: bool = False, more: Mapping[str, bytes] | None = None
) -> tuple[bytes, bytes]:
    """Index and data of a checkpoint; `more` has further entries of the index."""
    entries, data = dict(more or {}), bytearray()
    entries[""] = message((1, 1), (3, message((1, 1))))
    for name, tensor in tensors.items():
        content = bytes(tensor.contiguous().untyped_storage())[: tensor.nbytes]
        shape = message(*((2, message((1, size))) for size in tensor.shape))
        entries[name] = message(
            (1, NUMBERS[tensor.dtype]), (2, shape), (4, len(data)), (5, len(content)), (6, check(content))
        )
        data += content
    ordered = sorted((name.encode(), value) for name, value in entries.items())
    return table(ordered, compress=compress), bytes(data)


def archive(path: Path, files: Mapping[str, bytes], mode: str = "w:gz") -> Path:
    """Write an archive of files by name."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path

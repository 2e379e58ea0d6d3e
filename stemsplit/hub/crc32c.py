"""CRC-32C (Castagnoli), the check value of TensorFlow's files, fast enough for hundreds of megabytes.

The register is linear over GF(2): the value of A followed by B is that of A, moved over as many zero bytes as
B has, plus that of B. So many lanes are computed at once, and then joined in pairs.
"""

from functools import cache, reduce
from operator import xor

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]

POLYNOMIAL = 0x82F63B78  # bit-reversed
ALL = 0xFFFFFFFF
MASK_DELTA = (
    0xA282EAD8  # TensorFlow stores rotated values plus this, so that no file holds its own check value
)
_BITS = np.arange(32, dtype=np.uint32)
LANE_BITS = 10  # a lane has up to 2 to the power of this many bytes


def _table() -> Words:
    """Return the register after one byte, by that byte: [256]."""
    values = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        values = np.where(values & 1, values >> 1 ^ np.uint32(POLYNOMIAL), values >> 1)
    return values.astype(np.uint32)


TABLE = _table()


def crc32c(data: NDArray[np.uint8]) -> int:
    """Return the check value of bytes, [N]."""
    bits = min(LANE_BITS, max(1, len(data).bit_length() // 2))
    size = 1 << bits
    lanes = -(-len(data) // size)
    # Zeros in front don't change a register that begins at zero
    padded = np.concatenate([np.zeros(lanes * size - len(data), np.uint8), data])
    columns = np.ascontiguousarray(padded.reshape(lanes, size).T)  # [size, lanes]
    register = np.zeros(lanes, np.uint32)
    for column in columns:
        register = TABLE[(register ^ column) & 0xFF] ^ register >> 8
    return _joined(register, bits) ^ _over_zeros(ALL, len(data)) ^ ALL


def masked(value: int) -> int:
    """Return a check value as TensorFlow stores it."""
    return ((value >> 15 | value << 17) + MASK_DELTA) & ALL


def _joined(lanes: Words, bits: int) -> int:
    """Return the register of all lanes together, each of 2**bits bytes."""
    while len(lanes) > 1:
        lanes = np.concatenate([np.zeros(len(lanes) % 2, np.uint32), lanes])
        lanes = _apply(_zeros(bits), lanes[::2]) ^ lanes[1::2]
        bits += 1
    return int(lanes[0]) if len(lanes) else 0


def _over_zeros(register: int, count: int) -> int:
    """Return a register after `count` zero bytes."""
    for bits in range(count.bit_length()):
        if count >> bits & 1:
            move = _zeros(bits)
            register = reduce(xor, (int(move[bit]) for bit in range(32) if register >> bit & 1), 0)
    return register


@cache
def _zeros(bits: int) -> Words:
    """Return what becomes of each bit of a register after 2**bits zero bytes: [32]."""
    if bits:
        half = _zeros(bits - 1)
        return _apply(half, half)
    single = np.uint32(1) << _BITS
    move: Words = TABLE[single & 0xFF] ^ single >> 8
    return move


def _apply(move: Words, registers: Words) -> Words:
    """Move registers [N] over zero bytes."""
    found = np.zeros_like(registers)
    for bit in _BITS:
        found ^= np.where(registers >> bit & 1, move[bit], np.uint32(0))
    return found

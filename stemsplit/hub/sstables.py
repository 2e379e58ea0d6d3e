"""Read sorted string tables, the format of LevelDB that TensorFlow indexes checkpoints with.

    file    = blocks, footer
    footer  = handles of two blocks (of other blocks, and the index), zeros up to 40 bytes, magic number
    handle  = offset and size of a block, as varints
    block   = entries, offsets of some entries, their number; then the compression (a byte) and a check value
    entry   = lengths: shared with the last key, the key's rest, the value; then the key's rest and the value
    index   = a block whose values are the handles of the others

Every length is compared with what is there before it is used, so a damaged file costs no more than its size.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stemsplit.errors import StemsplitError
from stemsplit.hub.crc32c import crc32c, masked

MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # of a block: compression and check value
PLAIN, SNAPPY = 0, 1
MOST_BYTES = 64 << 20  # of a table, and of a block that is decompressed; a checkpoint's has some kilobytes
MOST_ENTRIES = 200_000


class Damaged(StemsplitError):
    """A file of this format contradicts itself."""


def is_table(end: bytes) -> bool:
    """Return whether a file that ends with these bytes is a table."""
    return end.endswith(MAGIC)


def entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table in order.

    Raises:
        Damaged: it isn't a table, is damaged, or larger than `MOST_BYTES`.
    """
    if len(table) > MOST_BYTES:
        raise Damaged("its index is too large")
    if len(table) < FOOTER_BYTES or not is_table(table):
        raise Damaged("its index is cut short")
    footer = table[-FOOTER_BYTES:]
    place = Varints(footer, 0)
    place.next(), place.next()  # the block of other blocks, which TensorFlow leaves empty
    count, left = 0, MOST_BYTES
    for _, handle in _entries(_block(table, place.next(), place.next())):
        where = Varints(handle, 0)
        block = _block(table, where.next(), where.next())
        left -= len(block)
        for key, value in _entries(block):
            count += 1
            if count > MOST_ENTRIES or left < 0:
                raise Damaged("its index has more entries than any network")
            yield key, value


def require_unchanged(what: str, content: NDArray[np.uint8], stored: int) -> None:
    """Compare bytes with their check value, as it is stored.

    Raises:
        Damaged: they differ.
    """
    if masked(crc32c(content)) != stored:
        raise Damaged(f"{what} is damaged (a wrong check value)")


class Varints:
    """Integers of 7 bits a byte, the lowest first, read one after the other.

    Args:
        data: the bytes.
        at: position of the first one.
    """

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def next(self) -> int:
        """Return the next integer; raise `Damaged` if it has more than 64 bits, or the data ends."""
        value = 0
        for shift in range(0, 64, 7):
            if self.at >= len(self.data):
                break
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise Damaged("its index is damaged (an endless number)")

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes; raise `Damaged` if there aren't as many."""
        if count > len(self.data) - self.at:
            raise Damaged("its index is damaged (a length beyond its end)")
        self.at += count
        return self.data[self.at - count : self.at]


def _block(table: bytes, offset: int, size: int) -> bytes:
    """Return the content of a block."""
    if offset + size + TRAILER_BYTES > len(table) - FOOTER_BYTES:
        raise Damaged("its index is damaged (a block beyond its end)")
    content, stored = table[offset : offset + size + 1], table[offset + size + 1 : offset + size + 5]
    require_unchanged("its index", np.frombuffer(content, np.uint8), int.from_bytes(stored, "little"))
    if content[-1] == SNAPPY:
        return decompressed(content[:-1])
    if content[-1] != PLAIN:
        raise Damaged(f"its index is compressed in an unknown way ({content[-1]})")
    return content[:-1]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block."""
    restarts = int.from_bytes(block[-4:], "little") if len(block) >= 4 else -1
    end = len(block) - 4 - 4 * restarts
    if restarts < 0 or end < 0:
        raise Damaged("its index is damaged (a block without an end)")
    place, key = Varints(block[:end], 0), b""
    while place.at < end:
        shared, rest, length = place.next(), place.next(), place.next()
        if shared > len(key):
            raise Damaged("its index is damaged (a key that shares too much)")
        key = key[:shared] + place.take(rest)
        yield key, place.take(length)


def decompressed(data: bytes) -> bytes:
    """Return what Snappy compressed: literal bytes, and copies of what came before.

    Raises:
        Damaged: the data is damaged, or the result larger than `MOST_BYTES`.
    """
    place = Varints(data, 0)
    size, found = place.next(), bytearray()
    if size > MOST_BYTES:
        raise Damaged("its index is too large")
    while place.at < len(data):
        tag = place.take(1)[0]
        kind, upper = tag & 3, tag >> 2
        if kind == 0:
            more = max(0, upper - 59)  # 60 to 63: the length follows in as many bytes less 59
            count = int.from_bytes(place.take(more), "little") if more else upper
            found += place.take(count + 1)
        else:
            count, offset = upper + 1, 0
            if kind == 1:
                count, offset = (upper & 7) + 4, (tag >> 5 << 8) + place.take(1)[0]
            else:
                offset = int.from_bytes(place.take(2 if kind == 2 else 4), "little")
            if not 0 < offset <= len(found):
                raise Damaged("its index is damaged (a copy from nowhere)")
            pattern = found[-offset:][:count]  # a copy may reach into what it writes
            found += (pattern * (count // len(pattern) + 1))[:count]
        if len(found) > size:
            break
    if len(found) != size:
        raise Damaged("its index is damaged (a wrong length)")
    return bytes(found)

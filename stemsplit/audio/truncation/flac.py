"""The end of a FLAC file: how many samples there really are, and whether its last frame is complete.

STREAMINFO declares a count that programs write wrongly or not at all. The last frame carries the number of
its first sample, and a checksum that shows whether all of it is there (RFC 9639 §9).
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from stemsplit.audio.truncation.tag_bytes import id3_bytes, trailing_tag_bytes

_STREAMINFO_BYTES = 34
# how far back the last frame is looked for where STREAMINFO doesn't say how large a frame gets
_WINDOW_BYTES = 1 << 20
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_BLOCK_SIZES = {
    1: 192,
    **{code: 144 << code for code in range(2, 6)},
    **{code: 1 << code for code in range(8, 16)},
}
_LONGEST_HEADER_BYTES = 16


@dataclass(frozen=True)
class FlacEnd:
    """The count that a FLAC file declares beside the one that its last frames show.

    Attributes:
        declared: samples that STREAMINFO declares, 0 for an unknown number.
        total: samples up to the end of the last complete frame.
        partial: samples of a frame behind it that isn't all there, or that something else follows.
    """

    declared: int
    total: int
    partial: int = 0


@dataclass(frozen=True)
class _Header:
    """A frame's header: where it lies, its first sample, and its number of samples."""

    at: int
    first: int
    samples: int


def find_end(file: BinaryIO) -> FlacEnd | None:
    """Look at the last frames of an open FLAC file; None where it is no FLAC or no frame can be found."""
    file.seek(0)
    start = id3_bytes(file.read(10))
    file.seek(start)
    head = file.read(8 + _STREAMINFO_BYTES)
    if head[:4] != b"fLaC" or len(head) < 8 + _STREAMINFO_BYTES or head[4] & 0x7F:
        return None
    info = head[8:]
    block, largest = int.from_bytes(info[2:4]), int.from_bytes(info[7:10])
    declared = int.from_bytes(info[13:18]) & 0xF_FFFF_FFFF  # the lower 36 of 40 bits
    tail = _tail(file, 2 * largest + 4096 if largest else _WINDOW_BYTES, start + len(head))
    headers = [each for match in _SYNC.finditer(tail) if (each := _header(tail, match.start(), block))]
    for header in headers[:-5:-1]:
        if _crc16(tail[header.at :]) == 0:
            return FlacEnd(declared, header.first + header.samples)
    for before, last in reversed(list(pairwise(headers))):
        if last.first == before.first + before.samples:
            return FlacEnd(declared, last.first, last.samples)
    return None


def _tail(file: BinaryIO, window: int, start: int) -> bytes:
    """Return the last bytes of the audio, without the tags that some programs put behind it."""
    end = file.seek(0, 2) - trailing_tag_bytes(file)
    begin = max(start, end - window)
    file.seek(begin)
    return file.read(max(0, end - begin))


def _header(data: bytes, at: int, block: int) -> _Header | None:
    """Return the frame header at `at`, None where the bytes there are none."""
    head = data[at : at + _LONGEST_HEADER_BYTES]
    if len(head) < _LONGEST_HEADER_BYTES or head[3] & 1:
        return None
    size_code, rate_code = head[2] >> 4, head[2] & 15
    number, length = _coded_number(head[4:11])
    if not length or not size_code or rate_code == 15:
        return None
    position = 4 + length
    samples = _BLOCK_SIZES.get(size_code, 0)
    if size_code in (6, 7):
        width = size_code - 5
        samples = int.from_bytes(head[position : position + width]) + 1
        position += width
    position += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
    if _crc8(head[: position + 1]):
        return None
    variable = head[1] & 1
    return _Header(at, number if variable else number * block, samples)


def _coded_number(data: bytes) -> tuple[int, int]:
    """Return the number that `data` starts with in UTF-8's scheme, and the length of its code, 0 for none."""
    ones = next((bit for bit in range(8) if not data[0] & 0x80 >> bit), 8)
    length = max(1, ones)
    if ones in (1, 8) or any(byte >> 6 != 2 for byte in data[1:length]):
        return 0, 0
    number = data[0] & (0x7F >> ones)
    for byte in data[1:length]:
        number = number << 6 | byte & 0x3F
    return number, length


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    top, mask = 1 << bits - 1, (1 << bits) - 1
    entries = []
    for value in range(256):
        register = value << bits - 8
        for _ in range(8):
            register = (register << 1 ^ polynomial if register & top else register << 1) & mask
        entries.append(register)
    return tuple(entries)


_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    """Return the checksum of a frame's header; 0 for a header with its checksum."""
    register = 0
    for byte in data:
        register = _CRC8[register ^ byte]
    return register


def _crc16(data: bytes) -> int:
    """Return the checksum of a frame; 0 for a frame with its checksum."""
    register = 0
    for byte in data:
        register = (register << 8 & 0xFFFF) ^ _CRC16[register >> 8 ^ byte]
    return register

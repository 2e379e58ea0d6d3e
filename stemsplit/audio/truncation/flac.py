"""Find the true number of samples of a FLAC file, and check that its last frame is complete.

Some programs write a wrong count into STREAMINFO, or none. The last frame has the number of its first sample,
and a checksum that shows whether it is complete (RFC 9639 §9).
"""

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

from stemsplit.audio.truncation.tag_bytes import id3_bytes, trailing_tag_bytes

_STREAMINFO_BYTES = 34
# How far from the end to search for the last frame if STREAMINFO doesn't state the largest frame
_WINDOW_BYTES = 1 << 20
_SYNC = re.compile(rb"\xff[\xf8\xf9]")
# Samples per frame by the header's code (RFC 9639 §9.1.1); codes 6 and 7 store them behind the frame's number
_BLOCK_SIZES = {
    1: 192,
    **{code: 144 << code for code in range(2, 6)},
    **{code: 1 << code for code in range(8, 16)},
}
_LONGEST_HEADER_BYTES = 16


@dataclass(frozen=True)
class FlacEnd:
    """Declared length of a FLAC file beside the length that its last frames show.

    Attributes:
        declared: samples per channel that STREAMINFO declares, 0 for an unknown number.
        total: samples per channel up to the end of the last complete frame.
        partial: samples of an incomplete frame after it, or of one that is followed by other data.
    """

    declared: int
    total: int
    partial: int = 0


@dataclass(frozen=True)
class _Header:
    """Frame header at byte `at`, with the number of the frame's first sample and its number of samples."""

    at: int
    first: int
    samples: int


def find_end(file: BinaryIO) -> FlacEnd | None:
    """Find the last frames of an open FLAC file; None if it isn't FLAC or no frame is found."""
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
    for header in headers[:-5:-1]:  # the last four: sync codes also occur by chance within a frame
        if _crc16(tail[header.at :]) == 0:
            return FlacEnd(declared, header.first + header.samples)
    # no complete last frame: a header whose first sample follows from the one before is genuine
    for before, last in reversed(list(pairwise(headers))):
        if last.first == before.first + before.samples:
            return FlacEnd(declared, last.first, last.samples)
    return None


def _tail(file: BinaryIO, window: int, start: int) -> bytes:
    """Return the last `window` bytes of the audio, without the tags that some programs append."""
    end = file.seek(0, 2) - trailing_tag_bytes(file)
    begin = max(start, end - window)
    file.seek(begin)
    return file.read(max(0, end - begin))


def _header(data: bytes, at: int, block: int) -> _Header | None:
    """Return the frame header at `at`, None if there is no valid one."""
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
    position += {12: 1, 13: 2, 14: 2}.get(rate_code, 0)  # sample rate stored behind the block size
    if _crc8(head[: position + 1]):
        return None
    variable = head[1] & 1
    return _Header(at, number if variable else number * block, samples)


def _coded_number(data: bytes) -> tuple[int, int]:
    """Return a number that is coded like a UTF-8 character, and the length of its code, 0 if invalid."""
    ones = next((bit for bit in range(8) if not data[0] & 0x80 >> bit), 8)
    length = max(1, ones)
    if ones in (1, 8) or any(byte >> 6 != 2 for byte in data[1:length]):
        return 0, 0
    number = data[0] & (0x7F >> ones)
    for byte in data[1:length]:
        number = number << 6 | byte & 0x3F
    return number, length


def _table(polynomial: int, bits: int) -> tuple[int, ...]:
    """Return the CRC of every byte value, most significant bit first."""
    top, mask = 1 << bits - 1, (1 << bits) - 1
    entries = []
    for value in range(256):
        register = value << bits - 8
        for _ in range(8):
            register = (register << 1 ^ polynomial if register & top else register << 1) & mask
        entries.append(register)
    return tuple(entries)


# x^8 + x^2 + x + 1 and x^16 + x^15 + x^2 + 1 (RFC 9639 §9.1.8, §9.3)
_CRC8, _CRC16 = _table(0x07, 8), _table(0x8005, 16)


def _crc8(data: bytes) -> int:
    """Return the CRC-8 of a frame header; 0 for a header with its correct checksum."""
    register = 0
    for byte in data:
        register = _CRC8[register ^ byte]
    return register


def _crc16(data: bytes) -> int:
    """Return the CRC-16 of a frame; 0 for a frame with its correct checksum."""
    register = 0
    for byte in data:
        register = (register << 8 & 0xFFFF) ^ _CRC16[register >> 8 ^ byte]
    return register

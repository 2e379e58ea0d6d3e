"""Detect files that were cut short by the file length that their container declares.

Each function per container returns the byte at which the file should end.
"""

import struct
from typing import BinaryIO

from stemsplit.audio.truncation import SLACK_BYTES, Claim

_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_HEAD_BYTES = 1 << 16
_TS_PACKET_BYTES = 188
_MP4_BOXES = frozenset(b"ftyp styp moov moof mdat mfra sidx ssix free skip wide uuid meta udta emsg".split())


def find_claim(file: BinaryIO) -> Claim | None:
    """Compare the declared end of a container with the file's; None if nothing is missing."""
    total = file.seek(0, 2)
    file.seek(0)
    head = file.read(_HEAD_BYTES)
    end: int | None = None
    slack = SLACK_BYTES
    if head.startswith(_EBML):
        end = _matroska(head)
    elif head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        end = _avi(file, total)
    elif head.startswith(_ASF_HEADER):
        end, slack = _asf(file, head), 0  # no slack: FFmpeg decodes an incomplete packet without an error
    elif head.startswith(b"FLV"):
        end = _flv(head)
    elif head[::_TS_PACKET_BYTES].startswith(b"GG"):  # each packet of a transport stream begins with 0x47
        end = -(-total // _TS_PACKET_BYTES) * _TS_PACKET_BYTES
    elif head[4:8] in _MP4_BOXES:
        end = _mp4(file, total)
    return Claim(end, total, "bytes", slack) if end is not None and end > total else None


def _matroska(head: bytes) -> int | None:
    """Read the end of the segment, None for an unknown size, whose bits are all ones (RFC 8794 §6)."""
    at = head.find(_SEGMENT) + len(_SEGMENT)
    if at < len(_SEGMENT) or at >= len(head) or not head[at]:
        return None
    length = 9 - head[at].bit_length()  # leading zero bits, plus 1: the bytes of a variable-size integer
    size = int.from_bytes(head[at : at + length]) & (1 << 7 * length) - 1
    return None if size == (1 << 7 * length) - 1 else at + length + size


def _avi(file: BinaryIO, total: int) -> int:
    """Walk the RIFF chunks: an OpenDML AVI has several, the first of at most 1 GB."""
    end = 0
    while end + 8 <= total:
        file.seek(end)
        name, size = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF":
            break
        end += 8 + size + size % 2
    return end


def _asf(file: BinaryIO, head: bytes) -> int | None:
    """Read the end of the data object, which follows the header object; None for a broadcast, of size 0."""
    start = int.from_bytes(head[16:24], "little")
    file.seek(min(start, 1 << 40))
    data = file.read(24)
    size = int.from_bytes(data[16:], "little")
    return start + size if data.startswith(_ASF_DATA) and size else None


def _flv(head: bytes) -> int | None:
    """Read `filesize` from the metadata: a name, the type 0 (number), and a big-endian double (AMF0)."""
    name = b"filesize\0"
    at = head.find(name) + len(name)
    return int(struct.unpack(">d", head[at : at + 8])[0]) if len(name) <= at <= len(head) - 8 else None


def _mp4(file: BinaryIO, total: int) -> int:
    """Walk the boxes (ISO 14496-12 §4.2): size 1 is a 64-bit size after the name, 0 the rest of the file."""
    end = 0
    while end + 8 <= total:
        file.seek(end)
        size, name = struct.unpack(">I4s", file.read(8))
        if name not in _MP4_BOXES:
            break
        if size == 1:
            size = int.from_bytes(file.read(8))
        if size < 8:
            return total
        end += size
    return end

"""Length of the tags at a file's start and at its end, in bytes."""

import struct
from collections.abc import Iterable
from typing import BinaryIO

_ID3V1_BYTES, _APE_FOOTER_BYTES = 128, 32


def id3_bytes(head: bytes) -> int:
    """Return the length of the ID3v2 tag that starts with `head`, its first 10 bytes; 0 for none."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    return 10 + synchsafe(head[6:10])


def synchsafe(digits: Iterable[int]) -> int:
    """Return the value of a synchsafe integer: four bytes of seven bits each (ID3v2.4 §6.2)."""
    return sum(digit << shift for digit, shift in zip(digits, (21, 14, 7, 0), strict=True))


def trailing_tag_bytes(file: BinaryIO) -> int:
    """Return the length of the ID3v1 and APE tags at the end of an open file."""
    end = total = file.seek(0, 2)
    file.seek(max(0, end - _ID3V1_BYTES))
    if file.read(3) == b"TAG":
        end -= _ID3V1_BYTES
    file.seek(max(0, end - _APE_FOOTER_BYTES))
    footer = file.read(_APE_FOOTER_BYTES)
    if footer.startswith(b"APETAGEX") and len(footer) == _APE_FOOTER_BYTES:
        size, _, flags = struct.unpack_from("<III", footer, 12)
        end -= size + (_APE_FOOTER_BYTES if flags >> 31 else 0)  # bit 31: a header comes on top of `size`
    return min(total, max(0, total - end))

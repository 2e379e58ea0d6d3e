"""Check the length that an MP3 declares in the Xing or Info header of its first frame."""

import struct
from typing import BinaryIO

from stemsplit.audio.truncation import SLACK_BYTES, Claim
from stemsplit.audio.truncation.frames import frame_bytes
from stemsplit.audio.truncation.tag_bytes import id3_bytes, trailing_tag_bytes

_MAGIC = (b"Xing", b"Info")
_FRAMES, _BYTES = 1, 2  # flags: the header has a number of frames, a number of bytes
# Frame header, checksum and side information (at most 38 bytes), then the magic, flags and two numbers
_LOOK_BYTES = 64


def find_claim(file: BinaryIO) -> Claim | None:
    """Compare the Xing header of an open MP3 with the length of its audio; None if it declares no length.

    Some bytes more than declared are taken for an unknown kind of tag.
    """
    file.seek(0)
    start = id3_bytes(file.read(10))
    end = file.seek(0, 2) - trailing_tag_bytes(file)
    file.seek(start)
    head = file.read(_LOOK_BYTES)
    at = max(head.find(magic) for magic in _MAGIC)
    if not frame_bytes(head) or at < 0 or len(head) < at + 16:
        return None
    flags, first, second = struct.unpack_from(">III", head, at + 4)
    declared, present = second if flags & _FRAMES else first, end - start
    if not flags & _BYTES or 0 <= present - declared <= SLACK_BYTES:
        return None
    whole = present > declared or ends_on_frame(file, start, end)
    return Claim(declared, present, "bytes", ends_on_frame=whole)


def ends_on_frame(file: BinaryIO, start: int, end: int) -> bool:
    """Return whether a whole number of MP3 frames fills the bytes from `start` to `end`."""
    while start < end:
        file.seek(start)
        length = frame_bytes(file.read(4))
        if not length:
            return False
        start += length
    return start == end

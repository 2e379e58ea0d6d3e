"""How long an MP3 claims to be: the Xing or Info note within its first frame."""

import struct
from typing import BinaryIO

from stemsplit.audio.riff import DataChunk

_MAGIC = (b"Xing", b"Info")
_FRAMES, _BYTES = 1, 2
# header, checksum and side information come before the note, which has flags and two numbers
_LOOK_BYTES = 64
# editors that cut a little and leave the note alone are forgiven
_SLACK_BYTES, _SLACK_PARTS = 4096, 100


def find_stream(file: BinaryIO) -> DataChunk | None:
    """Where the frames of an open MP3 are, and how many bytes of them it claims; None where nothing tells."""
    file.seek(0)
    start = id3_bytes(file.read(10))
    total = file.seek(0, 2)
    file.seek(start)
    head = file.read(_LOOK_BYTES)
    at = max(head.find(magic) for magic in _MAGIC)
    if not _is_layer_3(head) or at < 0 or len(head) < at + 16:
        return None
    flags, first, second = struct.unpack_from(">III", head, at + 4)
    if not flags & _BYTES:
        return None
    declared = second if flags & _FRAMES else first
    return DataChunk(start, declared - max(_SLACK_BYTES, declared // _SLACK_PARTS), total - start)


def _is_layer_3(head: bytes) -> bool:
    """Whether an MPEG audio frame of layer III starts here: eleven ones, two bits of version, 01."""
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def id3_bytes(head: bytes) -> int:
    """The length of the ID3v2 tag that `head` starts with (four bytes of seven bits); 0 for none."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))

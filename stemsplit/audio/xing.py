"""The length that an MP3 claims in the Xing or Info note of its first frame, and its frames."""

import struct
from typing import BinaryIO

from stemsplit.audio.truncation import SLACK_BYTES, Claim

_MAGIC = (b"Xing", b"Info")
_FRAMES, _BYTES = 1, 2
# header, checksum and side information come before the note, which has flags and two numbers
_LOOK_BYTES = 64
# kbit/s of layer III by the header's index, for MPEG 1 and for MPEG 2 and 2.5 (ISO 11172-3 and 13818-3)
BITRATES = {
    1: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES = (44100, 48000, 32000)
# version bits of the header: how far the rates are divided; 1 is reserved
_DIVISORS = {0: 4, 2: 2, 3: 1}
_ID3V1_BYTES, _APE_FOOTER_BYTES = 128, 32


def find_claim(file: BinaryIO) -> Claim | None:
    """Compare the note of an open MP3 with the bytes that are there; None where nothing claims a length.

    A few bytes more than claimed are tags of some kind, and no wrong claim.
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
    """Return whether the MP3 frames from `start` on lead exactly to `end`."""
    while start < end:
        file.seek(start)
        length = frame_bytes(file.read(4))
        if not length:
            return False
        start += length
    return start == end


def frame_bytes(head: bytes) -> int:
    """Return the length of the MPEG audio frame of layer III that starts with `head`, 0 where none starts.

    A header is eleven ones, two bits of version, 01, and indices of bit rate and sample rate. A frame holds
    144 bits per bit/s and sample/s of MPEG 1, and half of them in MPEG 2.
    """
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, index, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version not in _DIVISORS or index in (0, 15) or rate == 3:
        return 0
    generation = 1 if version == 3 else 2
    bits = 144 // generation * BITRATES[generation][index] * 1000
    return bits // (RATES[rate] // _DIVISORS[version]) + (head[2] >> 1 & 1)


def id3_bytes(head: bytes) -> int:
    """Return the length of the ID3v2 tag that `head` starts with (four bytes of seven bits); 0 for none."""
    if len(head) < 10 or not head.startswith(b"ID3"):
        return 0
    return 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))


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
        end -= size + (_APE_FOOTER_BYTES if flags >> 31 else 0)  # bit 31: the tag has a header too
    return min(total, max(0, total - end))

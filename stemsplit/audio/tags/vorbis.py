"""Vorbis comments: a cover as one, and new ones for a stream being written (RFC 3533, Vorbis I §5)."""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Protocol

from stemsplit.audio.tags.covers import KINDS, Cover

_HEADER = struct.Struct("<4sBBqIIIB")
_CRC_AT = 22
_CONTINUED, _NO_GRANULE = 1, -1
_MOST_SEGMENTS = 255
_COMMENT_MAGIC = b"\x03vorbis"
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _File(Protocol):
    def write(self, data: bytes) -> int: ...
    def seek(self, offset: int, whence: int = 0) -> int: ...
    def tell(self) -> int: ...
    def read(self, size: int = -1) -> bytes: ...


class CommentRewriter:
    """A file for an Ogg Vorbis encoder to write to; its pages reach `file` with new comments.

    Args:
        file: where the stream goes.
        comments: name and text each.
    """

    def __init__(self, file: _File, comments: dict[str, str]) -> None:
        self._file, self._comments = file, comments
        self._pending = bytearray()
        self._taken = 0
        self._pages = self._shift = 0
        self._headers: list[bytes] | None = [b""]

    def write(self, data: bytes) -> int:
        """Take bytes; pass on every page that is complete."""
        self._taken += len(data)
        self._pending += data
        while (size := _page_size(self._pending)) is not None:
            page = bytes(self._pending[:size])
            del self._pending[:size]
            self._pass_on(page)
            self._pages += 1
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Ogg is written front to back: stay where the encoder is."""
        return self._taken

    def tell(self) -> int:
        """Return the bytes that the encoder has written."""
        return self._taken

    def read(self, size: int = -1) -> bytes:
        """Nothing can be read back."""
        return b""

    def _pass_on(self, page: bytes) -> None:
        if self._pages == 0:
            self._file.write(page)
        elif self._headers is None:
            self._file.write(_renumbered(page, self._shift))
        else:
            self._collect(page, self._headers)

    def _collect(self, page: bytes, packets: list[bytes]) -> None:
        """Gather the comment and setup packets; once they're whole, write them anew."""
        for part, complete in _segments(page):
            packets[-1] += part
            if complete:
                packets.append(b"")
        if len(packets) > 2:
            comment = comment_packet(self._comments, _vendor(packets[0]))
            fresh = list(_pages([comment, packets[1]], _HEADER.unpack_from(page)[4], first=1))
            self._file.write(b"".join(fresh))
            self._shift = len(fresh) - self._pages
            self._headers = None


def comment_packet(comments: dict[str, str], vendor: bytes) -> bytes:
    """A Vorbis comment header."""
    listed = [f"{name.upper()}={text}".encode() for name, text in comments.items()]
    body = b"".join(struct.pack("<I", len(each)) + each for each in listed)
    return (
        _COMMENT_MAGIC
        + struct.pack("<I", len(vendor))
        + vendor
        + struct.pack("<I", len(listed))
        + body
        + b"\1"
    )


def picture_comment(cover: Cover) -> dict[str, str]:
    """Return a cover as Ogg carries it: FLAC's picture block (RFC 9639 §8.8), sizes unknown, as a comment."""
    mime = cover.mime.encode()
    head = struct.pack(">II", KINDS.index(cover.kind), len(mime)) + mime
    block = head + struct.pack(">6I", 0, 0, 0, 0, 0, len(cover.data)) + cover.data
    return {"METADATA_BLOCK_PICTURE": base64.b64encode(block).decode()}


def _vendor(packet: bytes) -> bytes:
    start = len(_COMMENT_MAGIC)
    (size,) = struct.unpack_from("<I", packet, start)
    return packet[start + 4 : start + 4 + size]


def _page_size(data: bytearray) -> int | None:
    """The length of the page at the start of `data`, None while it's incomplete."""
    if len(data) < _HEADER.size:
        return None
    segments = data[_HEADER.size - 1]
    if len(data) < _HEADER.size + segments:
        return None
    size = _HEADER.size + segments + sum(data[_HEADER.size : _HEADER.size + segments])
    return size if len(data) >= size else None


def _segments(page: bytes) -> Iterator[tuple[bytes, bool]]:
    """The page's segments, each with whether it ends a packet."""
    count = page[_HEADER.size - 1]
    position = _HEADER.size + count
    for size in page[_HEADER.size : _HEADER.size + count]:
        yield page[position : position + size], size < _MOST_SEGMENTS
        position += size


def _pages(packets: list[bytes], serial: int, first: int) -> Iterator[bytes]:
    """Packets as pages numbered from `first`. The last page ends with the last packet."""
    lacing: list[tuple[int, bool]] = []
    for packet in packets:
        full, rest = divmod(len(packet), 255)
        lacing += [(255, False)] * full + [(rest, True)]
    body, continued = b"".join(packets), 0
    for number, start in enumerate(range(0, len(lacing), _MOST_SEGMENTS)):
        held = lacing[start : start + _MOST_SEGMENTS]
        size = sum(length for length, _ in held)
        granule = 0 if any(ends for _, ends in held) else _NO_GRANULE
        header = _HEADER.pack(b"OggS", 0, continued, granule, serial, first + number, 0, len(held))
        yield _signed(header + bytes(length for length, _ in held) + body[:size])
        body, continued = body[size:], 0 if held[-1][1] else _CONTINUED


def _renumbered(page: bytes, shift: int) -> bytes:
    number = struct.unpack_from("<I", page, 18)[0] + shift
    return _signed(page[:18] + struct.pack("<I", number) + page[22:]) if shift else page


def _signed(page: bytes) -> bytes:
    """The page with its checksum: CRC-32, polynomial 0x04C11DB7, most significant bit first, from 0.

    The one in zlib goes the other way round and from all ones, so bytes and result are mirrored and the ones
    taken out.
    """
    blank = page[:_CRC_AT] + bytes(4) + page[_CRC_AT + 4 :]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    crc = int(f"{mirrored:032b}"[::-1], 2)
    return blank[:_CRC_AT] + struct.pack("<I", crc) + blank[_CRC_AT + 4 :]

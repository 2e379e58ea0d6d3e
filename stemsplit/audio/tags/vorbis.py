"""Vorbis comments: replace those of a stream that is being written (RFC 3533, Vorbis I §5); covers."""

import base64
import struct
import zlib
from collections.abc import Iterator
from typing import Protocol

from stemsplit.audio.tags.covers import KINDS, Cover

# capture pattern, version, flags, granule position, serial, page number, CRC, segments (RFC 3533 §6)
_HEADER = struct.Struct("<4sBBqIIIB")
_CRC_AT = 22
_CONTINUED, _NO_GRANULE = 1, -1  # flag of a page that continues a packet; no packet ends on the page
_MAX_SEGMENTS = 255
_COMMENT_MAGIC = b"\x03vorbis"
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _File(Protocol):
    def write(self, data: bytes) -> int: ...
    def seek(self, offset: int, whence: int = 0) -> int: ...
    def tell(self) -> int: ...
    def read(self, size: int = -1) -> bytes: ...


class CommentRewriter:
    """File that an Ogg Vorbis encoder writes to; it passes the pages on to `file` with other comments.

    Args:
        file: the file to write to.
        comments: texts by name.
    """

    def __init__(self, file: _File, comments: dict[str, str]) -> None:
        self._file, self._comments = file, comments
        self._pending = bytearray()
        self._taken = 0  # bytes from the encoder
        self._pages = self._shift = 0  # pages passed on; how far later page numbers move
        self._headers: list[bytes] | None = [b""]  # comment and setup packets so far; None once written

    def write(self, data: bytes) -> int:
        """Take bytes from the encoder; pass on every complete page."""
        self._taken += len(data)
        self._pending += data
        while (size := _page_size(self._pending)) is not None:
            page = bytes(self._pending[:size])
            del self._pending[:size]
            self._pass_on(page)
            self._pages += 1
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Stay at the end, because Ogg is written front to back; return the position."""
        return self._taken

    def tell(self) -> int:
        """Return the number of bytes that the encoder has written."""
        return self._taken

    def read(self, size: int = -1) -> bytes:
        """Return nothing: the encoder doesn't read back."""
        return b""

    def _pass_on(self, page: bytes) -> None:
        if self._pages == 0:
            self._file.write(page)
        elif self._headers is None:
            self._file.write(_renumbered(page, self._shift))
        else:
            self._collect(page, self._headers)

    def _collect(self, page: bytes, packets: list[bytes]) -> None:
        """Collect the comment and setup packets; once both are complete, write them with new comments."""
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
    """Return a Vorbis comment header packet (Vorbis I §5.2.1)."""
    listed = [f"{name.upper()}={text}".encode() for name, text in comments.items()]
    body = b"".join(struct.pack("<I", len(each)) + each for each in listed)
    return (
        _COMMENT_MAGIC
        + struct.pack("<I", len(vendor))
        + vendor
        + struct.pack("<I", len(listed))
        + body
        + b"\1"  # framing bit
    )


def picture_comment(cover: Cover) -> dict[str, str]:
    """Return a cover as a Vorbis comment: FLAC's picture block (RFC 9639 §8.8) in base64, sizes unknown."""
    mime = cover.mime.encode()
    head = struct.pack(">II", KINDS.index(cover.kind), len(mime)) + mime
    block = head + struct.pack(">6I", 0, 0, 0, 0, 0, len(cover.data)) + cover.data
    return {"METADATA_BLOCK_PICTURE": base64.b64encode(block).decode()}


def _vendor(packet: bytes) -> bytes:
    start = len(_COMMENT_MAGIC)
    (size,) = struct.unpack_from("<I", packet, start)
    return packet[start + 4 : start + 4 + size]


def _page_size(data: bytearray) -> int | None:
    """Return the length of the page at the start of `data`, None while it is incomplete."""
    if len(data) < _HEADER.size:
        return None
    segments = data[_HEADER.size - 1]
    if len(data) < _HEADER.size + segments:
        return None
    size = _HEADER.size + segments + sum(data[_HEADER.size : _HEADER.size + segments])
    return size if len(data) >= size else None


def _segments(page: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield each segment of a page, and whether it ends a packet, which a length below 255 says."""
    count = page[_HEADER.size - 1]
    position = _HEADER.size + count
    for size in page[_HEADER.size : _HEADER.size + count]:
        yield page[position : position + size], size < _MAX_SEGMENTS
        position += size


def _pages(packets: list[bytes], serial: int, first: int) -> Iterator[bytes]:
    """Yield the packets as pages numbered from `first`; the last page ends with the last packet."""
    lacing: list[tuple[int, bool]] = []  # length of each segment, and whether it ends a packet
    for packet in packets:
        full, rest = divmod(len(packet), 255)
        lacing += [(255, False)] * full + [(rest, True)]
    body, continued = b"".join(packets), 0
    for number, start in enumerate(range(0, len(lacing), _MAX_SEGMENTS)):
        held = lacing[start : start + _MAX_SEGMENTS]
        size = sum(length for length, _ in held)
        granule = 0 if any(ends for _, ends in held) else _NO_GRANULE
        header = _HEADER.pack(b"OggS", 0, continued, granule, serial, first + number, 0, len(held))
        yield _signed(header + bytes(length for length, _ in held) + body[:size])
        body, continued = body[size:], 0 if held[-1][1] else _CONTINUED


def _renumbered(page: bytes, shift: int) -> bytes:
    number = struct.unpack_from("<I", page, 18)[0] + shift
    return _signed(page[:18] + struct.pack("<I", number) + page[22:]) if shift else page


def _signed(page: bytes) -> bytes:
    """Return the page with its checksum: CRC-32, polynomial 0x04C11DB7, most significant bit first, from 0.

    zlib's CRC-32 has the same polynomial, but starts with the least significant bit and from all ones. So the
    bits of each byte and of the result are reversed, and both XORs with all ones are undone.
    """
    blank = page[:_CRC_AT] + bytes(4) + page[_CRC_AT + 4 :]
    mirrored = zlib.crc32(blank.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    crc = int(f"{mirrored:032b}"[::-1], 2)
    return blank[:_CRC_AT] + struct.pack("<I", crc) + blank[_CRC_AT + 4 :]

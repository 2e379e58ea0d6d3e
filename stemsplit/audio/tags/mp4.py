"""Add tags to a finished MP4 file. Its `moov` box must be the last one, so that no other box moves."""

import struct

from stemsplit.audio.sink import Sink

_FULL_BOX = {b"meta"}  # boxes with 4 bytes of version and flags (ISO 14496-12 §4.2)
_UTF8, _JPEG, _PNG = 1, 13, 14  # well-known types of QuickTime's `data` box


def freeform(name: str, text: str) -> bytes:
    """Return an iTunes `----` box: a text under any key."""
    mean = box(b"mean", bytes(4) + b"com.apple.iTunes")
    data = box(b"data", struct.pack(">II", _UTF8, 0) + text.encode())
    return box(b"----", mean + box(b"name", bytes(4) + name.encode()) + data)


def cover(data: bytes, mime: str) -> bytes:
    """Return an iTunes `covr` box with a cover picture."""
    kind = _PNG if mime == "image/png" else _JPEG
    return box(b"covr", box(b"data", struct.pack(">II", kind, 0) + data))


def append_to_moov(sink: Sink, path: tuple[bytes, ...], added: bytes) -> None:
    """Append `added` to the box at `path` within `moov`, creating the boxes of the path that are missing."""
    start, header = _find_moov(sink)
    sink.seek(start)
    moov = sink.read()
    body = _inserted(moov[header:], path, added)
    sink.seek(start)
    sink.write(box(b"moov", body))


def _find_moov(sink: Sink) -> tuple[int, int]:
    """Return the byte at which the `moov` box starts, and its header's length."""
    position, end = 0, sink.seek(0, 2)
    while position + 8 <= end:
        sink.seek(position)
        size, kind = struct.unpack(">I4s", sink.read(8))
        header = 8
        if size == 1:  # the size follows in 64 bits
            size, header = struct.unpack(">Q", sink.read(8))[0], 16
        if kind == b"moov":
            return position, header
        position += max(size, 8)
    raise ValueError("an MP4 file without moov")


def _inserted(body: bytes, path: tuple[bytes, ...], added: bytes) -> bytes:
    if not path:
        return body + added
    position = 0
    while position + 8 <= len(body):
        size, kind = struct.unpack_from(">I4s", body, position)
        if kind == path[0]:
            skip = 12 if kind in _FULL_BOX else 8
            inner = _inserted(body[position + skip : position + size], path[1:], added)
            prefix = body[position + 8 : position + skip]
            return body[:position] + box(kind, prefix + inner) + body[position + size :]
        position += max(size, 8)
    return body + box(path[0], _inserted(b"", path[1:], added))


def box(kind: bytes, body: bytes) -> bytes:
    """Return a box (ISO 14496-12 §4.2)."""
    return struct.pack(">I4s", 8 + len(body), kind) + body

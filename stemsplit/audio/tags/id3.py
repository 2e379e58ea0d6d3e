"""ID3 tags: read fields with several values, which FFmpeg cuts to the first, and write WAV's ID3 chunk."""

import io
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO, Literal

import av

from stemsplit.audio.tags.covers import Cover, attach_cover
from stemsplit.audio.truncation.tag_bytes import id3_bytes, synchsafe

_FIELDS = {b"TPE1": "artist", b"TPE2": "album_artist", b"TCOM": "composer"}
_ENCODINGS = ("latin-1", "utf-16", "utf-16-be", "utf-8")  # by the first byte of a text frame (ID3v2.4 §4)
_FRAME = struct.Struct(">4s4BBB")  # name, synchsafe size, two bytes of flags


def read_several(file: BinaryIO) -> dict[str, list[str]]:
    """Return artists and composers with several values from the ID3v2.4 tag at the start of an open file.

    Tags and frames with flags (unsynchronised, compressed, encrypted) are skipped, and left to FFmpeg.
    """
    file.seek(0)
    head = file.read(10)
    if head[3:4] != b"\4" or head[5:6] != b"\0":  # major version, flags
        return {}
    tag = file.read(max(0, id3_bytes(head) - len(head)))
    found: dict[str, list[str]] = {}
    position = 0
    while position + _FRAME.size <= len(tag):
        name, *sizes, _, flags = _FRAME.unpack_from(tag, position)
        start = position + _FRAME.size
        position = start + synchsafe(sizes)
        if name in _FIELDS and not flags and len(values := _values(tag[start:position])) > 1:
            found.setdefault(_FIELDS[name], values)
    return found


def _values(frame: bytes) -> list[str]:
    """Return the texts of a text frame: a byte for the encoding, then texts separated by NUL characters."""
    if not frame or frame[0] >= len(_ENCODINGS):
        return []
    text = frame[1:].decode(_ENCODINGS[frame[0]], errors="replace")
    texts = (part.strip("\ufeff \t\r\n") for part in text.split("\0"))  # each may have a byte order mark
    return [part for part in texts if part]


def chunk(texts: Mapping[str, str], cover: Cover | None, order: Literal["<", ">"]) -> bytes:
    """Return tags as a chunk with an ID3v2.3 tag for WAV (`order` "<") or AIFF (">"), empty without tags.

    The tag is cut from the start of an MP3 file that FFmpeg writes.
    """
    if not texts and cover is None:
        return b""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"id3v2_version": "3", "write_xing": "0"}) as container:
        stream: Any = container.add_stream("libmp3lame", rate=44100, layout="stereo", format="fltp")
        container.metadata.update(texts)
        picture = attach_cover(container, cover)
        container.start_encoding()
        if picture is not None:
            container.mux(picture)
        container.mux(stream.encode(None))
    block = file.getvalue()
    size = id3_bytes(block)
    name = b"id3 " if order == "<" else b"ID3 "
    return struct.pack(f"{order}4sI", name, size) + block[:size] + bytes(size % 2)

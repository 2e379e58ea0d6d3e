"""Where a chunked file (WAV, RF64, W64, AIFF, CAF) says that its audio lies, read without a library.

libsndfile corrects a size that reaches beyond the file's end without a word, so a file that was cut short is
seen here or not at all.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO, Literal

# sizes that programs write when they can't come back to correct them: FFmpeg 0xFFFFFFFF, sox 0x7FFFF000,
# arecord just below 0x80000000; a recorder that crashed leaves 0 here and in the form's size
_UNKNOWN_FROM, _UNKNOWN_TO = 0x7FFF_F000, 0x8000_0000
_ALL_ONES = 0xFFFF_0000


@dataclass(frozen=True)
class _Chunks:
    """How one container lays out its chunks."""

    start: int
    id_bytes: int
    size_bytes: int
    order: Literal["little", "big"]
    align: int
    data: bytes
    size_counts_header: bool = False


_LAYOUTS = {
    b"RIFF": _Chunks(12, 4, 4, "little", 2, b"data"),
    b"RF64": _Chunks(12, 4, 4, "little", 2, b"data"),
    b"riff": _Chunks(40, 16, 8, "little", 8, b"data", size_counts_header=True),
    b"FORM": _Chunks(12, 4, 4, "big", 2, b"SSND"),
    b"caff": _Chunks(8, 4, 8, "big", 1, b"data"),
}


@dataclass(frozen=True)
class DataChunk:
    """The audio's chunk: where it starts, the bytes it claims (None: unknown), the bytes that are there."""

    start: int
    declared: int | None
    present: int

    @property
    def missing(self) -> int:
        """Bytes that the file claims and doesn't have."""
        return 0 if self.declared is None else max(0, self.declared - self.present)


def find_data(file: BinaryIO) -> DataChunk | None:
    """The audio chunk of an open file, None when the file isn't chunked or has no such chunk."""
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic, form = file.read(4), file.read(4)
    layout = _LAYOUTS.get(magic)
    if layout is None:
        return None
    position, wide = layout.start, None
    header = layout.id_bytes + layout.size_bytes
    while position + header <= total:
        file.seek(position)
        name = file.read(layout.id_bytes)[:4]
        size = int.from_bytes(file.read(layout.size_bytes), layout.order)
        body = size - header if layout.size_counts_header else size
        if name == b"ds64":
            wide = int.from_bytes(file.read(16)[8:], "little")
        start = position + header
        if name == layout.data:
            closed = layout.size_bytes == 8 or int.from_bytes(form, layout.order) + 8 > start
            unfinished = body == 0 and not closed
            return DataChunk(start, None if unfinished else _declared(body, layout, wide), total - start)
        position = start + max(body, 0) + -max(body, 0) % layout.align
    return None


def _declared(size: int, layout: _Chunks, wide: int | None) -> int | None:
    if wide is not None and size == 0xFFFF_FFFF:
        return wide
    if layout.size_bytes == 8:
        return size if 0 <= size < 1 << 62 else None
    unknown = _UNKNOWN_FROM <= size < _UNKNOWN_TO or size >= _ALL_ONES
    return None if unknown else size

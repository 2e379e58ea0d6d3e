"""Find the samples in a chunked file (WAV, RF64, W64, AIFF, CAF) or AU, and check their declared size.

libsndfile trusts the declared size, and silently corrects one that reaches beyond the end of the file. So
wrong sizes must be detected here.
"""

import os
from dataclasses import dataclass
from typing import BinaryIO, Literal

from stemsplit.audio.truncation import Claim

# Sizes that programs write if they can't correct them later, as in a pipe: FFmpeg 0xFFFFFFFF, sox 0x7FFFF000,
# arecord just below 0x80000000. A recorder that crashed leaves 0 here and in the size of the RIFF chunk
_UNKNOWN_FROM, _UNKNOWN_TO = 0x7FFF_F000, 0x8000_0000
# For AIFF, sox writes 0x7F000000 bytes rounded to whole frames, and the preamble
_UNKNOWN_AIFF = range(0x7EFF_FF00, 0x7F00_0009)
_ALL_ONES = 0xFFFF_0000
# A program that counts in 32 bits loses this with every overflow
_WRAP = 1 << 32


@dataclass(frozen=True)
class _Chunks:
    """Layout of a container's chunks; in the audio chunk, `preamble` bytes precede the samples."""

    start: int
    id_bytes: int
    size_bytes: int
    order: Literal["little", "big"]
    align: int
    data: bytes
    size_counts_header: bool = False
    preamble: int = 0


_LAYOUTS = {
    b"RIFF": _Chunks(12, 4, 4, "little", 2, b"data"),
    b"RF64": _Chunks(12, 4, 4, "little", 2, b"data"),
    b"riff": _Chunks(40, 16, 8, "little", 8, b"data", size_counts_header=True),
    b"FORM": _Chunks(12, 4, 4, "big", 2, b"SSND", preamble=8),
    b"caff": _Chunks(8, 4, 8, "big", 1, b"data", preamble=4),
}

# Sun's AU format has a header and no chunks
_AU = b".snd"


@dataclass(frozen=True)
class DataChunk:
    """Byte range of the samples in a file.

    Attributes:
        start: the first byte.
        declared: bytes that the file declares, None for an unknown number.
        present: bytes from `start` to the end of the file.
        wrapped: whether `declared` overflowed at 4 GiB; `length` is corrected for it.
    """

    start: int
    declared: int | None
    present: int
    wrapped: bool = False

    @property
    def length(self) -> int:
        """Number of bytes to read."""
        if self.declared is None:
            return self.present
        if self.wrapped:
            return self.declared + (self.present - self.declared) // _WRAP * _WRAP
        return min(self.declared, self.present)

    @property
    def claim(self) -> Claim | None:
        """Declared length beside the true one, None if the file declares none."""
        return None if self.declared is None else Claim(self.declared, self.length, "bytes")


def find_data(file: BinaryIO) -> DataChunk | None:
    """Find the audio chunk of an open file; None if the file isn't chunked or has no such chunk."""
    total = file.seek(0, os.SEEK_END)
    file.seek(0)
    magic, form = file.read(4), file.read(4)
    if magic == _AU:
        return _au(file, total)
    layout = _LAYOUTS.get(magic)
    if layout is None:
        return None
    position, size_64 = layout.start, None
    header = layout.id_bytes + layout.size_bytes
    while position + header <= total:
        file.seek(position)
        name = file.read(layout.id_bytes)[:4]
        size = int.from_bytes(file.read(layout.size_bytes), layout.order)
        body = size - header if layout.size_counts_header else size
        start = position + header
        if name == b"ds64":
            form = file.read(8)  # RF64's 64-bit sizes of the file and of the audio (EBU Tech 3306)
            size_64 = int.from_bytes(file.read(8), "little")
        if name == layout.data:
            declared = _declared(body, layout, size_64)
            # a recorder that crashed leaves sizes that don't even cover the header
            unfinished = (
                not declared and layout.size_bytes == 4 and int.from_bytes(form, layout.order) + 8 <= start
            )
            return _data_chunk(start, None if unfinished else declared, total, layout)
        position = start + max(body, 0) + -max(body, 0) % layout.align  # padded to the alignment
    return None


def _au(file: BinaryIO, total: int) -> DataChunk:
    file.seek(4)
    start, size = int.from_bytes(file.read(4)), int.from_bytes(file.read(4))
    return DataChunk(start, None if size >= _ALL_ONES else size, max(0, total - start))


def _data_chunk(start: int, declared: int | None, total: int, layout: _Chunks) -> DataChunk:
    start += layout.preamble
    present = max(0, total - start)
    if declared is not None:
        declared = max(0, declared - layout.preamble)
    # 4 GiB behind the audio can only be audio: the chunks that may follow are never that large
    wrapped = layout.size_bytes == 4 and declared is not None and present - declared >= _WRAP
    return DataChunk(start, declared, present, wrapped)


def _declared(size: int, layout: _Chunks, size_64: int | None) -> int | None:
    """Return the declared size of the audio chunk in bytes, None for the placeholders of an unknown size."""
    if size_64 is not None and size == 0xFFFF_FFFF:
        return size_64 if size_64 < 1 << 62 else None
    if layout.size_bytes == 8:
        return size if 0 <= size < 1 << 62 else None
    unknown = _UNKNOWN_FROM <= size < _UNKNOWN_TO or size >= _ALL_ONES or size in _UNKNOWN_AIFF
    return None if unknown else size

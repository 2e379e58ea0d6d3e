"""Find the links of a chained Ogg file: whole streams one after the other, as radio recorders write them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stemsplit.audio.truncation import cut_within
from stemsplit.audio.truncation.tag_bytes import id3_bytes

_CAPTURE = b"OggS"
_HEADER_BYTES = 27  # without the segment table, whose length is the last of them
_BOS, _EOS = 2, 4  # flags of the page header: first and last page of a stream (RFC 3533 §6)
_WINDOW_BYTES = 1 << 16


@dataclass(frozen=True)
class Links:
    """The links of an Ogg file.

    Attributes:
        starts: the first byte of each link.
        end: the byte after the last page.
        has_end: whether the last page has the end-of-stream flag.
        has_gaps: whether there are bytes between the pages that belong to no page.
    """

    starts: tuple[int, ...]
    end: int
    has_end: bool
    has_gaps: bool

    @property
    def notices(self) -> list[str]:
        """Remarks about the file, such as a missing end."""
        notices = []
        if self.has_gaps:
            notices.append("has bytes between its Ogg pages that can't be read: a part may be missing")
        if not self.has_end:
            notices.append("has no end mark: its end may be missing")
        return notices

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The first byte of each link and the byte after its last one."""
        return list(zip(self.starts, (*self.starts[1:], self.end), strict=True))


def find_links(file: BinaryIO, name: Path) -> Links | None:
    """Return the links of an open file, found by walking its pages; None if it isn't Ogg.

    Args:
        file: the file.
        name: its name in errors.

    Raises:
        InputError: the file ends within a page.
    """
    starts: list[int] = []
    heads = has_gaps = False
    flags = 0
    file.seek(0)
    end = id3_bytes(file.read(10))  # some programs put an ID3 tag in front of any kind of file
    total = file.seek(0, 2)
    for start, page_end, page_flags in _pages(file, end, total):
        has_gaps = has_gaps or start != end
        # the BOS pages of all streams of a link stand together (RFC 3533 §4)
        if page_flags & _BOS and not heads:
            starts.append(start)
        heads, end, flags = bool(page_flags & _BOS), page_end, page_flags
    if end > total:
        raise cut_within(name, "a page of its Ogg stream")
    return Links(tuple(starts), end, bool(flags & _EOS), has_gaps) if starts else None


def _pages(file: BinaryIO, position: int | None, total: int) -> Iterator[tuple[int, int, int]]:
    """Yield first byte, end and flags of each page from `position` on; a cut-off page ends after `total`."""
    previous = None
    while position is not None and position < total:
        file.seek(position)
        header = file.read(_HEADER_BYTES)
        if not header.startswith(_CAPTURE):
            # the previous page may have been cut off before others were appended: search within it
            position = None if previous is None else _next_page(file, previous + len(_CAPTURE))
            continue
        segments = header[-1] if len(header) == _HEADER_BYTES else 0
        end = position + _HEADER_BYTES + segments + sum(file.read(segments))
        yield position, end, header[5] if len(header) > 5 else 0
        previous, position = position, end


def _next_page(file: BinaryIO, start: int) -> int | None:
    """Return the first byte of the next page at or after `start`, None if there is none."""
    overlap = len(_CAPTURE) - 1  # a capture pattern may lie across two windows
    while True:
        file.seek(start)
        window = file.read(_WINDOW_BYTES)
        if (at := window.find(_CAPTURE)) >= 0:
            return start + at
        if len(window) <= overlap:
            return None
        start += len(window) - overlap

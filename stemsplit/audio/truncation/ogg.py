"""Finding the links of a chained Ogg file, whole streams one after the other, as radio recorders write it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from stemsplit.audio.truncation import cut_within
from stemsplit.audio.truncation.tag_bytes import id3_bytes

_CAPTURE = b"OggS"
_HEADER_BYTES = 27
_FIRST, _LAST = 2, 4  # header flags (RFC 3533 §6)
_WINDOW_BYTES = 1 << 16


@dataclass(frozen=True)
class Links:
    """The links of an Ogg file.

    Attributes:
        starts: the first byte of each.
        end: the byte after the last page.
        closed: whether the last page is marked as its stream's last one.
        torn: whether something that is no page lies between pages.
    """

    starts: tuple[int, ...]
    end: int
    closed: bool
    torn: bool

    @property
    def notices(self) -> list[str]:
        """Notices about the stream, such as a missing end."""
        torn = (
            ["has bytes between its Ogg pages that can't be read: a part may be missing"] if self.torn else []
        )
        unclosed = [] if self.closed else ["has no end mark: its end may be missing"]
        return torn + unclosed

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The first byte of each link and the byte after its last one."""
        return list(zip(self.starts, (*self.starts[1:], self.end), strict=True))


def find_links(file: BinaryIO, name: Path) -> Links | None:
    """Walk the pages of an open file; None where it is no Ogg.

    Args:
        file: the file.
        name: what errors call it.

    Raises:
        InputError: the file ends within a page.
    """
    starts: list[int] = []
    heads = torn = False
    flags = 0
    file.seek(0)
    end = id3_bytes(file.read(10))  # some programs tag every kind of file in the way of MP3
    total = file.seek(0, 2)
    for start, page_end, page_flags in _pages(file, end, total):
        torn = torn or start != end
        # the first pages of all streams of a link stand together
        if page_flags & _FIRST and not heads:
            starts.append(start)
        heads, end, flags = bool(page_flags & _FIRST), page_end, page_flags
    if end > total:
        raise cut_within(name, "a page of its Ogg stream")
    return Links(tuple(starts), end, bool(flags & _LAST), torn) if starts else None


def _pages(file: BinaryIO, position: int | None, total: int) -> Iterator[tuple[int, int, int]]:
    """Yield first byte, end and flags of the pages from `position` on; a cut-off one ends behind `total`."""
    previous = None
    while position is not None and position < total:
        file.seek(position)
        header = file.read(_HEADER_BYTES)
        if not header.startswith(_CAPTURE):
            # the next page may begin within the last one, where that was cut off before others were appended
            position = None if previous is None else _next_page(file, previous + len(_CAPTURE))
            continue
        segments = header[-1] if len(header) == _HEADER_BYTES else 0
        end = position + _HEADER_BYTES + segments + sum(file.read(segments))
        yield position, end, header[5] if len(header) > 5 else 0
        previous, position = position, end


def _next_page(file: BinaryIO, start: int) -> int | None:
    """Return where the next page begins from `start` on."""
    overlap = len(_CAPTURE) - 1
    while True:
        file.seek(start)
        window = file.read(_WINDOW_BYTES)
        if (at := window.find(_CAPTURE)) >= 0:
            return start + at
        if len(window) <= overlap:
            return None
        start += len(window) - overlap

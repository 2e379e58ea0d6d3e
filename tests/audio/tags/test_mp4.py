import struct
from pathlib import Path

import pytest

from stemsplit.audio.sink import Sink
from stemsplit.audio.tags.mp4 import append_to_moov, cover, freeform


def box(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def appended(path: Path, whole: bytes, *where: bytes) -> bytes:
    sink = Sink(path)
    sink.write(whole)
    append_to_moov(sink, where, box(b"new ", b"!"))
    sink.close()
    return path.read_bytes()


def test_every_size_on_the_way_grows(tmp_path: Path) -> None:
    meta = box(b"meta", bytes(4) + box(b"hdlr", b"x") + box(b"ilst", box(b"old ")))
    start = box(b"ftyp") + box(b"mdat", b"audio")
    whole = start + box(b"moov", box(b"trak") + box(b"udta", meta) + box(b"free"))
    new_meta = box(b"meta", bytes(4) + box(b"hdlr", b"x") + box(b"ilst", box(b"old ") + box(b"new ", b"!")))
    expected = start + box(b"moov", box(b"trak") + box(b"udta", new_meta) + box(b"free"))
    assert appended(tmp_path / "a", whole, b"udta", b"meta", b"ilst") == expected


def test_what_is_missing_on_the_way_is_made(tmp_path: Path) -> None:
    whole = box(b"moov", box(b"trak"))
    assert appended(tmp_path / "a", whole, b"udta") == box(
        b"moov", box(b"trak") + box(b"udta", box(b"new ", b"!"))
    )


def test_wide_sizes_before_moov(tmp_path: Path) -> None:
    mdat = struct.pack(">I4sQ", 1, b"mdat", 16 + 5) + b"audio"
    assert appended(tmp_path / "a", mdat + box(b"moov")) == mdat + box(b"moov", box(b"new ", b"!"))


def test_no_moov(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "a")
    sink.write(box(b"ftyp") + struct.pack(">I4s", 0, b"mdat"))
    with pytest.raises(ValueError, match="without moov"):
        append_to_moov(sink, (b"udta",), box(b"new "))
    sink.close()


def test_boxes() -> None:
    note = freeform("KEY", "é")
    assert note[4:8] == b"----" and struct.unpack_from(">I", note)[0] == len(note)
    assert b"mean\0\0\0\0com.apple.iTunes" in note and b"name\0\0\0\0KEY" in note
    assert note.endswith(b"data\0\0\0\x01\0\0\0\0\xc3\xa9")
    assert cover(b"P", "image/png").endswith(b"data\0\0\0\x0e\0\0\0\0P")
    assert cover(b"J", "image/jpeg").endswith(b"data\0\0\0\x0d\0\0\0\0J")

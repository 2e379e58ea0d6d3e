import io
import struct

import pytest

from stemsplit.audio.truncation import Claim
from stemsplit.audio.truncation.chunks import DataChunk, find_data


def riff(*chunks: tuple[bytes, int, bytes], magic: bytes = b"RIFF", size: int = 1000) -> io.BytesIO:
    body = b"".join(struct.pack("<4sI", name, declared) + data for name, declared, data in chunks)
    return io.BytesIO(struct.pack("<4sI4s", magic, size, b"WAVE") + body)


def test_chunks_before_the_audio_are_skipped() -> None:
    file = riff((b"fmt ", 3, b"abc\0"), (b"data", 4, b"abcdefgh"))
    assert find_data(file) == DataChunk(start=32, declared=4, present=8)


def test_missing_bytes_are_counted() -> None:
    found = find_data(riff((b"data", 100, b"abc")))
    assert found == DataChunk(start=20, declared=100, present=3) and found.length == 3
    assert found.claim == Claim(100, 3, "bytes")
    assert DataChunk(0, 3, 5).length == 3 and DataChunk(0, None, 5).length == 5
    assert DataChunk(0, None, 5).claim is None


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0xFFFF0000, 0x7FFFF000, 0x7FFFFFFF, 0x7F000008])
def test_sizes_that_mean_unknown(size: int) -> None:
    found = find_data(riff((b"data", size, b"abc")))
    assert found is not None and found.declared is None and found.length == 3


@pytest.mark.parametrize("size", [0x7FFFEFFF, 0x80000000, 0xFFFEFFFF])
def test_large_sizes_that_mean_what_they_say(size: int) -> None:
    found = find_data(riff((b"data", size, b"abc")))
    assert found is not None and found.declared == size


def test_no_audio_and_a_header_never_finished_are_told_apart() -> None:
    done, crashed = find_data(riff((b"data", 0, b"abc"))), find_data(riff((b"data", 0, b"abc"), size=0))
    assert done is not None and done.declared == 0
    assert crashed is not None and crashed.declared is None


def test_rf64_takes_its_size_from_ds64() -> None:
    wide = struct.pack("<QQQI", 0, 5_000_000_000, 7, 0)
    found = find_data(riff((b"ds64", 28, wide), (b"data", 0xFFFFFFFF, b"abc"), magic=b"RF64"))
    assert found is not None and found.declared == 5_000_000_000 and found.length == 3


def test_big_endian_and_wide_chunks() -> None:
    aiff = io.BytesIO(b"FORM" + bytes(4) + b"AIFF" + struct.pack(">4sI", b"SSND", 17) + bytes(8) + b"abc")
    caf = io.BytesIO(b"caff\0\1\0\0" + struct.pack(">4sQ", b"data", 13) + bytes(4) + b"abc")
    endless = io.BytesIO(b"caff\0\1\0\0" + struct.pack(">4sq", b"data", -1) + bytes(4) + b"abc")
    # behind the offset and block size of AIFF, and the edit count of CAF
    assert find_data(aiff) == DataChunk(28, 9, 3)
    assert find_data(caf) == DataChunk(24, 9, 3)
    assert find_data(endless) == DataChunk(24, None, 3)


@pytest.mark.parametrize("wide", [0, (1 << 64) - 1])
def test_rf64_that_was_never_finished(wide: int) -> None:
    ds64 = struct.pack("<QQQI", 0, wide, 0, 0)
    found = find_data(riff((b"ds64", 28, ds64), (b"data", 0xFFFFFFFF, b"abcd"), magic=b"RF64"))
    assert found is not None and found.declared is None and found.length == 4


def test_a_size_that_overflowed_is_told_by_whole_multiples_of_4_gib() -> None:
    true = (3 << 32) + 1000
    wrapped = DataChunk(44, 1000, true + 60, wrapped=True)
    assert wrapped.length == true
    assert wrapped.claim == Claim(1000, true, "bytes")


def test_w64_sizes_count_their_header() -> None:
    guid = bytes(12)
    head = b"riff" + guid + bytes(8) + b"wave" + guid
    file = io.BytesIO(
        head + b"junk" + guid + struct.pack("<Q", 25) + b"x" * 8 + b"data" + guid + struct.pack("<Q", 30)
    )
    assert find_data(file) == DataChunk(start=96, declared=6, present=0)


@pytest.mark.parametrize("content", [b"", b"RI", b"RIFF", b"ID3\4", b"RIFF" + bytes(8), b"caff" + bytes(40)])
def test_nothing_to_find(content: bytes) -> None:
    assert find_data(io.BytesIO(content)) is None


def test_sizes_of_zero_do_not_loop() -> None:
    assert find_data(riff(*[(b"LIST", 0, b"")] * 1000)) is None
    w64 = io.BytesIO(b"riff" + bytes(36) + bytes(24 * 1000))
    assert find_data(w64) is None

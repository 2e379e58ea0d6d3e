import io
import struct

import numpy as np
import pytest
import soundfile

from stemsplit.audio.tags.vorbis import CommentRewriter, comment_packet


def encoded(audio: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, audio.T, 44100, format="OGG", subtype="VORBIS")
    return file.getvalue()


def pages(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Number, flags, granule and body of every page; the checksums are computed bit by bit."""
    found, position = [], 0
    while position < len(data):
        magic, _, flags, granule, _, number, crc, count = struct.unpack_from("<4sBBqIIIB", data, position)
        lacing = data[position + 27 : position + 27 + count]
        size = 27 + count + sum(lacing)
        page = bytearray(data[position : position + size])
        page[22:26] = bytes(4)
        assert magic == b"OggS" and crc == checksum(bytes(page))
        found.append((number, flags, granule, bytes(page[27 + count :])))
        position += size
    return found


def checksum(data: bytes) -> int:
    register = 0
    for byte in data:
        register ^= byte << 24
        for _ in range(8):
            register = ((register << 1) ^ (0x04C11DB7 if register >> 31 else 0)) & 0xFFFFFFFF
    return register


@pytest.mark.parametrize("size", [1, 100, 4096, 1 << 20])
@pytest.mark.parametrize("comment", [10, 60_000, 200_000])
def test_new_comments_and_the_same_audio(size: int, comment: int, music: np.ndarray) -> None:
    whole, out = encoded(music[:, :5000]), io.BytesIO()
    rewriter = CommentRewriter(out, {"title": "x" * comment})
    for start in range(0, len(whole), size):
        assert rewriter.write(whole[start : start + size]) == len(whole[start : start + size])
    assert rewriter.tell() == len(whole) == rewriter.seek(0)
    before, after = pages(whole), pages(out.getvalue())
    assert [number for number, *_ in after] == list(range(len(after)))
    assert after[0] == before[0]
    # the audio pages come last, unchanged but for their numbers
    tail = len([page for page in before if page[2] > 0])
    assert [page[1:] for page in after[-tail:]] == [page[1:] for page in before[-tail:]]
    assert np.array_equal(soundfile.read(io.BytesIO(out.getvalue()))[0], soundfile.read(io.BytesIO(whole))[0])
    with soundfile.SoundFile(io.BytesIO(out.getvalue())) as file:
        assert len(file.title) == comment


def test_comment_packet() -> None:
    packet = comment_packet({"title": "é", "stemsplit": "a=b"}, b"me")
    assert packet == (b"\x03vorbis\x02\0\0\0me\x02\0\0\0\x08\0\0\0TITLE=\xc3\xa9\x0d\0\0\0STEMSPLIT=a=b\x01")


def test_packets_that_fill_whole_segments(music: np.ndarray) -> None:
    whole = encoded(music[:, :3000])
    for comment in range(200, 520, 5):
        out = io.BytesIO()
        CommentRewriter(out, {"t": "x" * comment}).write(whole)
        assert len(soundfile.read(io.BytesIO(out.getvalue()))[0]) == 3000

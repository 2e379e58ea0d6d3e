import io
import struct

from stemsplit.audio.truncation.tag_bytes import trailing_tag_bytes


def test_tags_at_the_end() -> None:
    id3, ape = b"TAG" + bytes(125), b"APETAGEX" + struct.pack("<III", 2000, 132, 1) + bytes(12)
    for tag, size in ((b"", 0), (id3, 128), (bytes(100) + ape, 132), (bytes(100) + ape + id3, 260)):
        assert trailing_tag_bytes(io.BytesIO(bytes(5000) + tag)) == size

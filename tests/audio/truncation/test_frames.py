from stemsplit.audio.truncation.frames import frame_bytes

FRAME = b"\xff\xfb\x90\x64"


def test_the_length_of_a_frame() -> None:
    assert frame_bytes(FRAME) == 417  # 144 · 128000 / 44100
    assert frame_bytes(b"\xff\xfb\x92\x64") == 418  # padded
    assert frame_bytes(b"\xff\xf3\x84\x64") == 192  # MPEG 2, 64 kbit/s, 24 kHz: 72 · 64000 / 24000
    assert frame_bytes(b"\xff\xe3\x88\x64") == 576  # MPEG 2.5, 64 kbit/s, 8 kHz
    for other in (b"", b"\xff\xfb", b"\xff\xfb\xf0\x64", b"\xff\xfb\x00\x64", b"\xff\xfb\x9c\x64", b"RIFF"):
        assert frame_bytes(other) == 0

import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from stemsplit.audio.reader import probe, read_audio
from stemsplit.audio.writer import open_writer
from stemsplit.audio.xing import find_stream
from stemsplit.errors import InputError
from stemsplit.settings import OutputSettings

FRAME = b"\xff\xfb\x90\x64"


def noted(flags: int, *numbers: int, tag: bytes = b"", magic: bytes = b"Xing") -> io.BytesIO:
    note = magic + struct.pack(f">I{len(numbers)}I", flags, *numbers)
    return io.BytesIO(tag + FRAME + bytes(32) + note + bytes(5000))


def test_bytes_with_and_without_a_frame_count() -> None:
    for flags, numbers in ((3, (7, 100_000)), (2, (100_000, 9))):
        found = find_stream(noted(flags, *numbers))
        assert found is not None and found.start == 0
        assert found.declared == 100_000 - 4096 and found.present == 36 + 8 + 4 * len(numbers) + 5000


def test_an_id3_tag_comes_first() -> None:
    tag = b"ID3\3\0\0" + bytes([0, 0, 2, 44]) + bytes(300)
    found = find_stream(noted(3, 7, 1_000_000, tag=tag, magic=b"Info"))
    assert found is not None and found.start == 310 and found.declared == 990_000


@pytest.mark.parametrize(
    "file",
    [
        io.BytesIO(),
        io.BytesIO(b"ID3"),
        io.BytesIO(FRAME + bytes(500)),
        noted(1, 7, 100_000),
        noted(3, 7, 100_000, magic=b"Nope"),
        io.BytesIO(b"\xff\xf1" + bytes(34) + b"Xing" + bytes(200)),
        io.BytesIO(b"Info" + bytes(200)),
        io.BytesIO(FRAME + bytes(32) + b"Xing"),
    ],
)
def test_nothing_tells(file: io.BytesIO) -> None:
    assert find_stream(file) is None


def test_our_own_files_claim_what_they_have(music: np.ndarray, tmp_path: Path) -> None:
    with open_writer(tmp_path / "a", 44100, 2, OutputSettings(format="mp3")) as writer:
        writer.write(music)
    with (tmp_path / "a").open("rb") as file:
        found = find_stream(file)
    assert found is not None and found.missing == 0
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(InputError, match=r"cut short: 9\d % of its audio is there"):
        probe(tmp_path / "a")


def test_variable_bit_rate_without_a_note_is_no_claim(music: np.ndarray, tmp_path: Path) -> None:
    frames = {}
    for bitrate in (320_000, 32_000):
        with open_writer(tmp_path / "a", 44100, 2, OutputSettings(format="mp3", bitrate=bitrate)) as writer:
            writer.write(music)
        with av.open(tmp_path / "a") as container:
            frames[bitrate] = [bytes(packet) for packet in container.demux() if packet.size]
    # the length estimated from the first frames is nearly twice the true one
    (tmp_path / "b").write_bytes(b"".join(frames[32_000][:30] + frames[320_000] * 4))
    counted = read_audio(tmp_path / "b")[0].shape[1]
    declared = probe(tmp_path / "b").frames
    assert counted == 1152 * (30 + 4 * len(frames[320_000]))
    assert declared is not None and declared > 1.5 * counted

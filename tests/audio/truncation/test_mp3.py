import io
import struct
from pathlib import Path

import av
import numpy as np
import pytest

from stemsplit.audio.reader import open_audio, probe, read_audio
from stemsplit.audio.truncation import Claim
from stemsplit.audio.truncation.frames import frame_bytes
from stemsplit.audio.truncation.mp3 import ends_on_frame, find_claim
from stemsplit.audio.truncation.tag_bytes import id3_bytes
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError
from stemsplit.settings import OutputSettings

FRAME = b"\xff\xfb\x90\x64"


def noted(flags: int, *numbers: int, tag: bytes = b"", magic: bytes = b"Xing") -> io.BytesIO:
    note = magic + struct.pack(f">I{len(numbers)}I", flags, *numbers)
    return io.BytesIO(tag + FRAME + bytes(32) + note + bytes(5000))


def test_bytes_with_and_without_a_frame_count() -> None:
    for flags, numbers in ((3, (7, 100_000)), (2, (100_000, 9))):
        present = 36 + 8 + 4 * len(numbers) + 5000
        assert find_claim(noted(flags, *numbers)) == Claim(100_000, present, "bytes")


def test_an_id3_tag_comes_first() -> None:
    tag = b"ID3\3\0\0" + bytes([0, 0, 2, 44]) + bytes(300)
    assert find_claim(noted(3, 7, 1_000_000, tag=tag, magic=b"Info")) == Claim(1_000_000, 5052, "bytes")


def test_a_little_more_than_claimed_is_no_claim_and_much_more_is() -> None:
    assert find_claim(noted(3, 7, 5052 - 4096)) is None
    assert find_claim(noted(3, 7, 5052 - 4097)) == Claim(955, 5052, "bytes", ends_on_frame=True)


def test_frames_are_walked_to_the_end() -> None:
    file = io.BytesIO(b"junk" + (FRAME + bytes(413)) * 9)
    assert ends_on_frame(file, 4, 4 + 9 * 417)
    assert not ends_on_frame(file, 4, 4 + 9 * 417 - 1) and not ends_on_frame(file, 0, 4 + 9 * 417)


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
    assert find_claim(file) is None


def test_our_own_files_claim_what_they_have(music: np.ndarray, tmp_path: Path) -> None:
    with open_writer(tmp_path / "a", 44100, 2, OutputSettings(format="mp3")) as writer:
        writer.write(music)
    with (tmp_path / "a").open("rb") as file:
        assert find_claim(file) is None
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) * 9 // 10])
    with pytest.raises(InputError, match=r"cut short: (89|90) % of its audio is there"):
        probe(tmp_path / "a")


def test_an_editor_that_left_the_note_alone(music: np.ndarray, tmp_path: Path) -> None:
    """Cut between two frames: all that is left is read, with a notice."""
    with open_writer(tmp_path / "a", 44100, 2, OutputSettings(format="mp3")) as writer:
        writer.write(music)
    whole = (tmp_path / "a").read_bytes()
    with (tmp_path / "a").open("rb") as file:
        end = id3_bytes(file.read(10))
        frames = 0
        while end < len(whole) * 6 // 10:
            file.seek(end)
            end += frame_bytes(file.read(4))
            frames += 1
    (tmp_path / "a").write_bytes(whole[:end])
    with open_audio(tmp_path / "a") as reader:
        count = sum(block.shape[1] for block in reader.blocks())
        # one frame is the note, and LAME's delay of 1105 samples is left out
        assert count == (frames - 1) * 1152 - 1105
        assert len(reader.notices) == 1 and reader.notices[0].startswith("claims ")


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

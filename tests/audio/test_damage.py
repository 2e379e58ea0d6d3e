"""Reading a damaged file gives audio or an error of one line."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import open_audio, probe
from stemsplit.audio.tags import Tags, read_settings, read_tags
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError
from stemsplit.settings import OutputSettings

WRITTEN = ("wav", "flac", "mp3", "ogg", "opus", "m4a", "alac", "aiff")
SOUNDFILE = ("rf64", "w64", "caf")
FFMPEG = {
    "aac": "aac",
    "ac3": "ac3",
    "wma": "wmav2",
    "wv": "wavpack",
    "mka": "aac",
    "webm": "libopus",
    "ts": "aac",
    "avi": "libmp3lame",
    "tta": "tta",
    "mp2": "mp2",
    "oga": "flac",
    "mov": "pcm_s16le",
}
ROUNDS = 7


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(20):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def blank(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    data[start : start + 4000] = bytes(len(data[start : start + 4000]))


def drop(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.randrange(1, 3000)]


def break_header(data: bytearray, draw: random.Random) -> None:
    for _ in range(5):
        data[draw.randrange(min(300, len(data)))] ^= 1 << draw.randrange(8)


def lie_about_size(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(min(400, len(data)))
    data[start : start + 4] = draw.choice([b"\xff\xff\xff\x7f", b"\xff" * 4, bytes(4)])


def break_tail(data: bytearray, draw: random.Random) -> None:
    for _ in range(10):
        data[-draw.randrange(1, min(2000, len(data)))] = draw.randrange(256)


DAMAGES = (cut, flip, blank, drop, break_header, lie_about_size, break_tail)


def damaged_copies(whole: bytes, seed: str, rounds: int) -> Iterator[bytes]:
    draw = random.Random(seed)
    for index in range(rounds):
        data = bytearray(whole)
        DAMAGES[index % len(DAMAGES)](data, draw)
        yield bytes(data)


def require_answer(path: Path) -> None:
    """Return finite audio, or an error of one line."""
    for read in (read_through, probe, read_tags):
        try:
            read(path)
        except InputError as error:
            assert error.reason and "\n" not in str(error)
    read_settings(path)


def read_through(path: Path) -> None:
    with open_audio(path) as reader:
        count = 0
        for block in reader.blocks():
            assert block.dtype == np.float32 and block.shape[0] == reader.channels
            count += block.shape[1]
            if count > 20_000_000:
                break
    assert count > 0


def source(kind: str, music: np.ndarray, folder: Path, ffmpeg: Callable[..., None] | None) -> bytes:
    path = folder / f"whole.{kind}"
    if kind in WRITTEN:
        rate = 48000 if kind == "opus" else 44100
        tags = Tags({"title": "Title", "artist": "Artist"}, settings="note")
        with open_writer(path, rate, 2, OutputSettings(format=kind, bit_depth="16"), tags=tags) as writer:
            writer.write(music)
    else:
        soundfile.write(folder / "source.wav", music.T, 44100)
        if kind in SOUNDFILE:
            soundfile.write(path, music.T, 44100, format=kind.upper())
        elif ffmpeg is not None:
            ffmpeg("-i", folder / "source.wav", "-c:a", FFMPEG[kind], path)
    return path.read_bytes()


@pytest.mark.parametrize("kind", [*WRITTEN, *SOUNDFILE, *FFMPEG])
def test_damage_ends_in_audio_or_one_line(
    kind: str, music: np.ndarray, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ffmpeg = request.getfixturevalue("ffmpeg") if kind in FFMPEG else None
    for copy in damaged_copies(source(kind, music, tmp_path, ffmpeg), kind, ROUNDS):
        (tmp_path / "a").write_bytes(copy)
        require_answer(tmp_path / "a")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", [*WRITTEN, *SOUNDFILE, *FFMPEG])
def test_a_lot_of_damage(
    kind: str, music: np.ndarray, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    ffmpeg = request.getfixturevalue("ffmpeg") if kind in FFMPEG else None
    for copy in damaged_copies(source(kind, music, tmp_path, ffmpeg), f"more {kind}", 105):
        (tmp_path / "a").write_bytes(copy)
        require_answer(tmp_path / "a")


def test_undamaged_files_pass_the_same_check(music: np.ndarray, tmp_path: Path) -> None:
    for kind in (*WRITTEN, *SOUNDFILE):
        (tmp_path / "a").write_bytes(source(kind, music, tmp_path, None))
        read_through(tmp_path / "a")
    shutil.rmtree(tmp_path)


# ---------------------------------------------------------------- decisions


def mp3(folder: Path, music: np.ndarray) -> bytearray:
    settings = OutputSettings(format="mp3", bitrate=128_000)
    with open_writer(folder / "a.mp3", 44100, 2, settings, tags=Tags()) as writer:
        writer.write(music)
    return bytearray((folder / "a.mp3").read_bytes())


def test_bad_bytes_inside_an_mp3_are_an_error(music: np.ndarray, tmp_path: Path) -> None:
    """FFmpeg continues after a gap in the music; this package never does so silently."""
    data = mp3(tmp_path, music)
    middle = len(data) // 2
    data[middle : middle + 300] = random.Random(0).randbytes(300)
    (tmp_path / "a.mp3").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged at \d\.\d s"):
        read_through(tmp_path / "a.mp3")


def test_free_format_mp3_is_refused_in_one_line(music: np.ndarray, tmp_path: Path) -> None:
    """FFmpeg doesn't decode MP3 with a free bit rate."""
    data = mp3(tmp_path, music)
    for at in range(len(data) - 4):
        if data[at : at + 2] == b"\xff\xfb" and data[at + 2] >> 4 == 9:  # 128 kbit/s
            data[at + 2] &= 0x0F
    (tmp_path / "a.mp3").write_bytes(data)
    with pytest.raises(InputError) as caught:
        read_through(tmp_path / "a.mp3")
    assert "\n" not in str(caught.value)


def test_a_text_in_another_alphabet_than_it_says_is_copied_as_it_is_read(
    music: np.ndarray, tmp_path: Path
) -> None:
    """Cyrillic in cp1251, labelled Latin-1, is copied as FFmpeg and all players show it."""
    text = "Привет".encode("cp1251")
    frame = b"TIT2" + (len(text) + 1).to_bytes(4) + bytes(2) + b"\0" + text
    tag = b"ID3\3\0\0" + bytes([0, 0, 0, len(frame)]) + frame
    (tmp_path / "b.mp3").write_bytes(tag + mp3(tmp_path, music))
    assert read_tags(tmp_path / "b.mp3").fields["title"] == text.decode("latin-1")

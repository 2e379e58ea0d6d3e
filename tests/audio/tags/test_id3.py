import io
from pathlib import Path

import numpy as np
import pytest

from stemsplit.audio.tags import Tags, read_tags
from stemsplit.audio.tags.id3 import read_several
from stemsplit.audio.truncation.tag_bytes import id3_bytes
from stemsplit.audio.writer import open_writer
from stemsplit.formats import FORMATS
from stemsplit.settings import OutputSettings


def syncsafe(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def frame(name: bytes, body: bytes, flags: bytes = b"\0\0") -> bytes:
    return name + syncsafe(len(body)) + flags + body


def tag(*frames: bytes, version: int = 4, flags: int = 0) -> bytes:
    body = b"".join(frames)
    return b"ID3" + bytes([version, 0, flags]) + syncsafe(len(body)) + body


@pytest.fixture(scope="module")
def mp3(music: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("mp3") / "a.mp3"
    with open_writer(path, 44100, 2, OutputSettings(format="mp3")) as writer:
        writer.write(music[:, :4608])
    data = path.read_bytes()
    return data[id3_bytes(data) :]


ENCODED = {
    "latin-1": b"\0A\xe9\0B",
    "utf-16": b"\1" + "Aé".encode("utf-16") + b"\0\0" + "B".encode("utf-16") + b"\0\0",
    "utf-16-be": b"\2" + "Aé\0B".encode("utf-16-be"),
    "utf-8": b"\3" + "Aé\0B\0".encode(),
}


@pytest.mark.parametrize("encoding", list(ENCODED))
def test_all_artists_are_kept(encoding: str, mp3: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    path.write_bytes(tag(frame(b"TIT2", b"\3T"), frame(b"TPE1", ENCODED[encoding])) + mp3)
    assert read_tags(path).fields == {"title": "T", "artist": "Aé;B"}


def test_the_other_people_too_and_nothing_else(mp3: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    frames = (
        frame(b"TPE2", b"\3Various\0More"),
        frame(b"TCOM", b"\3C\0D\0E"),
        frame(b"TPE1", b"\3alone\0"),
        frame(b"TCON", b"\3Pop\0Rock"),
    )
    path.write_bytes(tag(*frames) + mp3)
    fields = read_tags(path).fields
    assert fields == {"album_artist": "Various;More", "composer": "C;D;E", "artist": "alone", "genre": "Pop"}


@pytest.mark.parametrize("kind", list(FORMATS))
def test_every_format_carries_them(kind: str, mp3: bytes, music: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "a.mp3").write_bytes(tag(frame(b"TPE1", b"\3A\0B")) + mp3)
    rate = FORMATS[kind].nearest_rate(48000)
    tags = read_tags(tmp_path / "a.mp3")
    with open_writer(tmp_path / "b", rate, 2, OutputSettings(format=kind), tags=tags) as writer:
        writer.write(music)
    assert read_tags(tmp_path / "b") == Tags({"artist": "A;B"})


@pytest.mark.parametrize(
    "head",
    [
        tag(frame(b"TPE1", b"\3A\0B"), version=3),
        tag(frame(b"TPE1", b"\3A\0B"), flags=0x80),
        tag(frame(b"TPE1", b"\3A\0B", flags=b"\0\x02")),
        tag(frame(b"TPE1", b"")),
        tag(frame(b"TPE1", b"\7A\0B")),
        tag(frame(b"TPE1", b"\3A\0B"))[:16],
        tag(frame(b"TPE1", b"\3A\0B"))[:8],
        tag(b"TPE1\x7f\x7f\x7f\x7f\0\0\3A"),
        b"RIFF",
        b"",
    ],
    ids=["v2.3", "unsynchronised", "frame-flag", "empty", "encoding", "cut", "head", "size", "other", "none"],
)
def test_what_is_left_to_ffmpeg(head: bytes) -> None:
    assert read_several(io.BytesIO(head)) == {}


def test_a_tag_before_another_files_own_does_not_replace_it(music: np.ndarray, tmp_path: Path) -> None:
    settings, tags = OutputSettings(format="flac"), Tags({"artist": "own"})
    with open_writer(tmp_path / "a", 44100, 2, settings, tags=tags) as writer:
        writer.write(music)
    (tmp_path / "b").write_bytes(tag(frame(b"TPE1", b"\3A\0B")) + (tmp_path / "a").read_bytes())
    assert read_tags(tmp_path / "b").fields["artist"] == "own"

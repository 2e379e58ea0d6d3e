import io
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import read_audio
from stemsplit.audio.tags import Cover, Tags, read_settings, read_tags
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError
from stemsplit.formats import FORMATS
from stemsplit.settings import OutputSettings

FIELDS = {
    "title": "Björk – 絆",
    "artist": 'A "quoted" artist; and another',
    "album": "Álbum",
    "album_artist": "Various",
    "composer": "C",
    "performer": "P",
    "conductor": "K",
    "publisher": "Label",
    "copyright": "© 1999",
    "genre": "Pop",
    "date": "1999",
    "track": "3/12",
    "disc": "1/2",
    "comment": "a comment\nof two lines",
    "lyrics": "la\nla",
    "bpm": "120",
    "initialkey": "Am",
    "isrc": "USXXX0000001",
}
NOTE = '{"model": "sha256:00", "settings": [1, 2.5, "é"], "version": "0.1"}'
# FFmpeg writes an MP4's tempo and doesn't read it
NOT_READ_BACK = dict.fromkeys(("m4a", "alac", "stem.m4a", "stem.mp4"), {"bpm"})


def picture(codec: str) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as container:
        stream: Any = container.add_stream(codec, rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


COVERS = [Cover(picture("mjpeg"), "image/jpeg"), Cover(picture("png"), "image/png")]


def tagged(path: Path, kind: str, tags: Tags | None, audio: np.ndarray) -> Path:
    rate = FORMATS[kind].nearest_rate(48000)
    with open_writer(path, rate, audio.shape[0], OutputSettings(format=kind), tags=tags) as writer:
        writer.write(audio)
    return path


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("cover", COVERS, ids=["jpeg", "png"])
def test_every_format_gives_the_tags_back(kind: str, cover: Cover, music: np.ndarray, tmp_path: Path) -> None:
    path = tagged(tmp_path / "a", kind, Tags(FIELDS, cover, NOTE), music)
    found = read_tags(path)
    expected = {name: text for name, text in FIELDS.items() if name not in NOT_READ_BACK.get(kind, ())}
    assert dict(found.fields) == expected
    assert found.cover == cover
    assert found.settings == NOTE == read_settings(path)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_tags_do_not_touch_the_audio(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    plain = read_audio(tagged(tmp_path / "a", kind, None, music))[0]
    full = read_audio(tagged(tmp_path / "b", kind, Tags(FIELDS, COVERS[0], NOTE), music))[0]
    assert np.array_equal(plain, full)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_note_alone_and_nothing_at_all(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    assert read_tags(tagged(tmp_path / "a", kind, Tags(settings=NOTE), music)) == Tags(settings=NOTE)
    assert read_tags(tagged(tmp_path / "b", kind, None, music)) == Tags()
    assert read_settings(tmp_path / "b") is None


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_long_note_and_a_large_cover(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    note = "x" * 70_000
    cover = Cover(COVERS[0].data + bytes(300_000), "image/jpeg")
    path = tagged(tmp_path / "a", kind, Tags({"title": "T"}, cover, note), music)
    found = read_tags(path)
    assert found.settings == note and found.cover is not None
    assert found.cover.data.rstrip(b"\0") == COVERS[0].data.rstrip(b"\0")
    assert read_audio(path)[0].shape == music.shape


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("data", [b"", b"no picture at all", COVERS[0].data[:20]])
def test_a_damaged_cover_is_no_obstacle(kind: str, data: bytes, music: np.ndarray, tmp_path: Path) -> None:
    path = tagged(tmp_path / "a", kind, Tags({"title": "T"}, Cover(data, "image/jpeg"), NOTE), music)
    assert read_tags(path).fields == {"title": "T"} and read_settings(path) == NOTE
    assert read_audio(path)[0].shape == music.shape


def test_tags_of_the_ffmpeg_program_are_read(wav: Path, tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    given = {"title": "T", "artist": "A", "album": "L", "date": "2001", "comment": "C", "track": "4"}
    options = [part for key, text in given.items() for part in ("-metadata", f"{key}={text}")]
    for name in ("a.mp3", "a.flac", "a.m4a", "a.ogg", "a.opus", "a.wav", "a.mka", "a.wma", "a.wv"):
        ffmpeg("-i", wav, *options, tmp_path / name)
        assert read_tags(tmp_path / name).fields == given, name


def test_our_tags_are_read_by_the_ffprobe_program(music: np.ndarray, tmp_path: Path) -> None:
    if shutil.which("ffprobe") is None:
        pytest.skip("no ffprobe program")
    for kind in FORMATS:
        path = tagged(
            tmp_path / f"a.{kind}", kind, Tags({"title": "Té", "artist": "A"}, settings=NOTE), music
        )
        command = ["ffprobe", "-v", "warning", "-show_entries", "format_tags:stream_tags", path]
        done = subprocess.run(command, capture_output=True, check=True)
        lines = {line.partition(":")[2] for line in done.stdout.decode().splitlines()}
        named = {line.partition("=")[0].lower(): line.partition("=")[2] for line in lines}
        assert named["title"] == "Té" and named["artist"] == "A" and named["stemsplit"] == NOTE, kind
        assert done.stderr == b"", kind


def test_spellings_of_other_programs(tmp_path: Path, music: np.ndarray) -> None:
    with av.open(tmp_path / "a.flac", "w", format="flac") as container:
        stream: Any = container.add_stream("flac", rate=44100, layout="mono", format="s16")
        container.metadata.update(
            {
                "ALBUMARTIST": "V",
                "YEAR": "1990",
                "Initial Key": "Cm",
                "TBPM": "99",
                "ENCODER": "x",
                "foo": "bar",
            }
        )
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4608), np.int16), format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert read_tags(tmp_path / "a.flac").fields == {
        "album_artist": "V",
        "date": "1990",
        "initialkey": "Cm",
        "bpm": "99",
    }


def test_no_tags_to_be_read(tmp_path: Path, wav: Path) -> None:
    (tmp_path / "a").write_bytes(b"nothing")
    with pytest.raises(InputError, match="stdin: not an audio file"):
        read_tags(tmp_path / "a", name="stdin")
    assert read_settings(tmp_path / "a") is None
    assert read_settings(tmp_path / "missing") is None
    assert read_settings(tmp_path) is None
    assert read_tags(wav) == Tags() == read_tags(wav, stream=7)


def test_covers_of_other_kinds_stay_behind(tmp_path: Path, music: np.ndarray) -> None:
    path = tagged(tmp_path / "a", "flac", Tags({"title": "T"}, Cover(b"GIF89a", "image/gif")), music)
    assert read_tags(path).cover is None


def test_a_video_is_no_cover(tmp_path: Path, wav: Path, ffmpeg: Callable[..., None]) -> None:
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=5:duration=1"]
    ffmpeg(*picture, "-i", wav, "-c:v", "mjpeg", "-c:a", "aac", tmp_path / "a.mov")
    assert read_tags(tmp_path / "a.mov").cover is None


def test_sound_libraries_still_read_a_tagged_file(tmp_path: Path, music: np.ndarray) -> None:
    for kind in ("wav", "flac", "aiff", "ogg", "mp3"):
        path = tagged(tmp_path / f"a.{kind}", kind, Tags(FIELDS, COVERS[1], NOTE), music)
        assert soundfile.info(path).frames == music.shape[1], kind

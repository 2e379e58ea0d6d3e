import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Tags, read_tags
from stemsplit.audio.tags.covers import KINDS, Cover
from stemsplit.audio.tags.mp4 import append_to_moov
from stemsplit.audio.truncation.tag_bytes import id3_bytes
from stemsplit.audio.writer import open_writer
from stemsplit.formats import FORMATS
from stemsplit.settings import OutputSettings

FRONT, BACK, OTHER = "Cover (front)", "Cover (back)", "Other"
PIXELS = {"mjpeg": "yuvj420p", "png": "rgb24", "bmp": "bgr24", "gif": "rgb8", "libwebp": "bgra"}


def picture(codec: str, shade: int = 90) -> bytes:
    encoder: Any = av.CodecContext.create(codec, "w")
    encoder.width = encoder.height = 32
    encoder.pix_fmt, encoder.time_base = PIXELS[codec], Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, np.uint8), format="rgb24")
    packets = encoder.encode(frame.reformat(format=PIXELS[codec])) + encoder.encode(None)
    return b"".join(bytes(packet) for packet in packets)


def encoder_of(codec: str) -> str:
    try:
        av.CodecContext.create(codec, "w")
    except Exception:
        pytest.skip(f"this FFmpeg has no encoder {codec}")
    return codec


JPEG, PNG = picture("mjpeg"), picture("png")


def syncsafe(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def apic(kind: int, data: bytes, mime: bytes = b"image/png") -> bytes:
    body = b"\0" + mime + b"\0" + bytes([kind]) + b"\0" + data
    return b"APIC" + syncsafe(len(body)) + bytes(2) + body


Tagged = Callable[..., Path]


@pytest.fixture
def tagged(tmp_path: Path, music: np.ndarray) -> Tagged:
    """Make an MP3 with an ID3v2.4 tag of these frames."""

    def make(*frames: bytes) -> Path:
        path = tmp_path / "a.mp3"
        with open_writer(path, 44100, 2, OutputSettings(format="mp3")) as writer:
            writer.write(music[:, :4608])
        plain, tag = path.read_bytes(), b"".join(frames)
        path.write_bytes(b"ID3\4\0\0" + syncsafe(len(tag)) + tag + plain[id3_bytes(plain) :])
        return path

    return make


@pytest.mark.parametrize(
    ("stored", "taken"),
    [
        ([4, 3], 3),
        ([3, 4], 3),
        ([4, 0, 8], 0),
        ([4, 0, 3], 3),
        ([8, 4], 8),
        ([1, 4, 0], 0),
        ([3, 3], 3),
    ],
    ids=str,
)
def test_the_front_comes_first_then_the_unnamed_then_any(
    stored: list[int], taken: int, tagged: Tagged
) -> None:
    pictures = [picture("png", shade) for shade in range(50, 50 + len(stored))]
    found = read_tags(tagged(*map(apic, stored, pictures)))
    assert found.cover == Cover(pictures[stored.index(taken)], "image/png", KINDS[taken])
    assert found.notice is None


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("shows", [BACK, OTHER, "Media (e.g. label side of CD)"])
def test_a_picture_keeps_its_label(kind: str, shows: str, music: np.ndarray, tmp_path: Path) -> None:
    rate = FORMATS[kind].nearest_rate(48000)
    tags = Tags(cover=Cover(JPEG, "image/jpeg", shows))
    with open_writer(tmp_path / "a", rate, 2, OutputSettings(format=kind), tags=tags) as writer:
        writer.write(music)
    found = read_tags(tmp_path / "a").cover
    # an MP4's artwork has no label, and Matroska's attachments are only covers or not
    expected = {"boxes": FRONT, "attachment": OTHER}.get(FORMATS[kind].tagging, shows)
    assert found == Cover(JPEG, "image/jpeg", expected)


def test_the_kinds_are_those_of_ffmpeg(tagged: Tagged) -> None:
    for number, kind in enumerate(KINDS):
        cover = read_tags(tagged(apic(number, PNG))).cover
        assert cover is not None and cover.kind == kind


@pytest.mark.parametrize(
    ("codec", "called"), [("bmp", "BMP"), ("gif", "GIF"), ("libwebp", "WebP")], ids=["bmp", "gif", "webp"]
)
@pytest.mark.parametrize("mime", [b"", b"image/jpeg"], ids=["true", "false"])
def test_a_cover_of_another_kind_is_told(codec: str, called: str, mime: bytes, tagged: Tagged) -> None:
    data = picture(encoder_of(codec))
    found = read_tags(tagged(apic(3, data, mime or b"image/" + called.lower().encode())))
    assert found.cover is None
    assert found.notice == f"its cover is left out: it is {called}, and only JPEG and PNG are copied"


def test_a_damaged_cover_is_told(tagged: Tagged) -> None:
    for data in (b"no picture at all", PNG[:10], JPEG[:20]):
        found = read_tags(tagged(apic(3, data)))
        assert (found.cover, found.notice) == (None, "its cover is left out: it is damaged")


def test_a_cover_that_is_too_large_is_told(tagged: Tagged) -> None:
    found = read_tags(tagged(apic(3, JPEG + bytes(1 << 24), b"image/jpeg")))
    assert found.cover is None
    assert found.notice == "its cover is left out: it is larger than the 16 MiB that FLAC holds"


def test_another_picture_stands_in_for_a_front_that_cannot_be_copied(tagged: Tagged) -> None:
    found = read_tags(tagged(apic(4, PNG), apic(3, picture("bmp"), b"image/bmp")))
    assert found.cover == Cover(PNG, "image/png", BACK)
    assert found.notice == "its cover is left out: it is BMP, and only JPEG and PNG are copied"
    found = read_tags(tagged(apic(3, PNG), apic(4, picture("bmp"), b"image/bmp")))
    assert (found.cover, found.notice) == (Cover(PNG, "image/png"), None)


def test_a_picture_of_no_bytes_is_none(tagged: Tagged) -> None:
    assert read_tags(tagged(apic(3, b""))) == Tags()
    assert read_tags(tagged(apic(3, b""), apic(4, PNG))).cover == Cover(PNG, "image/png", BACK)


def test_matroska_names_its_cover(wav: Path, tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    files = {"back.jpg": JPEG, "cover.png": PNG, "a.webp": b"RIFF....WEBP"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    def attached(*names: str) -> Tags:
        options: list[str | Path] = []
        for number, name in enumerate(names):
            mime = {"jpg": "jpeg"}.get(name[-3:], name.rpartition(".")[2])
            options += ["-attach", tmp_path / name, f"-metadata:s:t:{number}", f"mimetype=image/{mime}"]
        ffmpeg("-i", wav, *options, "-c", "copy", tmp_path / "a.mka")
        return read_tags(tmp_path / "a.mka")

    assert attached("back.jpg", "cover.png").cover == Cover(PNG, "image/png")
    assert attached("back.jpg").cover == Cover(JPEG, "image/jpeg", OTHER)
    alone = attached("a.webp")
    assert alone.cover is None
    assert alone.notice == "its cover is left out: it is WebP, and only JPEG and PNG are copied"


def test_wavpack_names_its_cover(wav: Path, tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    def item(name: bytes, data: bytes) -> bytes:
        return struct.pack("<II", len(data), 2) + name + b"\0" + data

    ffmpeg("-i", wav, "-map_metadata", "-1", "-fflags", "+bitexact", tmp_path / "a.wv")
    plain = (tmp_path / "a.wv").read_bytes()
    plain = plain[: plain.find(b"APETAGEX")] if b"APETAGEX" in plain else plain
    items = item(b"Cover Art (Back)", b"b.png\0" + PNG) + item(b"Cover Art (Front)", b"f.jpg\0" + JPEG)
    foot = b"APETAGEX" + struct.pack("<IIII", 2000, len(items) + 32, 2, 0) + bytes(8)
    (tmp_path / "a.wv").write_bytes(plain + items + foot)
    assert read_tags(tmp_path / "a.wv").cover == Cover(JPEG, "image/jpeg")


def test_a_picture_of_a_chapter_is_no_cover(music: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(path, "w", format="mp4") as container:
        audio: Any = container.add_stream("aac", rate=44100, layout="stereo")
        video: Any = container.add_stream("mjpeg", rate=1)
        video.width = video.height = 32
        video.pix_fmt = "yuvj420p"
        container.start_encoding()
        frame = av.AudioFrame.from_ndarray(music[:, :4096], format="fltp", layout="stereo")
        frame.sample_rate = 44100
        container.mux(audio.encode(frame) + audio.encode(None))
        shade = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        container.mux(video.encode(shade) + video.encode(None))
    chapters = b"chap" + struct.pack(">I", 2)  # the audio's chapters are track 2, the video
    with open(path, "r+b") as file:
        data = file.read()
    sink = Sink(path)
    sink.write(data)
    append_to_moov(sink, (b"trak", b"tref"), struct.pack(">I", 12) + chapters)
    sink.close()
    with av.open(path) as container:  # the premise: FFmpeg attaches it like a cover
        assert av.stream.Disposition.attached_pic in container.streams.video[0].disposition
    assert read_tags(path) == Tags()

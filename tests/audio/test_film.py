"""Films with another sound: what is copied of the film."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from stemsplit.audio.film import film_of
from stemsplit.audio.tags import read_tags
from stemsplit.audio.writer import open_writer
from stemsplit.settings import OutputSettings

Ffmpeg = Callable[..., None]
PICTURE = ("-f", "lavfi", "-i", "testsrc=s=64x48:r=25:d=1.5")
CODECS = {"mp4": ("m4a", "aac"), "mkv": ("flac", "flac")}


def streams(path: Path) -> list[dict[str, Any]]:
    asked = ["ffprobe", "-v", "error", "-show_streams", "-of", "json", str(path)]
    found: list[dict[str, Any]] = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)[
        "streams"
    ]
    return found


def written_again(film: Path, suffix: str, audio: np.ndarray) -> Path:
    path = film.with_name(f"again.{suffix}")
    settings = OutputSettings(format=CODECS[suffix][0], bit_depth="16")
    with open_writer(path, 44100, 2, settings, film=film_of(film, suffix, 0)) as writer:
        writer.write(audio)
    return path


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("kind", ["mjpeg", "png"])
def test_language_and_cover_are_copied(
    suffix: str, kind: str, wav: Path, pcm: np.ndarray, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    cover, film = tmp_path / f"cover.{kind}", tmp_path / f"film.{suffix}"
    ffmpeg("-f", "lavfi", "-i", "color=red:s=32x32", "-frames:v", "1", "-f", "image2", "-c:v", kind, cover)
    ending = {"mjpeg": "jpg"}.get(kind, kind)
    made = ["-map", "0", "-map", "1", "-c:v", "libx264", "-c:a", CODECS[suffix][1]]
    made += ["-metadata:s:a:0", "language=deu", "-metadata:s:a:0", "title=Original"]
    if suffix == "mp4":
        more = ["-map", "2", "-c:v:1", "copy", "-disposition:v:1", "attached_pic"]
        ffmpeg(*PICTURE, "-i", wav, "-i", cover, *made, *more, film)
    else:
        mime = f"mimetype=image/{kind.removeprefix('m')}"
        more = ["-attach", str(cover), "-metadata:s:t", mime, "-metadata:s:t", f"filename=cover.{ending}"]
        ffmpeg(*PICTURE, "-i", wav, *made, *more, film)
    again = written_again(film, suffix, pcm)
    video, sound, picture = streams(again)
    assert (video["codec_type"], sound["codec_type"]) == ("video", "audio")
    assert sound["tags"]["language"] == "deu" and "title" not in sound["tags"]
    assert picture["codec_name"] == kind and picture["disposition"]["attached_pic"] == 1
    copied = read_tags(again).cover
    assert copied is not None and copied == read_tags(film).cover
    assert copied.data == cover.read_bytes()
    with av.open(again) as container:
        assert sum(1 for _ in container.decode(video=0)) == 38

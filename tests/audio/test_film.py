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
from stemsplit.audio.reader import read_audio
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


@pytest.mark.parametrize("suffix", CODECS)
@pytest.mark.parametrize("gap_s", [0.5, 2.0, 0.04])
def test_sound_after_a_gap_stays_in_time(
    suffix: str, gap_s: float, wav: Path, tmp_path: Path, ffmpeg: Ffmpeg
) -> None:
    film = tmp_path / f"film.{suffix}"
    late = f"asetpts='PTS+gte(T,0.1)*{gap_s}/TB'"
    ffmpeg(*PICTURE, "-i", wav, "-c:v", "libx264", "-af", late, "-c:a", CODECS[suffix][1], film)
    audio, rate = read_audio(film)
    again, _ = read_audio(written_again(film, suffix, audio))
    before, after = (int(np.abs(sound[0]).argmax()) for sound in (audio, again))
    filled = round(gap_s * rate) if gap_s > 0.05 else 0
    assert before == 10_000 and abs(after - before - filled) <= 0.0015 * rate
    assert abs(again.shape[1] - audio.shape[1] - filled) <= 0.0015 * rate
    # the silence is where the gap was: between the same two samples
    silent = np.flatnonzero(np.abs(again[0, :after]) > 0.01)
    assert np.diff(silent).max() >= 0.9 * filled


def test_a_fragmented_film_keeps_its_time(wav: Path, tmp_path: Path, ffmpeg: Ffmpeg) -> None:
    film = tmp_path / "film.mp4"
    fragmented = ["-movflags", "frag_keyframe+empty_moov"]
    ffmpeg(*PICTURE, "-i", wav, "-map", "0", "-map", "1", "-c:v", "libx264", "-c:a", "aac", *fragmented, film)
    audio, _ = read_audio(film)
    again, _ = read_audio(written_again(film, "mp4", audio))
    ends = []
    for path in (film, film.with_name("again.mp4")):
        with av.open(path) as container:
            last = list(container.decode(audio=0))[-1]
            ends.append(last.time + last.samples / last.sample_rate)
    assert again.shape[1] >= audio.shape[1]
    assert ends[0] == pytest.approx(ends[1], abs=0.03)

"""--mux: a video again, with a mix as its sound."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stemsplit.audio.reader import read_audio
from tests.cli.conftest import Shell

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg program")
BASS = ("-m", "classic", "-s", "bass", "--mux")
FPS, FLASH = 25, 25  # a white frame after one second, and a click with it
# the container, the codecs to make it with, and the codec of the sound that comes out
FILMS = [
    ("mkv", ["-c:v", "libx264", "-bf", "2", "-c:a", "flac", "-c:s", "srt"], "flac"),
    ("mp4", ["-c:v", "libx264", "-bf", "2", "-c:a", "aac", "-c:s", "mov_text"], "aac"),
    ("mov", ["-c:v", "mpeg4", "-c:a", "pcm_s16le", "-c:s", "mov_text"], "aac"),
    ("webm", ["-c:v", "libvpx", "-c:a", "libopus", "-c:s", "webvtt"], "opus"),
]


def film(folder: Path, suffix: str, codecs: list[str], late_s: float = 0) -> Path:
    """Write three seconds of film with sound and subtitles; flash and click come after one second."""
    (folder / "said.srt").write_text("1\n00:00:00,500 --> 00:00:01,500\nHello\n")
    sound = "aevalsrc=0.2*sin(80*2*PI*t)+0.7*gte(t\\,1)*lt(t\\,1.002):s=48000:d=3"
    picture = f"color=black:s=64x48:r={FPS}:d=3,drawbox=enable='eq(n,{FLASH})':color=white:t=fill"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", picture, "-itsoffset", str(late_s)]
    command += ["-f", "lavfi", "-i", sound, "-i", "said.srt", "-map", "0", "-map", "1", "-map", "2", *codecs]
    command += ["-metadata", "title=Film", "-metadata:s:s:0", "language=deu", f"film.{suffix}"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / f"film.{suffix}"


def shown(path: Path) -> dict[str, Any]:
    """Return what ffprobe shows of a file: its tags, and its streams by type."""
    asked = ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)]
    found = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)
    return {"format": found["format"]} | {one["codec_type"]: one for one in found["streams"]}


def frames(path: Path) -> list[tuple[float, float]]:
    """Return time and brightness of every frame of a film, as the ffmpeg program decodes it."""
    asked = ["ffprobe", "-v", "error", "-f", "lavfi", "-i", f"movie={path.name},signalstats"]
    asked += ["-show_entries", "frame=pts_time:frame_tags=lavfi.signalstats.YAVG", "-of", "csv=p=0"]
    lines = subprocess.run(asked, cwd=path.parent, capture_output=True, text=True, check=True).stdout.split()
    return [(float(line.split(",")[0]), float(line.split(",")[1])) for line in lines]


def packets(path: Path, kind: str) -> list[dict[str, str]]:
    """Return time and checksum of the packets of a film's stream."""
    asked = ["ffprobe", "-v", "error", "-select_streams", kind, "-show_packets", "-show_data_hash", "md5"]
    asked += ["-show_entries", "packet=pts_time,data_hash", "-of", "json", str(path)]
    found: list[dict[str, str]] = json.loads(subprocess.run(asked, capture_output=True, check=True).stdout)[
        "packets"
    ]
    return found


@pytest.mark.parametrize(("suffix", "codecs", "codec"), FILMS, ids=[one[0] for one in FILMS])
def test_picture_and_subtitles_are_copied_and_the_sound_is_in_time(
    shell: Shell, suffix: str, codecs: list[str], codec: str
) -> None:
    before = film(shell.folder, suffix, codecs)
    ran = shell(before.name, *BASS)
    assert ran.code == 0, ran.err
    after = shell.folder / f"stems/film/bass.{suffix}"
    old, new = shown(before), shown(after)
    assert new["audio"]["codec_name"] == codec and new["audio"]["disposition"]["default"] == 1
    assert new["format"]["nb_streams"] == 3 and new["format"]["tags"]["title"] == "Film"
    assert new["subtitle"]["tags"].get("language") == old["subtitle"]["tags"].get("language")
    for kind in ("video", "subtitle"):
        assert packets(after, kind[0]) == packets(before, kind[0])
        assert new[kind]["codec_name"] == old[kind]["codec_name"]
    assert frames(after) == frames(before)
    assert float(new["audio"]["start_time"]) == float(old["audio"]["start_time"])
    assert float(new["format"]["duration"]) == pytest.approx(float(old["format"]["duration"]), abs=0.011)


@pytest.mark.parametrize(("suffix", "codecs", "codec"), FILMS, ids=[one[0] for one in FILMS])
def test_the_sound_is_the_stem_to_the_sample(
    shell: Shell, suffix: str, codecs: list[str], codec: str
) -> None:
    before, form = film(shell.folder, suffix, codecs), {"aac": "m4a"}.get(codec, codec)
    assert shell(before.name, *BASS).code == 0
    assert shell(before.name, *BASS[:-1], "-o", "plain", "-f", form).code == 0
    plain, sound = (
        read_audio(shell.folder / path)[0]
        for path in (f"plain/film/bass.{form}", f"stems/film/bass.{suffix}")
    )
    if suffix == "webm":  # whose header counts milliseconds, so that the padding of the last packet stays
        assert plain.shape[1] <= sound.shape[1] < plain.shape[1] + 960
        sound = sound[:, : plain.shape[1]]
    assert np.array_equal(sound, plain)


def test_sound_that_begins_late_stays_late(shell: Shell) -> None:
    before = film(shell.folder, *FILMS[0][:2], late_s=0.3)
    assert shell(before.name, *BASS).code == 0
    new = shown(shell.folder / "stems/film/bass.mkv")
    assert (float(new["audio"]["start_time"]), float(new["video"]["start_time"])) == (0.3, 0.0)


def test_a_second_run_skips_and_other_formats_can_be_chosen(shell: Shell) -> None:
    before = film(shell.folder, *FILMS[0][:2])
    assert shell(before.name, *BASS).code == 0
    assert "skipped" in shell(before.name, *BASS).err
    assert "format was wav" in shell(before.name, *BASS, "-f", "m4a").err
    assert shell(before.name, *BASS, "-f", "m4a", "-y").code == 0
    assert shown(shell.folder / "stems/film/bass.mkv")["audio"]["codec_name"] == "aac"
    ran = shell(before.name, *BASS, "-f", "ogg", "-y")
    assert ran.code == 1 and "its sound can be flac, m4a, alac, mp3 or opus, not ogg" in ran.err


def test_what_is_no_film(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.3)
    ran = shell("song.wav", *BASS)
    assert ran.code == 1 and "--mux writes mp4, m4v, mov, mkv or webm files, not this one" in ran.err
    (shell.folder / "song.wav").rename(shell.folder / "song.mkv")
    ran = shell("song.mkv", *BASS)
    assert ran.code == 1 and "song.mkv: --mux: has no video" in ran.err
    assert shell.files() == ["song.mkv"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-m", "classic"), "--mux: there are 4 outputs of a track, and the sound of a video holds one"),
        (("-m", "classic", "-f", "stem.m4a"), "--mux: there are 5 outputs"),
        (("-m", "classic", "-s", "bass", "-f", "wav"), "--mux -f wav: a film's sound is written as another"),
        (("-m", "classic", "-s", "bass", "--start", "1"), "--mux and --start exclude each other"),
        (("-m", "classic", "-s", "bass", "-o", "-"), "--mux: writes whole videos, into a folder"),
        (("-m", "classic", "-s", "bass", "--project", "rpp"), "--project rpp: takes a file for each stem"),
    ],
)
def test_what_cannot_go_together(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    shell.write("song.mkv".replace("mkv", "wav"), seconds=0.3)
    ran = shell("song.wav", "--mux", *arguments)
    assert ran.code == 2 and said in ran.err

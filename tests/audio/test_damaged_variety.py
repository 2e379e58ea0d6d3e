"""Damaged files in every format give the right samples or an error of one line, never fewer samples."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from stemsplit.audio.reader import open_audio
from stemsplit.errors import InputError

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

KINDS = {
    "wav": ["-c:a", "pcm_s16le"],
    "rf64.wav": ["-c:a", "pcm_s16le", "-rf64", "always"],
    "adpcm.wav": ["-c:a", "adpcm_ms"],
    "w64": ["-c:a", "pcm_s24le"],
    "aiff": ["-c:a", "pcm_s16be"],
    "caf": ["-c:a", "pcm_s24be"],
    "alac.caf": ["-c:a", "alac"],
    "au": ["-c:a", "pcm_s16be"],
    "flac": ["-c:a", "flac"],
    "flac.oga": ["-c:a", "flac"],
    "flac.mka": ["-c:a", "flac"],
    "pcm.mka": ["-c:a", "pcm_s16le"],
    "pcm.mov": ["-c:a", "pcm_s16le"],
    "alac.m4a": ["-c:a", "alac"],
    "wv": ["-c:a", "wavpack"],
    "tta": ["-c:a", "tta"],
    "avi": ["-c:a", "pcm_s16le"],
    "mp3": ["-c:a", "libmp3lame"],
    "vbr.mp3": ["-c:a", "libmp3lame", "-q:a", "4"],
    "noxing.mp3": ["-c:a", "libmp3lame", "-write_xing", "0"],
    "mp2": ["-c:a", "mp2"],
    "ogg": ["-c:a", "libvorbis"],
    "opus": ["-c:a", "libopus"],
    "webm": ["-c:a", "libopus"],
    "m4a": ["-c:a", "aac"],
    "front.m4a": ["-c:a", "aac", "-movflags", "+faststart"],
    "fragments.mp4": ["-c:a", "aac", "-movflags", "+frag_keyframe+empty_moov", "-frag_duration", "200000"],
    "aac": ["-c:a", "aac"],
    "ts": ["-c:a", "aac"],
    "aac.mka": ["-c:a", "aac"],
    "flv": ["-c:a", "aac"],
    "ac3": ["-c:a", "ac3"],
    "eac3": ["-c:a", "eac3"],
    "dts": ["-c:a", "dca", "-strict", "-2"],
    "wma": ["-c:a", "wmav2"],
}
POINTS = 20
# Streams that may begin and end anywhere, so that only a cut within a frame can be detected
ENDLESS = {"noxing.mp3", "mp2", "aac", "ts", "ac3", "eac3", "dts"}
ID3V1 = b"TAG" + b"title".ljust(125, b"\0")
ID3V2 = b"ID3\3\0\0\0\0\2\0" + bytes(256)
APE = b"APETAGEX" + (2000).to_bytes(4, "little") + (32).to_bytes(4, "little") + bytes(16)


@pytest.fixture(params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path: Path, ffmpeg: object) -> Path:
    path = tmp_path / f"whole.{request.param}"
    noise = "anoisesrc=d=1:r=48000:a=0.2:seed=1"
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", noise, "-ac", "2"]
    subprocess.run([*command, *KINDS[request.param], path], check=True)
    return path


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    with open_audio(path) as reader:
        return np.concatenate(list(reader.blocks()), axis=1), reader.notices


def outcome(path: Path) -> tuple[np.ndarray, list[str]] | None:
    """Return the audio that is read, or None after an error, which must be one line."""
    try:
        return read(path)
    except InputError as error:
        assert error.reason and "\n" not in str(error)
        return None


def cuts(data: bytes) -> Iterator[bytes]:
    # a little after a possible end of a frame
    yield from (data[: len(data) * k // (POINTS + 1) + 101] for k in range(1, POINTS + 1))


def test_no_cut_is_silent(whole: Path) -> None:
    kind = whole.name.removeprefix("whole.")
    expected, notices = read(whole)
    assert not notices
    silent, wrong, failed = [], [], 0
    for data in cuts(whole.read_bytes()):
        whole.write_bytes(data)
        found = outcome(whole)
        if found is None:
            failed += 1
            continue
        audio, notices = found
        shared = min(audio.shape[1], expected.shape[1])
        if np.abs(audio[:, :shared] - expected[:, :shared]).max() > 2e-5:
            wrong.append(len(data))
        if not notices and audio.shape[1] < expected.shape[1]:
            silent.append(len(data))
    assert not silent and not wrong
    assert failed or kind in ENDLESS


def test_tags_around_a_file_change_nothing(whole: Path) -> None:
    kind, data = whole.name.removeprefix("whole."), whole.read_bytes()
    expected, _ = read(whole)
    for content in (data + ID3V1, data + APE, data + APE + ID3V1):
        whole.write_bytes(content)
        audio, _ = read(whole)
        # FFmpeg reads a tag behind AC-3 as a part of the last frame
        kept = expected.shape[1] - (1536 if kind in ("ac3", "eac3") else 0)
        assert audio.shape[1] >= kept and np.array_equal(audio, expected[:, : audio.shape[1]])
    whole.write_bytes(ID3V2 + data)
    found = outcome(whole)
    assert found is None or np.array_equal(found[0], expected), kind


def test_two_files_in_one(whole: Path) -> None:
    """A stream continues with the second file; a file with an index ends with the first."""
    kind, data = whole.name.removeprefix("whole."), whole.read_bytes()
    expected, _ = read(whole)
    whole.write_bytes(data + data)
    found = outcome(whole)
    if found is not None:
        audio, _ = found
        start = audio[:, : expected.shape[1] - 2500]
        assert np.abs(start - expected[:, : start.shape[1]]).max() < 2e-5
        if kind in ENDLESS | {"mp3", "vbr.mp3", "ogg", "opus", "flac.oga"}:
            assert audio.shape[1] > 1.9 * expected.shape[1]


def test_sizes_in_the_header_that_lie(whole: Path) -> None:
    """Changing any four bytes of the first kilobyte never loses samples silently and never reads for ever."""
    draw, data = random.Random(whole.name), whole.read_bytes()
    for _ in range(POINTS):
        at = draw.randrange(4, min(1000, len(data) - 4))
        lie = draw.choice([b"\xff" * 4, bytes(4), b"\xff\xff\xff\x7f", b"\x10\0\0\0", b"\0\0\0\x10"])
        whole.write_bytes(data[:at] + lie + data[at + 4 :])
        outcome(whole)


def test_the_command_tells_each_damaged_file_from_a_good_one(tmp_path: Path, ffmpeg: object) -> None:
    album = tmp_path / "album"
    album.mkdir()
    noise = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", "anoisesrc=d=1:r=44100:a=0.2", "-ac", "2"]
    for kind, options in KINDS.items():
        path = album / f"good.{kind}"
        subprocess.run([*noise, *options, path], check=True)
        data = path.read_bytes()
        (album / f"bad.{kind}").write_bytes(data[: len(data) // 2 | 1])
    command = [sys.executable, "-m", "stemsplit", album, "-m", "classic", "-s", "vocals", "--json"]
    done = subprocess.run([*command, "-o", tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    tracks = {Path(track["input"]).name: track for track in json.loads(done.stdout)["tracks"]}
    assert len(tracks) == 2 * len(KINDS)
    for kind in KINDS:
        assert tracks[f"good.{kind}"]["status"] == "done", tracks[f"good.{kind}"]
        bad = tracks[f"bad.{kind}"]
        if bad["status"] == "done":
            assert any(f"bad.{kind}" in line for line in done.stderr.splitlines() if "note: " in line), kind
        else:
            assert bad["error"]["code"] == 1 and "\n" not in bad["error"]["message"]

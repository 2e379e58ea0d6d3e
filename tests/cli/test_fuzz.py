"""Damaged files of every container end in whole stems or in one line."""

import io
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import read_audio

Shell = Any
OPTIONS = ("-m", "classic", "-s", "bass", "--rest", "--progress", "none")
COUNT, ALONE = 200, 20
SOUNDFILE = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "ulaw.wav": ("WAV", "ULAW"),
    "rf64": ("RF64", "PCM_24"),
    "w64": ("W64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
}
FFMPEG = {
    "mp3": ("mp3", "libmp3lame", "fltp"),
    "opus": ("opus", "libopus", "flt"),
    "oga": ("ogg", "flac", "s16"),
    "m4a": ("ipod", "aac", "fltp"),
    "alac.m4a": ("ipod", "alac", "s16p"),
    "mov": ("mov", "pcm_s16le", "s16"),
    "mp4": ("mp4", "aac", "fltp"),
    "aac": ("adts", "aac", "fltp"),
    "ac3": ("ac3", "ac3", "fltp"),
    "mka": ("matroska", "aac", "fltp"),
    "webm": ("webm", "libopus", "flt"),
    "wma": ("asf", "wmav2", "fltp"),
    "ts": ("mpegts", "aac", "fltp"),
    "avi": ("avi", "libmp3lame", "fltp"),
    "tta": ("tta", "tta", "s16"),
    "wv": ("wv", "wavpack", "fltp"),
    "mp2": ("mp2", "mp2", "s16"),
}
SUFFIXES = sorted({name.rpartition(".")[2] for name in (*SOUNDFILE, *FFMPEG)})


def with_soundfile(audio: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    fmt, subtype = SOUNDFILE[kind]
    soundfile.write(file, audio.T, 48000, format=fmt, subtype=subtype)
    return file.getvalue()


def with_ffmpeg(audio: np.ndarray, kind: str) -> bytes:
    muxer, codec, sample_format = FFMPEG[kind]
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=48000, layout="stereo", format=sample_format)
        stream.bit_rate = 128_000
        resampler = av.AudioResampler(sample_format, "stereo", 48000, stream.codec_context.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(audio, format="fltp", layout="stereo")
        frame.sample_rate = 48000
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            container.mux(stream.encode(piece))
        container.mux([packet for packet in stream.encode(None) if packet.size])
    return file.getvalue()


def cut(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def flip(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randrange(1, 40)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def break_head(data: bytearray, draw: random.Random) -> None:
    for _ in range(draw.randrange(1, 6)):
        data[draw.randrange(min(200, len(data)))] = draw.randrange(256)


def zero(data: bytearray, draw: random.Random) -> None:
    start, size = draw.randrange(len(data)), draw.randrange(1, 5000)
    data[start : start + size] = bytes(len(data[start : start + size]))


def drop(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.randrange(1, 3000)]


def nothing(data: bytearray, draw: random.Random) -> None:
    """Leave the data as they are: the file only gets a wrong suffix."""


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (cut, flip, break_head, zero, drop, nothing)


@dataclass(frozen=True)
class Damaged:
    """A file of the test; `intact` if its content is undamaged."""

    path: Path
    intact: bool


def damage_files(folder: Path, audio: np.ndarray, count: int) -> list[Damaged]:
    """Write the same damaged files each time: every damage to every container."""
    whole = {kind: with_soundfile(audio, kind) for kind in SOUNDFILE}
    whole |= {kind: with_ffmpeg(audio, kind) for kind in FFMPEG}
    files = []
    for number in range(count):
        draw = random.Random(number)
        kind = list(whole)[number % len(whole)]
        damage = DAMAGES[(number + number // len(whole)) % len(DAMAGES)]
        data = bytearray(whole[kind])
        damage(data, draw)
        mislabelled = damage is nothing or draw.random() < 0.2
        suffix = draw.choice(SUFFIXES) if mislabelled else kind.rpartition(".")[2]
        path = folder / f"{number:03d}-{kind.replace('.', '-')}-{damage.__name__}.{suffix}"
        path.write_bytes(data)
        files.append(Damaged(path, damage is nothing))
    return files


def require_whole(outputs: dict[str, str], source: Path, folder: Path) -> None:
    """Check that stems, if any, are complete and as long as the decodable part of the source."""
    if not outputs:
        return
    frames = read_audio(source)[0].shape[1]
    for path in outputs.values():
        assert soundfile.read(folder / path)[0].shape[0] == frames, path


LINE = re.compile(
    r"stemsplit: error: .+|  hint: .+|note: .+|\d+ done, 0 skipped, \d+ failed in \S+( \([\d.]+x realtime\))?"
)


def require_lines(err: str) -> None:
    """Check that stderr has no line of a library and no report of a bug."""
    for line in err.splitlines():
        assert LINE.fullmatch(line), line
    assert "this is a bug" not in err, err


@pytest.fixture
def damaged(shell: Shell) -> list[Damaged]:
    return damage_files(shell.folder, shell.tones(seconds=0.3, rate=48000), COUNT)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_hundred_damaged_files_as_one_batch(shell: Shell, damaged: list[Damaged]) -> None:
    names = [each.path.name for each in damaged]
    ran = shell.process(*names, *OPTIONS, "--json", timeout=600)
    require_lines(ran.err)
    assert ran.code == 3
    tracks = json.loads(ran.out)["tracks"]
    assert [track["input"] for track in tracks] == names
    written = set()
    for each, track in zip(damaged, tracks, strict=True):
        if track["status"] == "done":
            require_whole(track["outputs"], each.path, shell.folder)
            written |= set(track["outputs"].values())
        else:
            assert not each.intact, track
            assert (track["error"]["code"], track["outputs"]) == (1, {})
            assert f"stemsplit: error: {each.path.name}: {track['error']['message']}\n" in ran.err
    assert ran.err.count("stemsplit: error: ") == sum(track["status"] == "failed" for track in tracks)
    assert {name for name in shell.files() if "/" in name} == written
    kinds = {
        each.path.name.split("-")[1] for each, track in zip(damaged, tracks, strict=True) if track["error"]
    }
    assert len(kinds) > 12, "the damage is too weak to show anything"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_damaged_files_each_in_a_process_of_its_own(shell: Shell, damaged: list[Damaged]) -> None:
    for each in damaged[:: COUNT // ALONE]:
        ran = shell.process(each.path.name, *OPTIONS, "--json", timeout=60)
        require_lines(ran.err)
        [track] = json.loads(ran.out)["tracks"]
        assert ran.code == (0 if track["status"] == "done" else 1)
        assert ran.err.count("stemsplit: error: ") == ran.code
        require_whole(track["outputs"], each.path, shell.folder)
    assert not [name for name in shell.files() if name.endswith(".part")]


def test_some_damaged_files(shell: Shell) -> None:
    files = damage_files(shell.folder, shell.tones(seconds=0.2, rate=48000), 27)
    ran = shell(*(each.path.name for each in files), *OPTIONS, "--json")
    require_lines(ran.err)
    for each, track in zip(files, json.loads(ran.out)["tracks"], strict=True):
        require_whole(track["outputs"], each.path, shell.folder)
    assert not [name for name in shell.files() if name.endswith(".part")]

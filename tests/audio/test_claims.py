"""Files with a wrong declared length: all of their audio is read, with a notice."""

import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import open_audio, probe, read_audio
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError
from stemsplit.settings import OutputSettings

RATE = 44100
GIB_4 = 1 << 32


def read(path: Path) -> tuple[np.ndarray, list[str]]:
    with open_audio(path) as reader:
        return np.concatenate(list(reader.blocks()), axis=1), reader.notices


def patched(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def encoded(path: Path, audio: np.ndarray, kind: str, rate: int = RATE) -> bytes:
    with open_writer(path, rate, len(audio), OutputSettings(format=kind)) as writer:
        writer.write(audio)
    return path.read_bytes()


# ---------------------------------------------------------------- chunks

# Size of the audio chunk in libsndfile's files: the bytes before it, its offset and its format
SIZES = {
    "wav": (b"data", 4, "<I"),
    "aiff": (b"SSND", 4, ">I"),
    "caf": (b"data", 4, ">Q"),
    "w64": (b"data\xf3\xac\xd3\x11", 16, "<Q"),
    "rf64": (b"ds64", 16, "<Q"),
}


def claim_more(path: Path, kind: str, surplus: int) -> None:
    mark, offset, form = SIZES[kind]
    at = path.read_bytes().index(mark) + offset
    (size,) = struct.unpack_from(form, path.read_bytes(), at)
    patched(path, at, struct.pack(form, size + surplus))


@pytest.mark.parametrize("kind", SIZES)
@pytest.mark.parametrize("surplus", [44, 4096])
def test_a_size_that_is_a_little_too_large(kind: str, surplus: int, pcm: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a"
    soundfile.write(path, pcm.T, RATE, format=kind.upper(), subtype="PCM_16")
    if kind == "caf":  # libsndfile puts no chunk behind the audio
        assert path.stat().st_size == path.read_bytes().index(b"data") + 16 + pcm.size * 2
    claim_more(path, kind, surplus)
    audio, notices = read(path)
    assert np.array_equal(audio, pcm)
    assert notices == [
        f"claims {pcm.size * 2 + surplus} bytes of audio; what is there is read: {pcm.size * 2}"
    ]
    assert probe(path).frames == pcm.shape[1]


@pytest.mark.parametrize("kind", SIZES)
def test_more_than_the_slack_missing_is_cut_short(kind: str, pcm: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a"
    soundfile.write(path, pcm.T, RATE, format=kind.upper(), subtype="PCM_16")
    claim_more(path, kind, 4100)
    with pytest.raises(InputError, match="cut short: 98 % of its audio is there"):
        read_audio(path)


def long_wav(path: Path, data_size: int, *, rf64: tuple[int, int] | None = None) -> int:
    """Write a sparse WAV of 4 GiB and 20 s that ends with a ramp of 5 s; return its number of samples."""
    end = np.arange(5 * RATE, dtype="<i2").repeat(2).tobytes()
    frames = (GIB_4 + 20 * RATE * 4) // 4
    head = b"WAVE"
    if rf64 is not None:
        head += struct.pack("<4sIQQQI", b"ds64", 28, rf64[0], rf64[1], 0, 0)
    head += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 2, RATE, RATE * 4, 4, 16)
    head += struct.pack("<4sI", b"data", data_size)
    with path.open("wb") as file:
        file.write(struct.pack("<4sI", b"RF64" if rf64 else b"RIFF", 0xFFFFFFFF) + head)
        start = file.tell()
        file.truncate(start + frames * 4)
        file.seek(start + frames * 4 - len(end))
        file.write(end)
    return frames


@pytest.mark.parametrize(
    ("data_size", "rf64", "told"),
    [
        (0xFFFFFFFF, None, False),
        (20 * RATE * 4, None, True),
        (0xFFFFFFFF, (0, 0), False),
        (0xFFFFFFFF, (GIB_4 + 20 * RATE * 4 + 72, GIB_4 + 20 * RATE * 4), False),
    ],
    ids=["unknown", "overflowed", "RF64 unfinished", "RF64"],
)
def test_wav_beyond_4_gib_is_read_to_its_end(
    data_size: int, rf64: tuple[int, int] | None, told: bool, tmp_path: Path
) -> None:
    frames = long_wav(tmp_path / "a.wav", data_size, rf64=rf64)
    assert probe(tmp_path / "a.wav").frames == frames
    with open_audio(tmp_path / "a.wav", start_s=frames / RATE - 6) as reader:
        audio = np.concatenate(list(reader.blocks()), axis=1)
        assert audio.shape == (2, 6 * RATE)
        assert bool(reader.notices) == told
    expected = np.arange(5 * RATE, dtype="<i2").astype(np.float32) / 32768
    assert not audio[:, :RATE].any() and np.array_equal(audio[:, RATE:], np.stack([expected] * 2))


@pytest.mark.parametrize("kind", ["wav", "aiff"])
def test_a_recorder_that_crashed_left_sizes_of_zero(kind: str, pcm: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a"
    soundfile.write(path, pcm.T, RATE, format=kind.upper(), subtype="PCM_16")
    mark, offset, form = SIZES[kind]
    patched(path, path.read_bytes().index(mark) + offset, struct.pack(form, 0))
    patched(path, 4, bytes(4))
    assert np.array_equal(read(path)[0], pcm)


# ---------------------------------------------------------------- FLAC


def flac(path: Path, pcm: np.ndarray, count: int | None = None) -> bytes:
    """Write a FLAC file whose STREAMINFO declares `count` samples (36 bits)."""
    soundfile.write(path, pcm.T, RATE, format="FLAC", subtype="PCM_16")
    if count is not None:
        whole = path.read_bytes()
        patched(path, 21, struct.pack(">BI", whole[21] & 0xF0 | count >> 32, count & 0xFFFFFFFF))
    return path.read_bytes()


@pytest.mark.parametrize("count", [1, 4096, 60_000, 66_272, 66_274, 70_000, 10_000_000])
def test_flac_with_a_wrong_count(count: int, pcm: np.ndarray, tmp_path: Path) -> None:
    flac(tmp_path / "a", pcm, count)
    audio, notices = read(tmp_path / "a")
    assert np.array_equal(audio, pcm)
    assert notices == [f"claims {count} samples of audio; what is there is read: {pcm.shape[1]}"]


@pytest.mark.parametrize("block", [192, 576, 4096, 4608, 16_384, 1000])
@pytest.mark.parametrize("tail", [b"", b"TAG" + bytes(125)])
def test_flac_blocks_of_every_kind_are_counted(
    block: int, tail: bytes, wav: Path, pcm: np.ndarray, tmp_path: Path, ffmpeg: Callable[..., None]
) -> None:
    ffmpeg("-i", wav, "-frame_size", block, tmp_path / "a.flac")
    whole = (tmp_path / "a.flac").read_bytes()
    patched(tmp_path / "a.flac", 21, bytes([whole[21] & 0xF0]) + bytes(4))
    with (tmp_path / "a.flac").open("ab") as file:
        file.write(tail)
    assert probe(tmp_path / "a.flac").frames == pcm.shape[1]
    audio, notices = read(tmp_path / "a.flac")
    assert np.array_equal(audio, pcm) and not notices


def test_flac_cut_between_frames_is_read_and_within_one_is_not(pcm: np.ndarray, tmp_path: Path) -> None:
    whole = flac(tmp_path / "a", pcm)
    # the last frame's header: sync code, and the frame's number in one byte
    last = whole.rindex(b"\xff\xf8", 0, len(whole) - 100)
    assert whole[last + 4] == pcm.shape[1] // 4096
    (tmp_path / "a").write_bytes(whole[:last])
    audio, notices = read(tmp_path / "a")
    assert np.array_equal(audio, pcm[:, : 16 * 4096]) and len(notices) == 1
    for size in (last - 1, last - 3000):
        (tmp_path / "a").write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"cut short: 9\d % of its audio is there"):
            read_audio(tmp_path / "a")
    for size in (last + 30, len(whole) - 1):
        (tmp_path / "a").write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged at|cut short"):
            read_audio(tmp_path / "a")


def test_flac_from_a_pipe_that_broke(pcm: np.ndarray, tmp_path: Path) -> None:
    whole = flac(tmp_path / "a", pcm, 0)
    (tmp_path / "a").write_bytes(whole[:-1000])
    with pytest.raises(InputError, match="cut short: it ends within a frame"):
        read_audio(tmp_path / "a")


# ---------------------------------------------------------------- chained Ogg


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_every_link_of_a_chain_is_read(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    rate = 48000
    first = encoded(tmp_path / "a", music, kind, rate)
    second = encoded(tmp_path / "b", music[::-1, :30_000], kind, rate)
    alone = [read_audio(tmp_path / name)[0] for name in "ab"]
    (tmp_path / "c").write_bytes(first + second + first)
    audio, notices = read(tmp_path / "c")
    assert np.array_equal(audio, np.concatenate([*alone, alone[0]], axis=1))
    assert notices == ["3 Ogg streams one after the other are read as one"]
    assert probe(tmp_path / "c").frames is None
    late, _ = read_audio(tmp_path / "c", start_s=1.0, end_s=1.5)
    assert np.array_equal(late, audio[:, rate : rate * 3 // 2])


@pytest.mark.parametrize("kind", ["ogg", "opus"])
def test_links_of_other_rates_and_channels_become_those_of_the_first(
    kind: str, music: np.ndarray, tmp_path: Path
) -> None:
    first = encoded(tmp_path / "a", music, kind, 48000)
    second = encoded(tmp_path / "b", music[:1, :24_000], kind, 48000 if kind == "opus" else 24_000)
    (tmp_path / "c").write_bytes(first + second)
    audio, _ = read(tmp_path / "c")
    added = 24_000 if kind == "opus" else 48_000
    assert audio.shape == (2, music.shape[1] + added)
    tail = audio[:, music.shape[1] :]
    assert np.array_equal(tail[0], tail[1]) and np.abs(tail[0]).argmax() == 10_000 * added // 24_000


def test_flac_in_chained_ogg(wav: Path, pcm: np.ndarray, tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    ffmpeg("-i", wav, "-c:a", "flac", tmp_path / "a.oga")
    (tmp_path / "b.oga").write_bytes((tmp_path / "a.oga").read_bytes() * 2)
    assert np.array_equal(read(tmp_path / "b.oga")[0], np.concatenate([pcm, pcm], axis=1))


def test_a_link_that_was_cut_before_the_next_began(music: np.ndarray, tmp_path: Path) -> None:
    whole = encoded(tmp_path / "a", music, "ogg")
    alone = read_audio(tmp_path / "a")[0]
    (tmp_path / "b").write_bytes(whole[:-3000] + whole)
    audio, notices = read(tmp_path / "b")
    assert np.array_equal(audio[:, -alone.shape[1] :], alone)
    assert 0.3 * alone.shape[1] < audio.shape[1] - alone.shape[1] < alone.shape[1]
    assert any("between its Ogg pages" in notice for notice in notices)


def test_an_ogg_stream_without_its_last_page(music: np.ndarray, tmp_path: Path) -> None:
    whole = encoded(tmp_path / "a", music, "ogg")
    (tmp_path / "a").write_bytes(whole[: whole.rindex(b"OggS")])
    audio, notices = read(tmp_path / "a")
    assert audio.shape[1] < music.shape[1]
    assert notices == ["has no end mark: its end may be missing"]


# ---------------------------------------------------------------- MP3 and MP4

STALE = " 00000000 00000840 000001CC 000000000006BAA8" + " 00000000" * 8


@pytest.mark.parametrize(
    ("name", "options"),
    {
        "a.wv": ["-c:a", "wavpack"],
        "a.tta": ["-c:a", "tta"],
        "a.m4a": ["-c:a", "aac", "-movflags", "use_metadata_tags"],
        "a.mp3": ["-c:a", "libmp3lame"],
        "a.wma": ["-c:a", "wmav2"],
        "a.flac": ["-c:a", "flac"],
    }.items(),
)
def test_a_gapless_tag_of_another_file(
    name: str,
    options: list[str],
    wav: Path,
    tmp_path: Path,
    ffmpeg: Callable[..., None],
    ffmpeg_decoded: Callable[..., np.ndarray],
) -> None:
    ffmpeg("-i", wav, "-metadata", f"iTunSMPB={STALE}", *options, tmp_path / name)
    audio, notices = read(tmp_path / name)
    expected = ffmpeg_decoded(tmp_path / name).shape[1]
    assert 0 <= expected - audio.shape[1] <= (1024 if name == "a.m4a" else 0) and not notices
    declared = probe(tmp_path / name).frames
    assert declared is not None and abs(declared - audio.shape[1]) < 0.1 * RATE


# 1 s of the wav, which has 1.5 s, then nothing until 3 s, then the rest
GAP = ["-af", "asetpts='PTS+gte(T,1)*2/TB'"]
GAPS = {
    "a.mp4": ["-c:a", "aac"],
    "b.mp4": ["-c:a", "alac", "-movflags", "+faststart"],
    "c.mp4": ["-c:a", "libmp3lame"],
    "d.mp4": ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "100000"],
}


@pytest.mark.parametrize(("name", "options"), GAPS.items())
def test_a_gap_between_timestamps_is_not_missing_audio(
    name: str,
    options: list[str],
    wav: Path,
    tmp_path: Path,
    ffmpeg: Callable[..., None],
    ffmpeg_decoded: Callable[..., np.ndarray],
) -> None:
    path = tmp_path / name
    ffmpeg("-i", wav, *GAP, *options, path)
    audio, notices = read(path)
    expected = ffmpeg_decoded(path)
    assert 0 <= expected.shape[1] - audio.shape[1] <= 1152 and not notices
    assert np.abs(audio - expected[:, : audio.shape[1]]).max() < 2e-6
    info = probe(path)
    assert info.estimated and info.frames is not None and info.frames > audio.shape[1]


@pytest.mark.parametrize("packet", [30, 55])
def test_a_file_with_a_gap_that_was_cut_between_two_packets(
    packet: int, wav: Path, tmp_path: Path, ffmpeg: Callable[..., None]
) -> None:
    path = tmp_path / "a.mp4"
    ffmpeg("-i", wav, *GAP, "-c:a", "aac", "-movflags", "+faststart", path)
    whole = path.read_bytes()
    with av.open(path) as container:
        end = container.streams.audio[0].index_entries[packet].pos
    start = whole.index(b"mdat") - 4
    path.write_bytes(whole[:start] + struct.pack(">I", end - start) + whole[start + 4 : end])
    with pytest.raises(InputError, match="cut short"):
        read(path)


def test_mp3_that_changes_its_rate_and_channels(
    wav: Path, tmp_path: Path, ffmpeg: Callable[..., None]
) -> None:
    plain = ["-c:a", "libmp3lame", "-write_xing", "0", "-id3v2_version", "0"]
    ffmpeg("-i", wav, *plain, tmp_path / "a.mp3")
    ffmpeg("-i", wav, *plain, "-ar", "48000", "-ac", "1", tmp_path / "b.mp3")
    (tmp_path / "c.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() + (tmp_path / "b.mp3").read_bytes())
    first, second = (read_audio(tmp_path / f"{name}.mp3")[0].shape[1] for name in "ab")
    audio, notices = read(tmp_path / "c.mp3")
    # a file's first frame is left out where it begins, not where it goes on
    assert abs(first + second * RATE / 48000 - audio.shape[1]) <= 1152
    assert notices == ["changes its sample rate or channels at 1.5 s; read on as 44100 Hz, 2 channels"]
    tail = audio[:, first + 5000 :]
    assert np.array_equal(tail[0], tail[1]) and np.abs(tail[0]).max() > 0.01

import io
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.audio.wav import WavStream, quantise, wav_header

RATE = 44100


def streamed(audio: np.ndarray, frames: int | None) -> bytes:
    file = io.BytesIO()
    stream = WavStream(file, RATE, audio.shape[0], frames)
    for start in range(0, audio.shape[1], 1000):
        stream.write(audio[:, start : start + 1000])
    stream.close()
    return file.getvalue()


def test_header_of_a_known_length(music: np.ndarray) -> None:
    whole = streamed(music, music.shape[1])
    assert struct.unpack_from("<4sI4s4sI", whole) == (b"RIFF", len(whole) - 8, b"WAVE", b"fmt ", 18)
    assert struct.unpack_from("<HHIIHHH", whole, 20) == (3, 2, RATE, RATE * 8, 8, 32, 0)
    assert struct.unpack_from("<4sII4sI", whole, 38) == (b"fact", 4, music.shape[1], b"data", music.size * 4)
    assert whole[58:] == music.T.astype("<f4").tobytes()


def test_header_of_an_unknown_length(music: np.ndarray) -> None:
    whole = streamed(music, None)
    assert struct.unpack_from("<I", whole, 4)[0] == struct.unpack_from("<I", whole, 54)[0] == 0xFFFFFFFF
    audio, _ = soundfile.read(io.BytesIO(whole), dtype="float32")
    assert np.array_equal(audio.T, music)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("program", ["ffmpeg", "sox"])
def test_programs_read_it_from_a_pipe_without_a_warning(
    program: str, channels: int, known: bool, music: np.ndarray, tmp_path: Path
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program} program")
    audio = music[:channels]
    command = {
        # FFmpeg prints the layout that it guesses if a header has no mask
        "ffmpeg": "ffmpeg -v warning -guess_layout_max 0 -i - -c:a pcm_f32le -f wav -y",
        "sox": "sox -t wav - -e float -b 32",
    }[program].split()
    data = streamed(audio, audio.shape[1] if known else None)
    done = subprocess.run([*command, tmp_path / "a.wav"], input=data, capture_output=True, check=True)
    # both warn about an unknown length, FFmpeg even about its own
    assert done.stderr == b"" or not known
    taken = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)[0].T
    # sox computes with 32-bit integers, of which float32 keeps 24 bits
    assert np.abs(taken - audio).max() <= (2**-24 if program == "sox" else 0)


def test_beyond_4_gib_the_header_is_rf64() -> None:
    frames = 600_000_000
    header = wav_header(RATE, 2, "32f", frames)
    assert struct.unpack_from("<4sI4s4sI", header) == (b"RF64", 0xFFFFFFFF, b"WAVE", b"ds64", 28)
    size, data, count, table = struct.unpack_from("<QQQI", header, 20)
    assert (data, count, table) == (frames * 8, frames, 0) and size == len(header) - 8 + data
    assert header[-8:] == b"data" + b"\xff" * 4


def test_the_last_size_that_riff_can_hold() -> None:
    for depth, frame_bytes in (("16", 2), ("32f", 4)):
        room = 0xFFFFFFFE - len(wav_header(RATE, 1, depth, 0)) + 8
        fits = room // frame_bytes
        assert wav_header(RATE, 1, depth, fits)[:4] == b"RIFF"
        assert wav_header(RATE, 1, depth, fits + 1)[:4] == b"RF64"
        assert wav_header(RATE, 1, depth, fits, trailing_bytes=4)[:4] == b"RF64"


@pytest.mark.parametrize("depth", ["16", "24", "32f"])
def test_reserved_headers_have_one_length(depth: str) -> None:
    lengths = {len(wav_header(RATE, 2, depth, frames, reserve=True)) for frames in (None, 0, 1000, 10**10)}
    assert len(lengths) == 1


def test_the_number_of_samples_must_match_the_header(music: np.ndarray) -> None:
    with pytest.raises(ValueError, match="more samples than the header announces"):
        streamed(music, music.shape[1] - 1)
    with pytest.raises(ValueError, match="1 samples fewer"):
        streamed(music, music.shape[1] + 1)


@pytest.mark.parametrize("bits", [16, 24])
def test_quantise(bits: int) -> None:
    full = 2 ** (bits - 1)
    samples = (np.array([0.4, 0.6, -0.4, -0.6, 1.4]) / full).astype(np.float32)
    assert quantise(samples, bits).tolist() == [0, 1, 0, -1, 1]
    assert quantise(np.array([1.0, -1.0, 9, -9], np.float32), bits).tolist() == [full - 1, -full] * 2

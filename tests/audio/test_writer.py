import errno
import shutil
import struct
import subprocess
import sys
import wave
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import probe, read_audio
from stemsplit.audio.sink import Sink
from stemsplit.audio.tags import Cover, Tags, read_settings
from stemsplit.audio.writer import Writer, open_writer
from stemsplit.errors import OutputError, ResourceError, SettingsError
from stemsplit.formats import FORMATS, Encoding
from stemsplit.settings import OutputSettings
from tests.memory import PRINT_PEAK

RATE, FRAMES, IMPULSE = 44100, 66_273, 10_000
EXACT = [(name, depth) for name, each in FORMATS.items() for depth in each.bit_depths]
LOSSY = ["mp3", "ogg", "opus", "m4a"]


def write(path: Path, audio: np.ndarray, rate: int = RATE, *, piece: int = 5000, **settings: Any) -> Path:
    with open_writer(path, rate, audio.shape[0], OutputSettings(**settings)) as writer:
        for start in range(0, audio.shape[1], piece):
            writer.write(audio[:, start : start + piece])
    return path


def held(audio: np.ndarray, depth: str) -> np.ndarray:
    """Return the audio rounded to a bit depth."""
    if depth == "32f":
        return audio
    full = 2.0 ** (int(depth) - 1)
    return (np.clip(np.rint(audio.astype(np.float64) * full), -full, full - 1) / full).astype(np.float32)


@pytest.mark.parametrize(("kind", "depth"), EXACT)
@pytest.mark.parametrize("channels", [1, 2])
def test_lossless_formats_hold_every_bit(
    kind: str, depth: str, channels: int, music: np.ndarray, tmp_path: Path
) -> None:
    audio = music[:channels]
    path = write(tmp_path / "a", audio, format=kind, bit_depth=depth)
    again, rate = read_audio(path)
    assert rate == RATE and np.array_equal(again, held(audio, depth))
    # PCM that was read is written back bit for bit
    assert np.array_equal(read_audio(write(tmp_path / "b", again, format=kind, bit_depth=depth))[0], again)


@pytest.mark.parametrize("depth", ["16", "24"])
def test_every_extreme_integer_survives(depth: str, tmp_path: Path) -> None:
    full = 2 ** (int(depth) - 1)
    integers = np.array([-full, -full + 1, -2, -1, 0, 1, 2, full - 2, full - 1] * 100)
    audio = (integers / full).astype(np.float32)[None]
    for kind in ("wav", "flac", "alac", "aiff"):
        path = write(tmp_path / kind, audio, format=kind, bit_depth=depth)
        assert np.array_equal(read_audio(path)[0], audio), kind


def test_rounding_is_to_the_nearest_and_peaks_are_clamped(tmp_path: Path) -> None:
    step = 2.0**-15
    audio = np.array([[0.49, 0.51, -0.49, -0.51, 1.4, 1.6, 40_000, -40_000]], np.float32) * np.float32(step)
    path = write(tmp_path / "a.wav", audio, bit_depth="16")
    with wave.open(str(path)) as file:
        found = np.frombuffer(file.readframes(8), "<i2")
    assert found.tolist() == [0, 1, 0, -1, 1, 2, 32767, -32768]


def test_float_is_never_clipped(music: np.ndarray, tmp_path: Path) -> None:
    loud = music * 50
    for kind in ("wav", "aiff"):
        assert np.array_equal(read_audio(write(tmp_path / kind, loud, format=kind, bit_depth="32f"))[0], loud)


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("frames", [FRAMES, 57_600, 4800, 1000, 480])
def test_lossy_formats_keep_count_and_position(
    kind: str, frames: int, music: np.ndarray, tmp_path: Path
) -> None:
    rate = 48000 if kind == "opus" else RATE
    audio = music[:, -frames:] if frames < IMPULSE else music[:, :frames]
    again, again_rate = read_audio(write(tmp_path / "a", audio, rate, format=kind))
    assert again_rate == rate and again.shape == audio.shape
    assert probe(tmp_path / "a").frames == frames
    if frames > IMPULSE:
        assert int(np.abs(again[0]).argmax()) == IMPULSE


@pytest.mark.parametrize("kind", LOSSY)
def test_lossy_formats_are_aligned_and_sound_the_same(kind: str, tmp_path: Path) -> None:
    rate = 48000 if kind == "opus" else RATE
    time = np.arange(rate) / rate
    audio = np.stack([0.3 * np.sin(2 * np.pi * 440 * time), 0.2 * np.sin(2 * np.pi * 997 * time)])
    again, _ = read_audio(write(tmp_path / "a", audio.astype(np.float32), rate, format=kind))
    middle = slice(rate // 10, -rate // 10)
    error = again[:, middle] - audio[:, middle]
    assert 10 * np.log10(np.mean(audio[:, middle] ** 2) / np.mean(error**2)) > 30


@pytest.mark.parametrize("kind", ["mp3", "m4a", "opus"])
def test_bit_rate_is_respected(kind: str, tmp_path: Path) -> None:
    audio = np.random.default_rng(0).standard_normal((2, 48000 * 2)).astype(np.float32) * 0.1
    sizes = {}
    for bits_per_s in (64_000, 128_000, 256_000):
        path = write(tmp_path / "a", audio, 48000, format=kind, bitrate=bits_per_s)
        sizes[bits_per_s] = path.stat().st_size * 8 / 2
    for bits_per_s, measured in sizes.items():
        assert 0.75 * bits_per_s < measured < 1.15 * bits_per_s, sizes


def test_vorbis_quality_follows_the_bit_rate(tmp_path: Path) -> None:
    audio = np.random.default_rng(0).standard_normal((2, RATE * 2)).astype(np.float32) * 0.1
    low, high = (
        write(tmp_path / "a", audio, format="ogg", bitrate=rate).stat().st_size for rate in (64_000, 320_000)
    )
    assert 3 * low < high


def test_opus_takes_a_high_rate_for_mono(tmp_path: Path, music: np.ndarray) -> None:
    path = write(tmp_path / "a", music[:1], 48000, format="opus", bitrate=510_000)
    assert read_audio(path)[0].shape == (1, FRAMES)


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("rate", [8000, 22050, 44056, 48000, 96000, 192_000])
def test_every_rate_that_a_format_holds(kind: str, rate: int, music: np.ndarray, tmp_path: Path) -> None:
    rate = FORMATS[kind].nearest_rate(rate)
    again, again_rate = read_audio(write(tmp_path / "a", music[:, :20_000], rate, format=kind))
    assert again_rate == rate and again.shape == (2, 20_000)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_however_the_blocks_come_the_file_is_the_same(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    rate = FORMATS[kind].nearest_rate(48000)
    files = {}
    for piece in (777, 4096, FRAMES):
        audio, _ = read_audio(write(tmp_path / f"{piece}", music, rate, piece=piece, format=kind))
        files[piece] = audio
    assert all(np.array_equal(audio, files[FRAMES]) for audio in files.values())


@pytest.mark.parametrize("kind", list(FORMATS))
def test_other_programs_read_it(
    kind: str, music: np.ndarray, tmp_path: Path, ffmpeg_decoded: Callable[..., np.ndarray]
) -> None:
    rate = FORMATS[kind].nearest_rate(48000)
    path = tmp_path / f"a.{FORMATS[kind].extension}"
    tags = Tags({"title": "T"}, Cover(picture("png"), "image/png"), "note")
    with open_writer(path, rate, 2, OutputSettings(format=kind), tags=tags) as writer:
        writer.write(music)
    theirs, ours = ffmpeg_decoded(path), read_audio(path)[0]
    # the ffmpeg program doesn't cut the last packet of an AAC stream
    assert theirs.shape[1] == FRAMES or (kind == "m4a" and 0 < theirs.shape[1] - FRAMES < 1024)
    assert np.abs(theirs[:, :FRAMES] - ours).max() < 2e-6
    if kind in ("wav", "aiff", "flac") and shutil.which("sox"):
        done = subprocess.run(["sox", path, "-n", "stat"], capture_output=True, text=True, check=True)
        assert "WARN" not in done.stderr


@pytest.mark.skipif(shutil.which("flac") is None, reason="no flac program")
@pytest.mark.parametrize("depth", ["16", "24"])
def test_flac_passes_its_own_check(depth: str, music: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", music, format="flac", bit_depth=depth)
    done = subprocess.run(["flac", "-t", "-s", "-w", path], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


def picture(kind: str) -> bytes:
    """Return a small encoded picture."""
    import io

    import av

    file = io.BytesIO()
    with av.open(file, "w", format="image2pipe") as container:
        stream: Any = container.add_stream("png" if kind == "png" else "mjpeg", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "rgb24" if kind == "png" else "yuvj420p"
        frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 90, np.uint8), format="rgb24")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def test_wav_sizes_are_exact_for_any_expected_length(music: np.ndarray, tmp_path: Path) -> None:
    for frames in (None, FRAMES, 5, 10**9):
        with open_writer(tmp_path / "a", RATE, 2, OutputSettings(bit_depth="16"), frames=frames) as writer:
            writer.write(music)
            assert writer.frames == FRAMES
        whole = (tmp_path / "a").read_bytes()
        assert struct.unpack_from("<I", whole, 4)[0] == len(whole) - 8
        at = whole.find(b"data")
        assert struct.unpack_from("<I", whole, at + 4)[0] == FRAMES * 4 == len(whole) - at - 8
        assert probe(tmp_path / "a").frames == FRAMES
    plain = (write(tmp_path / "b", music, bit_depth="16")).read_bytes()
    assert plain[12:16] == b"JUNK"
    with open_writer(tmp_path / "c", RATE, 2, OutputSettings(bit_depth="16"), frames=FRAMES) as writer:
        writer.write(music)
    assert (tmp_path / "c").read_bytes()[36:40] == b"data"


def test_odd_audio_bytes_are_padded(tmp_path: Path) -> None:
    audio = np.zeros((1, 3), np.float32)
    with open_writer(
        tmp_path / "a", RATE, 1, OutputSettings(), frames=3, tags=Tags(settings="note")
    ) as writer:
        writer.write(audio)
    whole = (tmp_path / "a").read_bytes()
    assert len(whole) % 2 == 0 and struct.unpack_from("<I", whole, 4)[0] == len(whole) - 8
    assert whole[44 + 10 : 44 + 14] == b"id3 "
    assert read_audio(tmp_path / "a")[0].shape == (1, 3) and read_settings(tmp_path / "a") == "note"


def test_wav_beyond_4_gib_is_rf64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # the audio is a hole in a sparse file, made by seeking; its length is set as if it had been written
    frames = (1 << 32) // 4 + 1000
    writer = open_writer(tmp_path / "a", RATE, 1, OutputSettings(bit_depth="32f"), frames=frames)
    encoder: Any = writer._encoder
    encoder._sink._file.seek((frames - 1) * 4, 1)
    encoder._frames, encoder._bytes = frames - 1, (frames - 1) * 4
    writer.write(np.array([[0.25]], np.float32))
    writer.close()
    with (tmp_path / "a").open("rb") as file:
        head = file.read(100)
    assert head[:4] == b"RF64" and head[12:16] == b"ds64"
    size, data, count = struct.unpack_from("<QQQ", head, 20)
    assert count == frames and data == frames * 4 and size == (tmp_path / "a").stat().st_size - 8
    info = soundfile.info(tmp_path / "a")
    assert info.frames == frames and probe(tmp_path / "a").frames == frames
    start_s = (frames - 2) / RATE
    assert read_audio(tmp_path / "a", start_s=start_s)[0].tolist() == [[0.0, 0.25]]


@pytest.mark.parametrize("kind", list(FORMATS))
def test_an_abandoned_file_can_be_removed(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    rate = FORMATS[kind].nearest_rate(48000)
    with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
        with open_writer(tmp_path / "a", rate, 2, OutputSettings(format=kind)) as writer:
            writer.write(music)
            raise KeyboardInterrupt
    (tmp_path / "a").unlink()
    writer = open_writer(tmp_path / "b", rate, 2, OutputSettings(format=kind))
    writer.abort()
    writer.abort()
    writer.close()
    (tmp_path / "b").unlink()


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_file_without_audio_can_be_closed(kind: str, tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "a", FORMATS[kind].nearest_rate(48000), 2, OutputSettings(format=kind))
    writer.write(np.zeros((2, 0), np.float32))
    writer.close()
    writer.close()
    assert (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", list(FORMATS))
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_is_one_clear_error(
    kind: str, code: int, music: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    class Full:
        """A file on a disk with room for 20 kB."""

        def __init__(self, file: Any) -> None:
            self.file, self.room = file, 20_000

        def write(self, data: bytes) -> int:
            self.room -= len(data)
            if self.room < 0:
                raise OSError(code, "the disk says no")
            return int(self.file.write(data))

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    expected = OutputError if code == errno.EIO else ResourceError
    rate = FORMATS[kind].nearest_rate(48000)
    writer = open_writer(tmp_path / "a", rate, 2, OutputSettings(format=kind))
    sink: Any = writer._sink
    sink._file = Full(sink._file)
    with pytest.raises(expected, match="no space left|the disk says no"):
        for _ in range(20):
            writer.write(music)
        writer.close()
    writer.abort()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_disk_that_fills_while_a_file_is_completed(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            raise OSError(errno.ENOSPC, "full")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    writer = open_writer(tmp_path / "a", FORMATS[kind].nearest_rate(48000), 2, OutputSettings(format=kind))
    writer.write(music)
    sink: Any = writer._sink
    sink._file = Full(sink._file)
    with pytest.raises(ResourceError, match="no space left"):
        writer.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_is_full_at_the_very_end(tmp_path: Path, music: np.ndarray) -> None:
    writer = open_writer("/dev/full", RATE, 2, OutputSettings())
    with pytest.raises(ResourceError, match="/dev/full: no space left on the disk"):
        for _ in range(8):
            writer.write(music)
        writer.close()
    writer.abort()


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "missing" / "a.wav", tmp_path / "file" / "a.wav"):
        with pytest.raises(OutputError, match="can't be written"):
            open_writer(path, RATE, 2, OutputSettings())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    with open_writer(tmp_path / "a", RATE, 1, OutputSettings()) as writer:
        with pytest.raises(OutputError, match="NaN or infinite"):
            writer.write(np.array([[0, value]], np.float32))
        writer.write(np.zeros((1, 4), np.float32))
    assert read_audio(tmp_path / "a")[0].shape == (1, 4)


def test_blocks_of_another_shape_are_refused(tmp_path: Path) -> None:
    with open_writer(tmp_path / "a", RATE, 2, OutputSettings()) as writer:
        for block in (np.zeros((1, 4), np.float32), np.zeros(4, np.float32)):
            with pytest.raises(ValueError, match="for 2 channels"):
                writer.write(block)


def test_writing_does_not_change_its_input(tmp_path: Path, music: np.ndarray) -> None:
    before = music.copy()
    for kind in FORMATS:
        write(tmp_path / "a", music, FORMATS[kind].nearest_rate(48000), format=kind)
    assert np.array_equal(music, before)


def test_a_format_besides_the_settings(tmp_path: Path, music: np.ndarray) -> None:
    with open_writer(tmp_path / "a", RATE, 2, OutputSettings(format="mp3"), fmt="wav") as writer:
        writer.write(music)
    assert isinstance(writer, Writer) and probe(tmp_path / "a").codec == "pcm_24"


def test_what_a_format_cannot_hold_fails_before_a_file_is_made(tmp_path: Path) -> None:
    for kind, rate, channels, words in [
        ("mp3", 96_000, 2, "--format mp3: can't hold 96000 Hz"),
        ("opus", 44_100, 2, "--format opus: can't hold 44100 Hz"),
        ("mp3", 44_100, 6, "--format mp3: holds 1 to 2 channels, not 6"),
    ]:
        with pytest.raises(SettingsError, match=words):
            open_writer(tmp_path / "a", rate, channels, OutputSettings(format=kind))
    assert not (tmp_path / "a").exists()


def test_an_encoder_that_refuses_is_an_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = replace(FORMATS["flac"], encodings={"24": Encoding("flac", "fltp")})
    monkeypatch.setitem(FORMATS, "flac", wrong)
    with pytest.raises(OutputError, match="the flac encoder failed"):
        open_writer(tmp_path / "a", RATE, 2, OutputSettings(format="flac"))


def test_sink_reports_the_first_failure(tmp_path: Path) -> None:
    sink = Sink(tmp_path / "a")
    sink._file.close()
    sink._file = open(tmp_path / "a", "rb")  # noqa: SIM115
    assert sink.write(b"abc") == 3
    with pytest.raises(OutputError):
        sink.check()
    with pytest.raises(OutputError):
        sink.close()


_WRITE = """
import sys
import numpy as np
from stemsplit.audio.writer import open_writer
from stemsplit.settings import OutputSettings
block = np.sin(np.arange(96000) / 7).astype(np.float32).reshape(2, 48000)
with open_writer(sys.argv[1], 48000, 2, OutputSettings(format=sys.argv[2])) as writer:
    for _ in range(int(sys.argv[3])):
        writer.write(block)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(FORMATS))
def test_memory_does_not_grow_while_writing(kind: str, tmp_path: Path) -> None:
    peaks_mib = []
    for seconds in ("10", "300"):
        command = [sys.executable, "-c", _WRITE + PRINT_PEAK, tmp_path / "a", kind, seconds]
        done = subprocess.run(command, capture_output=True, check=True)
        peaks_mib.append(float(done.stdout))
    # an MP4 keeps an index of its packets until the end, some 25 MiB for two hours
    assert peaks_mib[1] - peaks_mib[0] < 8

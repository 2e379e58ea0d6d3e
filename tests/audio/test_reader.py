import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import open_audio, probe, read_audio
from stemsplit.audio.writer import open_writer
from stemsplit.errors import InputError, SettingsError
from stemsplit.settings import OutputSettings
from tests.memory import PRINT_PEAK

RATE, FRAMES, IMPULSE = 44100, 66_273, 10_000

SOUNDFILE = {
    "wav": "PCM_16",
    "rf64": "PCM_24",
    "w64": "PCM_24",
    "aiff": "PCM_16",
    "caf": "PCM_32",
    "flac": "PCM_16",
    "au": "PCM_16",
}


def impulse_at(audio: np.ndarray) -> int:
    return int(np.abs(audio[0]).argmax())


@pytest.mark.parametrize(("kind", "subtype"), SOUNDFILE.items())
def test_lossless_files_are_exact(kind: str, subtype: str, pcm: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    soundfile.write(path, pcm.T, RATE, subtype=subtype, format=kind.upper())
    audio, rate = read_audio(path)
    info = probe(path)
    assert rate == RATE and info.channels == 2 and info.frames == FRAMES
    assert np.array_equal(audio, pcm)


@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE", "PCM_U8", "ULAW"])
def test_other_sample_formats_of_wav(subtype: str, music: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", music.T, RATE, subtype=subtype)
    audio, _ = read_audio(tmp_path / "a.wav")
    expected, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    assert np.array_equal(audio, expected.T)
    assert subtype not in ("FLOAT", "DOUBLE") or np.array_equal(audio, music)


PCM = "u8 s16le s24le s32le s64le f32le f64le alaw mulaw".split()


@pytest.mark.parametrize("codec", PCM)
@pytest.mark.parametrize("options", [["a.wav"], ["-rf64", "always", "a.wav"], ["a.w64"]], ids=str)
@pytest.mark.parametrize("channels", [2, 6])
def test_every_sample_format_of_ffmpeg(
    codec: str,
    options: list[str],
    channels: int,
    wav: Path,
    tmp_path: Path,
    ffmpeg: Callable[..., None],
    ffmpeg_decoded: Callable[..., np.ndarray],
) -> None:
    path = tmp_path / options[-1]
    ffmpeg("-i", wav, "-ac", str(channels), "-c:a", f"pcm_{codec}", *options[:-1], path)
    audio, _ = read_audio(path)
    assert np.array_equal(audio, ffmpeg_decoded(path, channels)) and np.abs(audio).max() > 0.2
    late, _ = read_audio(path, start_s=1)
    assert np.array_equal(late, audio[:, RATE:])


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_lossy_files_keep_position_and_count(
    kind: str, subtype: str, music: np.ndarray, tmp_path: Path
) -> None:
    rate = 48000 if subtype == "OPUS" else RATE
    soundfile.write(tmp_path / "a", music.T, rate, format=kind, subtype=subtype)
    audio, _ = read_audio(tmp_path / "a")
    assert audio.shape == music.shape and probe(tmp_path / "a").frames == FRAMES
    assert impulse_at(audio) == IMPULSE
    expected, _ = soundfile.read(tmp_path / "a", dtype="float32")
    # two decoders of one lossy stream agree up to rounding
    assert np.abs(audio - expected.T).max() < 2e-6


LENGTH_KEPT = {
    "m4a": ["-c:a", "aac"],
    "mov": ["-c:a", "aac"],
    "3gp": ["-c:a", "aac"],
    "alac.m4a": ["-c:a", "alac"],
    "fast.m4a": ["-c:a", "aac", "-movflags", "+faststart"],
    "mp3": ["-c:a", "libmp3lame"],
    "vbr.mp3": ["-c:a", "libmp3lame", "-q:a", "4"],
    "ogg": ["-c:a", "libvorbis"],
    "wv": ["-c:a", "wavpack"],
    "tta": ["-c:a", "tta"],
    "flac": ["-c:a", "flac"],
    "flac.ogg": ["-c:a", "flac"],
    "mka": ["-c:a", "flac"],
    "pcm.mov": ["-c:a", "pcm_s24le"],
    "pcm.caf": ["-c:a", "pcm_s16be"],
    "alac.caf": ["-c:a", "alac"],
}
AS_FFMPEG = {
    "wma": ["-c:a", "wmav2"],
    "ac3": ["-c:a", "ac3"],
    "eac3": ["-c:a", "eac3"],
    "aac": ["-c:a", "aac"],
    "mp2": ["-c:a", "mp2"],
    "mka": ["-c:a", "aac"],
    "ts": ["-c:a", "aac"],
    "avi": ["-c:a", "libmp3lame"],
    "noxing.mp3": ["-c:a", "libmp3lame", "-write_xing", "0"],
    "mp3.mp4": ["-c:a", "libmp3lame"],
    "dts": ["-c:a", "dca", "-strict", "-2"],
    # containers that number codecs, by numbers whose bytes are no ASCII
    "dts.ts": ["-c:a", "dca", "-strict", "-2"],
    "truehd.ts": ["-c:a", "truehd", "-strict", "-2"],
    "bluray.m2ts": ["-c:a", "pcm_bluray"],
    "aac.avi": ["-c:a", "aac"],
    "flac.avi": ["-c:a", "flac"],
    "flac.wav": ["-c:a", "flac"],
}


@pytest.mark.parametrize(("name", "options"), [*AS_FFMPEG.items(), *LENGTH_KEPT.items()])
def test_audio_is_what_the_ffmpeg_program_decodes(
    name: str,
    options: list[str],
    wav: Path,
    tmp_path: Path,
    ffmpeg: Callable[..., None],
    ffmpeg_decoded: Callable[..., np.ndarray],
) -> None:
    path = tmp_path / f"a.{name}"
    ffmpeg("-i", wav, *options, path)
    audio, rate = read_audio(path)
    expected = ffmpeg_decoded(path)
    assert rate == (48000 if name == "bluray.m2ts" else RATE)
    if LENGTH_KEPT.get(name) == options:
        # the ffmpeg program keeps an MP4's padding at the end
        assert audio.shape == (2, FRAMES) and impulse_at(audio) == IMPULSE
    else:
        assert audio.shape == expected.shape
    shared = min(audio.shape[1], expected.shape[1])
    assert np.abs(audio[:, :shared] - expected[:, :shared]).max() < 2e-6


def test_aac_in_a_wav_is_an_error(wav: Path, tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    """A WAV doesn't store where a packet of AAC begins, so the ffmpeg program can't decode it either."""
    ffmpeg("-i", wav, "-c:a", "aac", tmp_path / "a.wav")
    assert probe(tmp_path / "a.wav").codec == "aac"
    with pytest.raises(InputError, match="undecodable packet"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("name", ["opus", "webm", "mp4", "mka"])
def test_opus_in_every_container(
    name: str, music: np.ndarray, tmp_path: Path, ffmpeg: Callable[..., None]
) -> None:
    soundfile.write(tmp_path / "a.wav", music.T, 48000)
    ffmpeg("-i", tmp_path / "a.wav", "-c:a", "libopus", tmp_path / f"b.{name}")
    audio, rate = read_audio(tmp_path / f"b.{name}")
    assert rate == 48000 and audio.shape == music.shape and impulse_at(audio) == IMPULSE


def test_24_bits_survive_flac_alac_and_wavpack(
    music: np.ndarray, tmp_path: Path, ffmpeg: Callable[..., None]
) -> None:
    exact = (np.rint(music * 2**23) / 2**23).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", exact.T, RATE, subtype="PCM_24")
    for name, codec in (("a.flac", "flac"), ("a.m4a", "alac"), ("a.wv", "wavpack"), ("a.mka", "flac")):
        ffmpeg("-i", tmp_path / "a.wav", "-c:a", codec, tmp_path / name)
        assert np.array_equal(read_audio(tmp_path / name)[0], exact), name


@pytest.fixture(scope="module")
def video(wav: Path, tmp_path_factory: pytest.TempPathFactory, ffmpeg: Callable[..., None]) -> Path:
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    picture = ["-f", "lavfi", "-i", "testsrc=size=64x64:rate=10:duration=2"]
    tone = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=48000:duration=1"]
    maps = ["-map", "0:v", "-map", "1:a", "-map", "2:a"]
    ffmpeg(*picture, "-i", wav, *tone, *maps, "-c:v", "mpeg4", "-c:a", "aac", "-ac:a:1", "1", path)
    return path


def test_audio_streams_of_a_video(video: Path) -> None:
    first, second = probe(video, stream=0), probe(video, stream=1)
    assert (first.sample_rate, first.channels, first.stream, first.streams) == (RATE, 2, 0, 2)
    assert (second.sample_rate, second.channels, second.stream) == (48000, 1, 1)
    assert probe(video) == first
    assert read_audio(video)[0].shape == (2, FRAMES)
    audio, rate = read_audio(video, stream=1)
    assert rate == 48000 and audio.shape == (1, 48000)


def test_audio_stream_that_is_not_there(video: Path, wav: Path) -> None:
    for path in (video, wav):
        with pytest.raises(InputError, match="has no audio stream 2") as caught:
            probe(path, stream=2)
        assert "--audio-stream" in str(caught.value.hint)
    assert probe(wav, stream=0).frames == FRAMES


def test_video_without_audio(tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    ffmpeg("-f", "lavfi", "-i", "testsrc=size=64x64:duration=1", "-c:v", "mpeg4", tmp_path / "a.mp4")
    with pytest.raises(InputError, match="has no audio stream"):
        probe(tmp_path / "a.mp4")


def test_stem_file_of_five_streams(pcm: np.ndarray, tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    inputs: list[str | Path] = []
    for index in range(5):
        soundfile.write(tmp_path / f"{index}.wav", pcm.T / (index + 1), RATE, subtype="PCM_16")
        inputs += ["-i", tmp_path / f"{index}.wav"]
    maps = [part for index in range(5) for part in ("-map", f"{index}:a")]
    ffmpeg(*inputs, *maps, "-c:a", "alac", "-f", "mp4", tmp_path / "a.stem.mp4")
    for index in range(5):
        audio, _ = read_audio(tmp_path / "a.stem.mp4", stream=index)
        expected, _ = read_audio(tmp_path / f"{index}.wav")
        assert np.array_equal(audio, expected)


def test_itunes_gapless_tag_gives_the_count(tmp_path: Path, wav: Path, ffmpeg: Callable[..., None]) -> None:
    plain, noted = tmp_path / "a.m4a", tmp_path / "b.m4a"
    with open_writer(plain, RATE, 2, OutputSettings(format="alac")) as writer:
        writer.write(read_audio(wav)[0])
    from stemsplit.audio.sink import Sink
    from stemsplit.audio.tags import mp4

    sink = Sink(noted)
    sink.write(plain.read_bytes())
    note = f" 00000000 00000000 00000100 {FRAMES - 256:016X} 00000000 00000000"
    box = mp4.freeform("iTunSMPB", note)
    mp4.append_to_moov(sink, (b"udta", b"meta", b"ilst"), box)
    sink.close()
    assert probe(noted).frames == FRAMES - 256
    assert np.array_equal(read_audio(noted)[0], read_audio(wav)[0][:, : FRAMES - 256])


@pytest.mark.parametrize("size", [1000, 1, 65536, FRAMES, FRAMES + 1])
def test_blocks_have_the_size_asked_for(size: int, wav: Path, pcm: np.ndarray) -> None:
    if size == 1:
        pcm = pcm[:, :50]
    with open_audio(wav, end_s=pcm.shape[1] / RATE) as reader:
        blocks = list(reader.blocks(size))
    assert all(block.shape == (2, size) and block.dtype == np.float32 for block in blocks[:-1])
    assert 0 < blocks[-1].shape[1] <= size
    assert np.array_equal(np.concatenate(blocks, axis=1), pcm)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "alac", "aiff"])
def test_start_and_end_are_exact(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    rate = 48000 if kind == "opus" else RATE
    with open_writer(tmp_path / "a", rate, 2, OutputSettings(format=kind)) as writer:
        writer.write(music)
    whole, _ = read_audio(tmp_path / "a")
    for start, stop in [(0, 1), (1, 2), (1151, 1153), (9_999, 10_001), (30_000, FRAMES), (FRAMES - 1, None)]:
        end_s = None if stop is None else stop / rate
        with open_audio(tmp_path / "a", start_s=start / rate, end_s=end_s) as reader:
            assert reader.frames == (stop or FRAMES) - start
            part = np.concatenate(list(reader.blocks()), axis=1)
        assert np.array_equal(part, whole[:, start:stop]), (start, stop)
    assert read_audio(tmp_path / "a", start_s=1.0, end_s=99)[0].shape[1] == FRAMES - rate


def test_invalid_ranges(wav: Path) -> None:
    for start, end in [(-1, None), (None, 0), (1, 1), (2, 1), (float("nan"), None), (float("inf"), None)]:
        with pytest.raises(SettingsError, match=r"--start|--end"):
            open_audio(wav, start_s=start, end_s=end)
    with pytest.raises(InputError, match=r"ends at 1\.503 s, before --start 1\.6"):
        read_audio(wav, start_s=1.6)


def test_wav_from_a_pipe(wav: Path, pcm: np.ndarray, tmp_path: Path) -> None:
    whole = bytearray(wav.read_bytes())
    at = whole.find(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF - 43, 0):
        whole[4:8] = size.to_bytes(4, "little")
        whole[at : at + 4] = size.to_bytes(4, "little")
        (tmp_path / "a.wav").write_bytes(whole)
        assert np.array_equal(read_audio(tmp_path / "a.wav")[0], pcm), hex(size)


def test_flac_from_a_pipe_is_counted_by_its_last_frame(wav: Path, pcm: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", pcm.T, RATE, subtype="PCM_16")
    whole = bytearray((tmp_path / "a.flac").read_bytes())
    # the 36-bit sample count of STREAMINFO: zero means unknown
    whole[21] &= 0xF0
    whole[22:26] = bytes(4)
    (tmp_path / "a.flac").write_bytes(whole)
    assert probe(tmp_path / "a.flac").frames == FRAMES
    assert np.array_equal(read_audio(tmp_path / "a.flac")[0], pcm)


def test_content_counts_and_not_the_suffix(wav: Path, pcm: np.ndarray, tmp_path: Path) -> None:
    for name in ("a.mp3", "a.raw", "a.vox", "a", "-o.txt", "Björk – 絆 {x} [é] %03d.flac", "http:b"):
        (tmp_path / name).write_bytes(wav.read_bytes())
        assert np.array_equal(read_audio(tmp_path / name)[0], pcm), name
    soundfile.write(tmp_path / "b.wav", pcm.T, RATE, format="MP3")
    assert probe(tmp_path / "b.wav").codec == "mp3"


def test_a_name_that_is_not_valid_text(wav: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.ogg", soundfile.read(wav)[0], RATE)
    for source in (wav, tmp_path / "a.ogg"):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.x"))
        try:
            path.write_bytes(source.read_bytes())
        except OSError:
            pytest.skip("this file system wants names to be text")
        assert read_audio(path)[0].shape == (2, FRAMES)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_missing_folder_empty_and_forbidden(tmp_path: Path, wav: Path) -> None:
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, words in {
        "missing.wav": "no such file",
        "": "is a folder",
        "empty.wav": r"is empty \(0 bytes\)",
        "pipe": "is not a regular file",
        "loop": "symbolic links",
        "x" * 300: "name too long",
        "a\0b": "null",
    }.items():
        with pytest.raises(InputError, match=f"(?i){words}"):
            probe(tmp_path / path)


def test_no_permission(tmp_path: Path, wav: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match="no permission to read it"):
        probe(wav)


@pytest.mark.parametrize(
    "content",
    [b"hello, world\n" * 50, b"\x00" * 5000, bytes(range(256)) * 20, b"RIFF", b"fLaC", b"OggS" + bytes(50)],
)
def test_files_without_audio_data(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(InputError, match="not an audio file|has no audio") as caught:
        read_audio(tmp_path / "a.wav")
    assert "\n" not in str(caught.value)


def test_playlists_open_nothing(tmp_path: Path, wav: Path) -> None:
    for name, text in {
        "a.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{wav}\n#EXT-X-ENDLIST\n",
        "a.ffconcat": f"ffconcat version 1.0\nfile {wav}\n",
    }.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match="not an audio file"):
            probe(tmp_path / name)


def test_no_samples(tmp_path: Path) -> None:
    for kind in ("WAV", "W64", "AIFF"):
        soundfile.write(tmp_path / "a", np.zeros((0, 2)), RATE, format=kind)
        with pytest.raises(InputError, match=r"has no audio in it \(0 samples\)"):
            read_audio(tmp_path / "a")


def test_one_sample(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.array([[0.5]]), RATE)
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [[0.5]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(value: float, music: np.ndarray, tmp_path: Path) -> None:
    broken = music.copy()
    broken[1, 44_100] = value
    soundfile.write(tmp_path / "a.wav", broken.T, RATE, subtype="FLOAT")
    with pytest.raises(InputError, match=r"NaN or infinite samples \(the first at 1\.000 s\)"):
        read_audio(tmp_path / "a.wav")
    with pytest.raises(InputError, match=r"the first at 1\.000 s"):
        read_audio(tmp_path / "a.wav", start_s=0.25)
    assert read_audio(tmp_path / "a.wav", end_s=1.0)[0].shape == (2, 44_100)


def test_huge_finite_samples_are_audio(tmp_path: Path) -> None:
    loud = np.full((100, 2), 3e38, np.float32)
    soundfile.write(tmp_path / "a.wav", loud, RATE, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav")[0], loud.T)


@pytest.mark.parametrize("kind", ["wav", "rf64", "w64", "aiff", "caf", "flac"])
def test_file_cut_short_says_so(kind: str, pcm: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a", pcm.T, RATE, format=kind.upper(), subtype="PCM_16")
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cut short: (4\d|50) % of its audio is there") as caught:
        read_audio(tmp_path / "a")
    assert caught.value.hint


@pytest.mark.parametrize("kind", ["mp3", "ogg", "opus", "m4a", "alac"])
def test_compressed_file_cut_short_is_never_taken_for_whole(
    kind: str, music: np.ndarray, tmp_path: Path
) -> None:
    with open_writer(tmp_path / "a", 48000, 2, OutputSettings(format=kind)) as writer:
        for _ in range(4):
            writer.write(music)
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) // 2])
    if kind in ("ogg", "opus"):
        # an Ogg stream declares no length, but only whole pages are valid
        with pytest.raises(InputError, match="cut short: it ends within a page of its Ogg stream"):
            read_audio(tmp_path / "a")
        return
    with pytest.raises(InputError, match="cut short|damaged|not an audio file"):
        read_audio(tmp_path / "a")


def test_front_index_mp4_cut_short(wav: Path, tmp_path: Path, ffmpeg: Callable[..., None]) -> None:
    ffmpeg("-i", wav, "-c:a", "aac", "-movflags", "+faststart", tmp_path / "a.m4a")
    whole = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "a.m4a").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(InputError, match="cut short|damaged"):
        read_audio(tmp_path / "a.m4a")


def test_damage_within_flac(wav: Path, pcm: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.flac", pcm.T, RATE)
    whole = bytearray((tmp_path / "a.flac").read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    (tmp_path / "a.flac").write_bytes(whole)
    with pytest.raises(InputError, match=r"damaged at \d\.\d s \(.*flac decoder.*\)"):
        read_audio(tmp_path / "a.flac")


def test_protected_file(tmp_path: Path, music: np.ndarray) -> None:
    with open_writer(tmp_path / "a.m4p", RATE, 2, OutputSettings(format="m4a")) as writer:
        writer.write(music)
    whole = (tmp_path / "a.m4p").read_bytes()
    (tmp_path / "a.m4p").write_bytes(whole.replace(b"mp4a" + bytes(6), b"drms" + bytes(6)))
    with pytest.raises(InputError, match="protected by DRM") as caught:
        probe(tmp_path / "a.m4p")
    assert "shop" in str(caught.value.hint)


def test_joined_mp3_files(tmp_path: Path, music: np.ndarray) -> None:
    with open_writer(tmp_path / "a.mp3", RATE, 2, OutputSettings(format="mp3")) as writer:
        writer.write(music)
    (tmp_path / "b.mp3").write_bytes((tmp_path / "a.mp3").read_bytes() * 2)
    audio, _ = read_audio(tmp_path / "b.mp3")
    loud = np.flatnonzero(np.abs(audio[0]) > 0.5)
    assert audio.shape[1] > 2 * FRAMES - 2 * 1152 and loud[0] == IMPULSE and len(loud) >= 2


def test_errors_use_the_name_given(tmp_path: Path, wav: Path) -> None:
    (tmp_path / "copy").write_bytes(b"nothing")
    with pytest.raises(InputError) as caught:
        probe(tmp_path / "copy", name="stdin")
    assert str(caught.value).startswith("stdin: not an audio file")
    assert str(probe(wav, name="stdin").path) == "stdin"


def test_libraries_write_nothing_to_stderr(tmp_path: Path, music: np.ndarray) -> None:
    for kind in ("mp3", "ogg", "flac", "m4a"):
        with open_writer(tmp_path / f"a.{kind}", RATE, 2, OutputSettings(format=kind)) as writer:
            writer.write(music)
        whole = bytearray((tmp_path / f"a.{kind}").read_bytes())
        whole[len(whole) // 2 : len(whole) // 2 + 700] = bytes(700)
        (tmp_path / f"a.{kind}").write_bytes(whole)
    program = (
        "import sys\nfrom stemsplit.audio.reader import read_audio\nfrom stemsplit.errors import InputError\n"
        "for path in sys.argv[1:]:\n    try: read_audio(path)\n    except InputError: pass\n"
        "assert 'torch' not in sys.modules\n"
    )
    paths = sorted(str(path) for path in tmp_path.iterdir())
    done = subprocess.run([sys.executable, "-c", program, *paths], capture_output=True, check=True)
    assert done.stdout == b"" and done.stderr == b""


def test_reading_in_several_threads(tmp_path: Path, music: np.ndarray) -> None:
    with open_writer(tmp_path / "a.mp3", RATE, 2, OutputSettings(format="mp3")) as writer:
        writer.write(music)
    alone, _ = read_audio(tmp_path / "a.mp3")
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(read_audio(tmp_path / "a.mp3")[0])) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4 and all(np.array_equal(each, alone) for each in results)


_READ = """
import sys
from stemsplit.audio.reader import open_audio
with open_audio(sys.argv[1]) as reader:
    frames = sum(block.shape[1] for block in reader.blocks())
print(frames)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "m4a"])
def test_memory_does_not_grow_with_the_length(kind: str, music: np.ndarray, tmp_path: Path) -> None:
    peaks = []
    for minutes in (1, 10):  # nine minutes of stereo are 190 MB of float32
        path = tmp_path / f"{minutes}.{kind}"
        repeats = round(minutes * 60 * RATE / FRAMES)
        with open_writer(path, RATE, 2, OutputSettings(format=kind)) as writer:
            for _ in range(repeats):
                writer.write(music)
        done = subprocess.run(
            [sys.executable, "-c", _READ + PRINT_PEAK, path], capture_output=True, check=True
        )
        frames, peak_mib = done.stdout.split()
        assert int(frames) == repeats * FRAMES
        peaks.append(float(peak_mib))
    assert peaks[1] - peaks[0] < 10


@pytest.mark.parametrize(
    ("layout", "name", "codec", "stated"),
    [
        ("7.1", "a.m4a", "aac", "7.1"),
        ("7.1", "a.mka", "flac", "7.1"),
        ("6.1", "a.mov", "pcm_s16le", "FL+FR+FC+LFE+SL+SR+BC"),
    ],
)
def test_layouts_that_crash_pyav(
    layout: str, name: str, codec: str, stated: str, tmp_path: Path, ffmpeg: Callable[..., None]
) -> None:
    """Read eight planar channels and an unusual order many times, in a separate process."""
    count = 7 if layout == "6.1" else 8
    tones = "|".join(f"0.1*sin({2000 * (k + 1)}*t)" for k in range(count))
    source = ["-f", "lavfi", "-i", f"aevalsrc={tones}:s=44100:d=0.5:c={layout}"]
    ffmpeg(*source, "-c:a", codec, tmp_path / name)
    program = (
        "import sys\nfrom stemsplit.audio.reader import probe, read_audio\n"
        "for _ in range(20): shape = read_audio(sys.argv[1])[0].shape\n"
        "print(shape, probe(sys.argv[1]).layout)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / name], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"({count}, 22050) {stated}\n"

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import read_audio
from stemsplit.audio.resample import resample
from stemsplit.datasets import metadata
from stemsplit.datasets.layouts import Location
from stemsplit.datasets.metadata import MetadataCache
from stemsplit.datasets.tracks import Source, Track, find_tracks
from stemsplit.errors import InputError
from tests.conftest import Encode

from .conftest import Write


def only(root: Path) -> Track:
    (track,) = find_tracks(root)
    return track


def test_a_track(tmp_path: Path, write: Write) -> None:
    mixture, vocals = write("A/mixture.wav"), write("A/vocals.wav")
    track = only(tmp_path)
    assert (track.name, track.frames, track.sample_rate, track.channels) == ("A", 1000, 8000, 2)
    assert track.problems == ()
    assert track.mixture is not None and track.mix is track.mixture
    assert np.array_equal(track.mix.read(), mixture)
    assert np.array_equal(track.stems["vocals"].read(), vocals)


@pytest.mark.parametrize(
    ("start", "frames"),
    [(0, 1000), (0, 0), (1, 10), (990, 30), (999, 1), (1000, 5), (4000, 3), (-7, 20), (-9, 4)],
)
def test_any_range(tmp_path: Path, write: Write, start: int, frames: int) -> None:
    samples = np.pad(write("A/vocals.wav"), ((0, 0), (10, 4000)))
    expected = samples[:, start + 10 : start + 10 + frames]
    assert np.array_equal(only(tmp_path).stems["vocals"].read(start, frames), expected)


def test_only_the_range_is_read(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("A/vocals.wav", frames=8000)
    asked = []

    def spy(path: Path, **given: object) -> object:
        asked.append((given["start_s"], given["end_s"]))
        return read_audio(path, **given)  # type: ignore[arg-type]

    track = only(tmp_path)
    monkeypatch.setattr("stemsplit.datasets.tracks.read_audio", spy)
    track.stems["vocals"].read(2000, 4000)
    assert asked == [(0.25, 0.75)]


def test_files_of_a_stem_are_summed(tmp_path: Path, write: Write) -> None:
    a, b = write("A/drums/kick.wav"), write("A/drums/snare.wav", frames=600, channels=1)
    source = only(tmp_path).stems["drums"]
    expected = a.copy()
    expected[:, :600] += b
    assert (source.frames, source.channels) == (1000, 2)
    assert np.array_equal(source.read(), expected)
    assert np.array_equal(source.read(590, 20), expected[:, 590:610])


def test_without_a_mixture_it_is_the_sum(tmp_path: Path, write: Write) -> None:
    a, b = write("A/bass.wav", channels=1), write("A/vocals.wav", frames=1200)
    track = only(tmp_path)
    assert track.mixture is None
    assert (track.frames, track.channels) == (1200, 2)
    expected = b.copy()
    expected[:, :1000] += a
    np.testing.assert_allclose(track.mix.read(), expected, atol=1e-7)
    assert track.problems == ("bass: bass.wav has 1000 samples, the track 1200",)


def test_the_mixture_decides_the_length(tmp_path: Path, write: Write) -> None:
    write("A/mixture.wav", frames=900), write("A/vocals.wav")
    track = only(tmp_path)
    assert track.frames == 900
    assert track.problems == ("vocals: vocals.wav has 1000 samples, the track 900",)


def test_a_stem_without_files_is_silent(tmp_path: Path, write: Write) -> None:
    write("A/v.wav")
    (tmp_path / "stems.json").write_text(json.dumps({"A": {"bass": [], "vocals": ["v.wav"]}}))
    track = only(tmp_path)
    assert not track.stems["bass"].read(0, 10).any()
    assert track.stems["bass"].parts == ()
    assert track.problems == ()


def test_a_track_without_any_file(tmp_path: Path) -> None:
    (tmp_path / "stems.json").write_text(json.dumps({"A": {"bass": []}}))
    with pytest.raises(InputError, match="no stem of this track has a file"):
        find_tracks(tmp_path)


def test_a_track_without_any_sample(tmp_path: Path, write: Write) -> None:
    write("A/vocals.wav", frames=0)
    write("A/drums.wav", frames=0)
    with pytest.raises(InputError, match="A: has no samples"):
        find_tracks(tmp_path)


def test_an_unreadable_file(tmp_path: Path, write: Write) -> None:
    write("A/vocals.wav")
    (tmp_path / "A/drums.wav").write_text("not audio at all, but long enough to be looked at")
    with pytest.raises(InputError, match="drums.wav"):
        find_tracks(tmp_path)


@pytest.mark.parametrize(("rate", "to"), [(48000, 44100), (44100, 48000), (8000, 44100), (44100, 8000)])
def test_pieces_of_a_resampled_file_equal_the_whole(tmp_path: Path, write: Write, rate: int, to: int) -> None:
    samples = write("A/vocals.wav", frames=60_000, rate=rate)
    whole = resample(samples, rate, to)
    (track,) = find_tracks(tmp_path, sample_rate=to)
    source = track.stems["vocals"]
    assert (track.sample_rate, source.frames) == (to, whole.shape[1])
    for start in (0, 1, 777, 5000, whole.shape[1] - 500):
        piece = source.read(start, 500)
        np.testing.assert_allclose(piece, whole[:, start : start + 500], atol=2e-6)
    np.testing.assert_allclose(source.read(), whole, atol=1e-7)


@pytest.mark.parametrize(("rate", "to"), [(44100, 44100), (48000, 44100), (8000, 44100)])
@pytest.mark.parametrize("size", [1, 999, 5000, 100_000])
def test_blocks_are_the_whole_in_order(tmp_path: Path, write: Write, rate: int, to: int, size: int) -> None:
    write("A/drums/kick.wav", frames=3000, rate=rate)
    write("A/drums/snare.wav", frames=1700, rate=rate, channels=1)
    (track,) = find_tracks(tmp_path, sample_rate=to)
    source = track.stems["drums"]
    blocks = list(source.blocks(size))
    assert {block.shape[1] for block in blocks[:-1]} <= {size}
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), source.read(), atol=1e-6)


def test_a_stem_of_another_rate_is_resampled_and_reported(tmp_path: Path, write: Write) -> None:
    write("A/mixture.wav", frames=44100, rate=44100)
    write("A/vocals.wav", frames=48000, rate=48000)
    track = only(tmp_path)
    assert track.stems["vocals"].frames == 44100
    assert track.problems == ("vocals has files of 48000 Hz, resampled to 44100 Hz",)


def test_without_a_mixture_the_highest_rate_counts(tmp_path: Path, write: Write) -> None:
    # 24001 samples at half the rate may as well have been 48001 or 48002
    write("A/drums.wav", frames=48_001, rate=48_000), write("A/bass.wav", frames=24_001, rate=24_000)
    track = only(tmp_path)
    assert (track.sample_rate, track.frames) == (48_000, 48_002)
    assert track.problems == ("bass has files of 24000 Hz, resampled to 48000 Hz",)


def test_surround_is_mixed_down(tmp_path: Path, write: Write) -> None:
    samples = write("A/vocals.wav", channels=3)
    source = only(tmp_path).stems["vocals"]
    assert source.channels == 2
    expected = samples[:2] + np.float32(np.sqrt(0.5)) * samples[2]
    np.testing.assert_allclose(source.read(), expected, atol=1e-6)


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="needs ffmpeg to make the container")
def test_a_container_of_five_streams(tmp_path: Path) -> None:
    names = ("mixture", "drums", "bass", "other", "vocals")
    time = np.arange(44100) / 44100
    command = ["ffmpeg", "-v", "error"]
    for i, name in enumerate(names):
        tone = 0.3 * np.sin(2 * np.pi * 200 * (i + 1) * time)
        soundfile.write(tmp_path / f"{name}.wav", np.stack([tone, tone], 1), 44100)
        command += ["-i", str(tmp_path / f"{name}.wav")]
    for i in range(5):
        command += ["-map", f"{i}:a"]
    (tmp_path / "test").mkdir()
    subprocess.run([*command, "-c:a", "aac", str(tmp_path / "test/Song.stem.mp4")], check=True)
    (track,) = find_tracks(tmp_path / "test")
    assert (track.name, track.frames, tuple(track.stems)) == ("Song", 44100, names[1:])
    for i, source in enumerate([track.mix, *track.stems.values()]):
        spectrum = np.abs(np.fft.rfft(source.read(11025, 22050)[0]))
        assert np.argmax(spectrum) * 2 == 200 * (i + 1)


# ---------------------------------------------------------------- lengths


CONTAINERS = [
    ("aac", "adts", "aac"),
    ("mka", "matroska", "aac"),
    ("mp4", "mp4", "ac3"),
    ("ac3", "ac3", "ac3"),
    ("m4a", "ipod", "aac"),
    ("m4a", "ipod", "alac"),
    ("wv", "wv", "wavpack"),
    ("flac", "flac", "flac"),
]


@pytest.mark.parametrize(("suffix", "container", "codec"), CONTAINERS)
def test_lengths_are_those_that_decoding_gives(
    tmp_path: Path, encode: Encode, suffix: str, container: str, codec: str
) -> None:
    there = encode(f"A/vocals.{suffix}", codec, container)
    track = only(tmp_path)
    source = track.stems["vocals"]
    assert track.frames == source.frames == there
    assert source.read(there - 4000).any()  # it's loud to its end, save for an encoder's padding


def test_lengths_are_counted_once(tmp_path: Path, encode: Encode, monkeypatch: pytest.MonkeyPatch) -> None:
    there = encode("A/vocals.aac", "aac", "adts")
    assert only(tmp_path).frames == there
    monkeypatch.setattr(metadata, "open_audio", pytest.fail)
    assert only(tmp_path).frames == there


@pytest.mark.parametrize("place", [(0, 1000), (700, 100), (950, 50)])
def test_a_file_that_became_shorter_is_named(tmp_path: Path, write: Write, place: tuple[int, int]) -> None:
    write("A/vocals.wav")
    source = only(tmp_path).stems["vocals"]
    write("A/vocals.wav", frames=600)
    with pytest.raises(InputError, match="vocals.wav: has 600 samples, 1000 were expected") as caught:
        source.read(*place)
    assert "--start" not in f"{caught.value} {caught.value.hint}"


# ---------------------------------------------------------------- what is remembered


def test_metadata_is_remembered(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("A/vocals.wav")
    cache = MetadataCache(tmp_path / "cache" / "m.json")
    find_tracks(tmp_path / "A", cache=cache)
    monkeypatch.setattr(metadata, "probe", pytest.fail)
    again = MetadataCache(tmp_path / "cache" / "m.json")
    assert find_tracks(tmp_path / "A", cache=again)[0].frames == 1000


def test_a_changed_file_is_looked_at_again(tmp_path: Path, write: Write) -> None:
    where = Location(tmp_path / "v.wav")
    write("v.wav", frames=1000)
    cache = MetadataCache(tmp_path / "m.json")
    assert cache.info(where).frames == 1000
    write("v.wav", frames=1001)
    assert cache.info(where).frames == 1001
    # same size, another time
    write("v.wav", frames=1001, rate=16000)
    os.utime(where.path, ns=(1, 1))
    assert cache.info(where).sample_rate == 16000


def test_rms(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "v.wav", np.tile([[0.5, 0.0]], (100, 1)), 8000, subtype="FLOAT")
    cache = MetadataCache(tmp_path / "m.json")
    info = cache.with_rms(Location(tmp_path / "v.wav"))
    assert info.rms == pytest.approx(np.sqrt(0.125), rel=1e-9)
    cache.save()
    assert MetadataCache(tmp_path / "m.json").info(Location(tmp_path / "v.wav")) == info


def test_two_caches_add_up(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = MetadataCache(tmp_path / "m.json"), MetadataCache(tmp_path / "m.json")
    for cache, name in ((first, "a.wav"), (second, "b.wav")):
        write(name)
        cache.info(Location(tmp_path / name))
        cache.save()
    monkeypatch.setattr(metadata, "probe", pytest.fail)
    for name in ("a.wav", "b.wav"):
        assert MetadataCache(tmp_path / "m.json").info(Location(tmp_path / name)).frames == 1000


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 0, "files": {}}', '{"version": 1}'])
def test_a_damaged_cache_is_none(tmp_path: Path, write: Write, text: str) -> None:
    write("v.wav")
    (tmp_path / "m.json").write_text(text)
    cache = MetadataCache(tmp_path / "m.json")
    assert cache.info(Location(tmp_path / "v.wav")).frames == 1000
    cache.save()
    assert json.loads((tmp_path / "m.json").read_text())["files"]


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, write: Write) -> None:
    write("v.wav")
    (tmp_path / "file").touch()
    cache = MetadataCache(tmp_path / "file" / "m.json")
    assert cache.info(Location(tmp_path / "v.wav")).frames == 1000
    cache.save()


# ---------------------------------------------------------------- real music


def test_the_album_is_read_anywhere(shared_data: Path) -> None:
    tracks = find_tracks(shared_data / "everything-is-free-cc0")
    assert {track.sample_rate for track in tracks} == {48000}
    # a third of its files have half the rate
    problems = [line for track in tracks for line in track.problems]
    assert len([line for line in problems if "24000 Hz, resampled to 48000 Hz" in line]) == 18
    # and a file ends early
    (line,) = [line for line in problems if "resampled" not in line]
    assert line.startswith("drums: 7.Francium") and line.endswith("has 14008320 samples, the track 14130000")
    sodium = tracks[2]
    bass: Source = sodium.stems["bass"]
    assert len(bass.parts) == 2
    start = 60 * sodium.sample_rate
    expected = sum(
        read_audio(part.where.path, start_s=60, end_s=61)[0].astype(np.float64) for part in bass.parts
    )
    np.testing.assert_allclose(bass.read(start, sodium.sample_rate), expected, atol=1e-6)

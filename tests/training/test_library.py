from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit.datasets import cache
from stemsplit.datasets.cache import MeasurementCache
from stemsplit.datasets.tracks import Source
from stemsplit.errors import InputError, SettingsError
from stemsplit.training import library
from stemsplit.training.library import (
    MIX,
    DataSpec,
    SongSet,
    find_multitracks,
    open_mixes,
    open_songs,
    open_whole,
)
from stemsplit.training.sampling import DataSetConfig
from tests.conftest import Encode
from tests.training.conftest import RATE, STEMS, WriteSongs, code


def want(**changes: Any) -> DataSpec:
    return DataSpec(**{"stems": STEMS, "groups": {}, "sample_rate": RATE, "channels": 2, **changes})


def ignore(*_: object) -> None:
    """Ignore a notification."""


def opened(path: Path, progress: Any = ignore, **changes: Any) -> SongSet:
    (one,) = open_songs([DataSetConfig(str(path))], want(**changes), progress, ignore)
    return one


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> np.ndarray:
    return level * np.random.default_rng(seed).standard_normal((2, int(seconds * RATE))).astype(np.float32)


def test_songs_and_their_stems(counting_songs: WriteSongs) -> None:
    seen: list[tuple[str, int, int]] = []
    songs = opened(counting_songs(50, 80), lambda *step: seen.append(step)).songs
    assert [(song.name, song.frames) for song in songs] == [("00", 50), ("01", 80)]
    assert seen == [("00", 1, 2), ("01", 2, 2)]
    audio = songs[1].stems["bass"].audio.read(70, 12)
    assert audio[0].tolist() == [code(1, 1, n) for n in range(70, 80)] + [0, 0]
    assert audio[1].tolist() == [-value for value in audio[0].tolist()]


@pytest.mark.parametrize(
    ("only", "exclude", "left"),
    [
        ((), (), ["00", "01", "02"]),
        (("01",), (), ["01"]),
        (("0[02]",), (), ["00", "02"]),
        ((), ("0[02]",), ["01"]),
        (("0*",), ("*1",), ["00", "02"]),
    ],
)
def test_patterns_choose_songs(
    counting_songs: WriteSongs, only: tuple[str, ...], exclude: tuple[str, ...], left: list[str]
) -> None:
    path = counting_songs(9, 9, 9)
    assert [
        t.name for t in find_multitracks(DataSetConfig(str(path), only=only, exclude=exclude), want())
    ] == left


def test_patterns_that_match_no_track(counting_songs: WriteSongs) -> None:
    with pytest.raises(InputError, match="only and exclude leave none of its 2 tracks"):
        find_multitracks(DataSetConfig(str(counting_songs(9, 9)), only=("x",)), want())


def grouped(path: Path, **changes: Any) -> dict[str, Source]:
    (track,) = find_multitracks(DataSetConfig(str(path)), want(**changes))
    return track.stems


def test_stems_are_grouped_by_name(write_songs: WriteSongs) -> None:
    parts = {name: noise(0.1, seed=i) for i, name in enumerate(("drums", "percussion", "guitar", "vocals"))}
    path = write_songs({"song": parts})
    stems = grouped(path, groups={"drums": ("drums", "percussion")})
    assert sorted(stems) == ["drums", "other", "vocals"]
    np.testing.assert_array_equal(stems["drums"].read(), parts["drums"] + parts["percussion"])
    np.testing.assert_array_equal(stems["other"].read(), parts["guitar"])


def test_a_stem_without_a_group(write_songs: WriteSongs) -> None:
    path = write_songs({"song": {"drums": noise(0.1), "vocals": noise(0.1)}})
    with pytest.raises(InputError, match="song: none of vocals takes its stem drums; set data.groups"):
        grouped(path, stems=("vocals",))
    assert sorted(grouped(path, stems=("vocals", "rest"), groups={"rest": ("drums",)})) == ["rest", "vocals"]


@pytest.mark.parametrize("name", ["accompaniment", "no_vocals", "linear_mixture", "backing track", "band"])
def test_a_sum_of_stems_is_added_to_nothing(write_songs: WriteSongs, name: str) -> None:
    stems = {stem: noise(1, seed=i) for i, stem in enumerate(STEMS)}
    path = write_songs({"a": {**stems, name: stems["drums"] + stems["bass"] + stems["other"]}})
    write_songs({"b": {stem: noise(1, seed=i + 9) for i, stem in enumerate(STEMS)}})
    told: list[str] = []
    (one,) = open_songs([DataSetConfig(str(path))], want(stats=True), ignore, told.append)
    (line,) = told
    assert line.startswith(f"a: {name}.wav is left out: ") and "bass, drums" in line
    song = one.songs[0]
    for stem in STEMS:
        np.testing.assert_array_equal(song.stems[stem].audio.read(), stems[stem])
    assert song.stats.std == pytest.approx(sum(stems.values()).mean(0).std(ddof=1), rel=1e-5)
    whole = open_whole([DataSetConfig(str(path))], want(), told.append)[0]
    np.testing.assert_allclose(whole.mix(), sum(stems.values()), atol=1e-6)
    assert told == [line, line] and line.removeprefix("a: ") in whole.problems


def test_songs_with_the_same_note_are_counted(write_songs: WriteSongs) -> None:
    def stems(song: int) -> dict[str, np.ndarray]:
        found = {stem: noise(0.2, seed=9 * song + i) for i, stem in enumerate(STEMS)}
        return {**found, "no_vocals": found["drums"] + found["bass"] + found["other"]}

    told: list[str] = []
    path = write_songs({str(song): stems(song) for song in range(4)})
    open_songs([DataSetConfig(str(path))], want(), ignore, told.append)
    assert told == ["0 and 3 more: no_vocals.wav is left out: by its name it holds bass, drums and other"]


def test_without_other_stems_the_accompaniment_is_the_rest(write_songs: WriteSongs) -> None:
    stems = {"vocals": noise(1), "accompaniment": noise(1, seed=1)}
    path = write_songs({"a": stems})
    for wanted, groups in (
        (("vocals", "other"), {}),
        (("vocals", "accompaniment"), {}),
        (("vocals", "instrumental"), {"instrumental": ("accompaniment",)}),
    ):
        found = grouped(path, stems=wanted, groups=groups)
        np.testing.assert_array_equal(found[wanted[1]].read(), stems["accompaniment"])
    with pytest.raises(InputError, match="takes its stem accompaniment; set data.groups"):
        grouped(path, stems=("vocals", "instrumental"))


def test_an_accompaniment_that_contains_training_stems_is_left_out(write_songs: WriteSongs) -> None:
    stems = {"vocals": noise(1), "accompaniment": noise(1, seed=1)}
    path = write_songs({"a": stems})
    told: list[str] = []
    (song,) = open_whole([DataSetConfig(str(path))], want(), told.append)
    assert told == ["a: accompaniment.wav is left out: by its name it holds drums and bass"]
    assert list(song.stems) == ["vocals"]
    np.testing.assert_allclose(song.mix(), stems["vocals"] + stems["accompaniment"], atol=1e-6)


def test_a_sum_is_used_if_it_is_a_training_stem(write_songs: WriteSongs) -> None:
    stems = {stem: noise(1, seed=i) for i, stem in enumerate(STEMS)}
    rest = stems["drums"] + stems["bass"] + stems["other"]
    path = write_songs({"a": {**stems, "instrumental": rest}})
    found = grouped(path, stems=("vocals", "instrumental"))
    assert sorted(found) == ["instrumental", "vocals"]
    np.testing.assert_array_equal(found["instrumental"].read(), rest)


def test_audio_is_converted_to_the_channels(write_songs: WriteSongs) -> None:
    stereo = noise(0.1)
    path = write_songs({"song": {"drums": stereo, "vocals": stereo[:1]}})
    stems = grouped(path)
    np.testing.assert_array_equal(stems["vocals"].read(), np.repeat(stereo[:1], 2, axis=0))
    mono = grouped(path, channels=1)["drums"].read()
    np.testing.assert_allclose(mono, stereo.mean(0, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize(
    ("start", "frames"), [(0, None), (0, 70), (10, 20), (-5, 10), (65, 20), (90, 5), (-9, 4)]
)
def test_the_cache_reads_as_the_source_does(
    counting_songs: WriteSongs, tmp_path: Path, start: int, frames: int | None
) -> None:
    path = counting_songs(70, stems=("drums",))
    plain, cached = (
        opened(path, stems=("drums",), cache=folder).songs[0].stems["drums"].audio
        for folder in (None, tmp_path / "decoded")
    )
    assert isinstance(cached, cache.Decoded) and cached.frames == plain.frames
    a, b = plain.read(start, frames), cached.read(start, frames)
    assert a.dtype == b.dtype == np.float32
    np.testing.assert_array_equal(a, b)


def test_the_cache_is_written_once_and_whole(
    counting_songs: WriteSongs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_PIECE_S", 2)
    path, folder = counting_songs(5 * RATE + 1, stems=("drums",)), tmp_path / "decoded"
    audio = opened(path, stems=("drums",), cache=folder).songs[0].stems["drums"].audio
    assert audio.read()[0].tolist() == [code(0, 0, n) for n in range(5 * RATE + 1)]
    files = {f: f.stat().st_mtime_ns for f in folder.glob("*.npy")}
    opened(path, stems=("drums",), cache=folder)
    assert {f: f.stat().st_mtime_ns for f in folder.glob("*.npy")} == files and len(files) == 1
    assert not list(folder.glob(".*.part"))


def test_the_cache_holds_no_more_than_a_file_whose_length_is_estimated(
    tmp_path: Path, encode: Encode
) -> None:
    there = encode("songs/A/drums.aac", "aac", "adts")
    config, folder = DataSetConfig(str(tmp_path / "songs")), tmp_path / "decoded"
    (one,) = open_songs([config], want(stems=("drums",), sample_rate=44100, cache=folder), ignore, ignore)
    (stored,) = folder.glob("*.npy")
    assert np.load(stored).shape == (there, 2)
    assert one.songs[0].frames == one.songs[0].stems["drums"].audio.frames == there


def test_audio_that_was_decoded_at_another_length_is_decoded_again(
    counting_songs: WriteSongs, tmp_path: Path
) -> None:
    track = find_multitracks(
        DataSetConfig(str(counting_songs(70, stems=("drums",)))), want(stems=("drums",))
    )[0]
    source = track.stems["drums"]
    (part,) = source.parts
    longer = replace(source, frames=90, parts=(replace(part, info=replace(part.info, frames=90)),))
    assert cache.identity(longer) != cache.identity(source)


def test_whole_songs_for_validation(counting_songs: WriteSongs, tmp_path: Path) -> None:
    path = counting_songs(40)
    for folder in (None, tmp_path / "decoded"):
        (song,) = open_whole([DataSetConfig(str(path))], want(cache=folder), ignore)
        assert song.frames == 40 and song.mixture is None and set(song.stems) == set(STEMS)
        assert song.mix()[0, :2].tolist() == [4 + 600_000, 8 + 600_000]
    soundfile.write(path / "00" / "mixture.wav", np.full((40, 2), 0.5, np.float32), RATE, subtype="FLOAT")
    (song,) = open_whole([DataSetConfig(str(path))], want(cache=tmp_path / "decoded"), ignore)
    assert song.mix().tolist() == [[0.5] * 40] * 2


def test_a_changed_file_is_decoded_and_measured_again(write_songs: WriteSongs, tmp_path: Path) -> None:
    path = write_songs({"song": {"drums": noise(0.1, seed=1)}})
    first = opened(path, stems=("drums",), cache=tmp_path / "c", stats=True).songs[0]
    (path / "song" / "drums.wav").unlink()
    (path / "song").rmdir()
    write_songs({"song": {"drums": noise(0.12, level=0.5, seed=2)}})
    second = opened(path, stems=("drums",), cache=tmp_path / "c", stats=True).songs[0]
    assert second.stems["drums"].audio.frames == 120 and second.stats.std > 3 * first.stats.std


def test_salient_segments(write_songs: WriteSongs) -> None:
    # 1 s segments: sound in the second and third second of four
    audio = noise(4)
    audio[:, :1000] = 0
    audio[:, 3000:] = 0
    path = write_songs({"song": {"drums": audio, "vocals": np.zeros_like(audio)}})
    with pytest.raises(SettingsError, match="no vocals has a salient segment"):
        opened(path, stems=("drums", "vocals"), activity_samples=1000)
    (track,) = find_multitracks(DataSetConfig(str(path)), want(stems=("drums", "vocals")))
    voice = library._sampled_stem(track.stems["drums"], want(activity_samples=1000), MeasurementCache(path))
    assert voice.starts is not None and 1000 in voice.starts and 2000 in voice.starts
    assert 0 not in voice.starts and 3000 not in voice.starts


def test_statistics_are_the_mono_mix_s(write_songs: WriteSongs) -> None:
    stems = {"drums": noise(0.3, seed=1) + 0.01, "bass": noise(0.3, seed=2)}
    song = opened(write_songs({"song": stems}), stems=("drums", "bass"), stats=True).songs[0]
    mono = (stems["drums"] + stems["bass"]).mean(0).astype(np.float64)
    assert song.stats.mean == pytest.approx(mono.mean(), rel=1e-6)
    assert song.stats.std == pytest.approx(mono.std(ddof=1), rel=1e-6)


def test_what_was_measured_is_remembered(tmp_path: Path) -> None:
    calls: list[int] = []

    def measure() -> list[int]:
        calls.append(1)
        return [1, 2]

    for _ in range(2):
        assert MeasurementCache(tmp_path / "new").remember("a", measure) == [1, 2]
    assert len(calls) == 1


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_cache_is_as_good_as_none(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "training.json").write_bytes(damage)
    assert MeasurementCache(tmp_path).remember("a", lambda: 3) == 3
    assert MeasurementCache(tmp_path).remember("a", lambda: 4) == 3


def test_two_processes_keep_each_other_s_notes(tmp_path: Path) -> None:
    one, two = MeasurementCache(tmp_path), MeasurementCache(tmp_path)
    one.remember("a", lambda: 1)
    two.remember("b", lambda: 2)
    assert MeasurementCache(tmp_path).known == {"a": 1, "b": 2}


def test_a_stem_that_no_song_has(counting_songs: WriteSongs) -> None:
    with pytest.raises(SettingsError, match="data.train: no song has vocals"):
        opened(counting_songs(50, stems=("drums", "bass")), stems=("drums", "bass", "vocals"))


def test_a_stem_without_a_sample_is_none(write_songs: WriteSongs) -> None:
    path = write_songs({"song": {"drums": noise(1), "vocals": np.zeros((2, 0), np.float32)}})
    with pytest.raises(SettingsError, match="data.train: no song has vocals"):
        opened(path, stems=("drums", "vocals"))


def test_any_audio_file_is_an_unlabelled_mix(counting_songs: WriteSongs) -> None:
    path = counting_songs(30, 40, stems=("drums",))
    (one,) = open_mixes([DataSetConfig(str(path), 2.0, exclude=("00/*",))], want(), ignore)
    assert one.weight == 2.0
    (song,) = one.songs
    assert song.name == "01/drums.wav" and list(song.stems) == [MIX]
    assert song.stems[MIX].audio.read(3, 2)[0].tolist() == [code(1, 0, 3), code(1, 0, 4)]


def test_hidden_files_are_no_unlabelled_mixes(counting_songs: WriteSongs) -> None:
    path = counting_songs(30, stems=("drums",))
    (path / "00" / "._drums.wav").write_bytes(bytes(4096))
    (path / ".Trashes").mkdir()
    (path / ".Trashes" / "old.wav").write_bytes((path / "00" / "drums.wav").read_bytes())
    (one,) = open_mixes([DataSetConfig(str(path))], want(), ignore)
    assert [song.name for song in one.songs] == ["00/drums.wav"]


def test_a_folder_without_audio(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of its 0 tracks"):
        open_mixes([DataSetConfig(str(tmp_path))], want(), ignore)


def test_an_input_file_is_the_mixture_and_other_files_are_ignored(write_songs: WriteSongs) -> None:
    dry, reverb = noise(0.2, seed=1), noise(0.2, seed=2)
    path = write_songs({"a": {"input": dry + reverb, "dry": dry, "reverb": reverb}})
    song = opened(path, stems=("dry",), paired=True).songs[0]
    assert list(song.stems) == ["dry"] and song.input is not None
    np.testing.assert_array_equal(song.input.audio.read(0, 200), dry + reverb)
    (whole,) = open_whole([DataSetConfig(str(path))], want(stems=("dry",), paired=True), ignore)
    np.testing.assert_array_equal(whole.mix(), dry + reverb)
    assert list(whole.stems) == ["dry"]


def test_a_song_without_its_input_file(write_songs: WriteSongs) -> None:
    path = write_songs({"a": {"input": noise(0.2), "dry": noise(0.2, seed=1)}, "b": {"dry": noise(0.2)}})
    with pytest.raises(InputError, match="b: has no input.wav or mixture.wav"):
        opened(path, stems=("dry",), paired=True)

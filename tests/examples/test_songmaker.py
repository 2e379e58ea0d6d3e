"""Song generator: output, reproducibility, MIDI files, and the sound of every source and effect."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from make_songs import main, make_song
from songmaker import compose, effects, midi, sampler, soundfont, styles, tones, voices
from songmaker.materials import Materials, find_materials, is_held_out, seed_of
from songmaker.mixing import render
from songmaker.notes import STEMS, Note, Part, Song
from stemsplit.datasets.tracks import find_tracks
from stemsplit.errors import InputError, ResourceError

RATE = effects.RATE
SOUNDFONT = Path("/usr/share/sounds/sf2/FluidR3_GM.sf2")


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _noise(seconds: float, seed: int = 0) -> effects.Audio:
    return (0.1 * _rng(seed).standard_normal((2, int(seconds * RATE)))).astype(np.float32)


def _sine(hz: float, seconds: float, loudness: float = 0.3) -> effects.Audio:
    time = np.arange(int(seconds * RATE)) / RATE
    return np.stack([loudness * np.sin(2 * np.pi * hz * time)] * 2).astype(np.float32)


def test_the_command_writes_folders_that_the_data_set_reader_reads(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "songs"), "--songs", "2", "--seconds", "3", "--seed", "7"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    tracks = find_tracks(tmp_path / "songs")
    assert [t.name for t in tracks] == ["song-0000", "song-0001"]
    assert all(set(t.stems) == set(STEMS) and t.frames == 3 * RATE for t in tracks)
    assert not any(t.problems for t in tracks)


def test_existing_songs_stay_and_the_others_are_made(tmp_path: Path) -> None:
    arguments = [str(tmp_path), "--songs", "1", "--seconds", "2"]
    CliRunner().invoke(main, arguments)
    first = tmp_path / "song-0000" / "drums.flac"
    before = first.stat().st_mtime_ns
    assert CliRunner().invoke(main, [*arguments[:2], "2", *arguments[3:]]).exit_code == 0
    assert first.stat().st_mtime_ns == before
    assert (tmp_path / "song-0001" / "vocals.flac").exists()


def test_a_missing_soundfont_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [str(tmp_path / "out"), "--font", str(tmp_path / "no.sf2")])
    assert result.exit_code == 1 and "no such file" in result.output


def test_a_song_depends_on_name_and_seed() -> None:
    one, same = (make_song("a", 2, Materials(), 3) for _ in range(2))
    other = make_song("a", 2, Materials(), 4)
    assert all(np.array_equal(one[s], same[s]) for s in STEMS)
    assert not all(np.array_equal(one[s], other[s]) for s in STEMS)
    assert seed_of("a", 1) != seed_of("b", 1) != seed_of("b", 2)


@pytest.mark.parametrize("seed", range(4))
def test_a_song_is_mixed_like_a_record(seed: int) -> None:
    stems = make_song("mix", 6, Materials(), seed)
    assert all(a.shape == (2, 6 * RATE) and a.dtype == np.float32 for a in stems.values())
    assert all(np.isfinite(a).all() for a in stems.values())
    assert np.abs(sum(stems.values())).max() <= 0.9701
    assert effects.rms(stems["drums"]) > 0.005


def test_a_solo_leaves_the_other_stems_silent() -> None:
    part = Part("bass", 33, (Note(0.1, 1.0, 40, 100), Note(1.2, 0.5, 45, 100)))
    stems = render(Song("solo", 2.0, (part,)), Materials(), _rng())
    assert effects.rms(stems["bass"]) > 0.02
    assert all(not stems[s].any() for s in ("drums", "other", "vocals"))


# composing


@pytest.mark.parametrize("seed", range(12))
def test_composed_songs_have_all_parts_within_their_time(seed: int) -> None:
    song = compose.compose("x", 20, [], _rng(seed))
    assert {"drums", "bass", "other"} <= {p.stem for p in song.parts}
    notes = [n for p in song.parts for n in p.notes]
    assert all(0 <= n.start_s < 20 and n.start_s + n.length_s <= 20.001 for n in notes)
    assert all(0 <= n.pitch <= 127 and 1 <= n.velocity <= 127 for n in notes)
    bass = [n.pitch for p in song.parts if p.stem == "bass" for n in p.notes]
    assert bass and max(bass) < 70


def test_every_pattern_is_one_bar_of_known_symbols() -> None:
    for style in styles.STYLES.values():
        assert style.tempo[0] < style.tempo[1]
        assert all(len(p) == 16 and set(p) <= set("RFTSOA-.") for p in style.bass_patterns)
        assert all(len(p) == 16 and set(p) <= set("#-.") for p in style.chord_patterns)
        assert all(len(p) == 16 and set(p) <= set("#x.") for beat in style.beats for p in beat.values())
    assert all(len(p) == 16 and set(p) <= set("#-.") for p in styles.MELODY_RHYTHMS)


def test_the_scale_repeats_every_octave() -> None:
    chart = compose.ChordChart(0.1, 0, styles.MAJOR, (0,), 0.0)
    assert [chart.pitch(d, 60) for d in (0, 1, 2, 7, -1)] == [60, 62, 64, 72, 59]


def test_a_take_is_brought_to_the_tempo_and_repeated(tmp_path: Path) -> None:
    notes = tuple(Note(i * 0.5, 0.1, 36, 100) for i in range(8))  # two bars at 120
    midi.write_part(tmp_path / "1_rock_120_beat.mid", Part("drums", 0, notes))
    played = compose.drum_take(tmp_path / "1_rock_120_beat.mid", 1.0, 20.0, _rng())  # at 60
    starts = [n.start_s for n in played]
    assert len(starts) == 16 + 4 and np.allclose(np.diff(starts[:4]), 1.0, atol=0.01)


def test_an_arrangement_keeps_what_belongs_to_a_stem(tmp_path: Path) -> None:
    path = tmp_path / "song.mid"
    midi.write_part(path, Part("other", 34, tuple(Note(i, 0.5, 40, 90) for i in range(30))))
    song = compose.arrange(path, "x", 10, _rng())
    assert {p.stem for p in song.parts} == {"bass", "vocals"}


# MIDI

notes_lists = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(1, 900), st.integers(0, 127), st.integers(1, 127)),
    min_size=1,
    max_size=30,
    unique_by=lambda n: n[2],
)


@given(notes_lists)
def test_midi_survives_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, ticks: list[tuple]
) -> None:
    path = tmp_path_factory.mktemp("midi") / "x.mid"
    notes = tuple(Note(s / 960, n / 960, p, v) for s, n, p, v in ticks)
    midi.write_part(path, Part("other", 5, notes))
    (key, found), *rest = midi.read_channels(path).items()
    assert key == (0, 5) and not rest
    rows = [
        sorted((n.pitch, round(n.start_s * 960, 6), round(n.length_s * 960, 6), n.velocity) for n in ns)
        for ns in (found, notes)
    ]
    assert rows[0] == rows[1]


def test_tempo_changes_and_running_status_are_followed(tmp_path: Path) -> None:
    track = (
        b"\x00\xff\x51\x03\x0f\x42\x40"  # a quarter is one second
        b"\x00\x90\x3c\x40\x60\x3c\x00"  # C for one quarter, its end by running status and velocity 0
        b"\x00\xff\x51\x03\x07\xa1\x20\x60\x90\x3e\x40\x60\x80\x3e\x00"  # half a second; D after a quarter
        b"\x00\xf0\x02\x01\xf7\x00\xff\x2f\x00"
    )
    header = b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x00\x60"
    (tmp_path / "x.mid").write_bytes(header + b"MTrk" + len(track).to_bytes(4, "big") + track)
    notes = midi.read_channels(tmp_path / "x.mid")[0, 0]
    assert [(n.start_s, n.length_s, n.pitch) for n in notes] == [(0, 1, 60), (1.5, 0.5, 62)]


@pytest.mark.parametrize(
    "data", [b"", b"RIFF....", b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x00\x60MTrk\x00\x00\x00\x02\x00\x90"]
)
def test_damaged_midi_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.mid").write_bytes(data)
    with pytest.raises(InputError):
        midi.read_channels(tmp_path / "x.mid")


# sounds


@pytest.mark.parametrize("stem", STEMS)
def test_formulas_sound_where_there_are_notes(stem: str) -> None:
    pitch = 38 if stem == "drums" else 57
    audio = tones.play(Part(stem, 0, (Note(0.5, 0.4, pitch, 110),)), 2.0, _rng(1))
    assert not audio[: RATE // 2].any()
    assert np.abs(audio[RATE // 2 : RATE]).max() > 0.01
    assert np.isfinite(audio).all()


@pytest.mark.parametrize("pitch", [45, 57, 69])
def test_tones_and_voices_sing_in_tune(pitch: int) -> None:
    for player in (tones.Tone(_rng(2)), tones.Singer(_rng(2))):
        heard = sampler.fundamental_hz(player.play(Note(0, 1.0, pitch, 100))[RATE // 4 :])
        cents = 1200 * np.log2(heard / tones.frequency_hz(pitch))
        assert abs((cents + 600) % 1200 - 600) < 60


def _recorded(folder: Path, names: dict[str, float]) -> None:
    folder.mkdir(parents=True)
    for name, hz in names.items():
        soundfile.write(folder / f"{name}.wav", _sine(hz, 0.8).T, RATE)


def test_recorded_notes_are_found_tuned_and_played(tmp_path: Path) -> None:
    # names an octave too high, as some libraries count
    _recorded(
        tmp_path / "n", {"a5_f": 440.0, "c5_f": 261.63, "e5_f": 329.63, "gb5_f": 369.99, "noise": 100.0}
    )
    found = sampler.find_instrument(tmp_path / "n")
    assert found is not None and sorted(found.sounds) == [60, 64, 66, 69]
    audio = sampler.play(Part("bass", 0, (Note(0, 0.7, 71, 127),)), 1.0, found.play, _rng())
    assert sampler.fundamental_hz(audio[0]) == pytest.approx(tones.frequency_hz(71), rel=0.01)


def test_three_pitches_are_no_instrument(tmp_path: Path) -> None:
    _recorded(tmp_path / "n", {"a4_f": 440.0, "c4_f": 261.63, "e4_f": 329.63})
    assert sampler.find_instrument(tmp_path / "n") is None


def test_hits_are_recognised_by_name(tmp_path: Path) -> None:
    _recorded(tmp_path / "kit", {"bd_1": 60, "sd_2": 200, "hh_3": 5000, "loop_hat_4": 300})
    kit = sampler.find_kit([tmp_path / "kit"])
    assert {36, 38, 42} <= set(kit.sounds) and 46 not in kit.sounds
    assert all(len(paths) == 1 for paths in kit.sounds.values())
    assert kit.chosen(_rng()).play(Note(0, 1, 99, 100), _rng()).shape == (2, 0)


@pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not SOUNDFONT.exists(), reason="needs fluidsynth and FluidR3_GM.sf2"
)
def test_a_soundfont_plays_a_part() -> None:
    part = Part("other", 0, (Note(0.5, 0.5, 69, 100),))
    audio = soundfont.play(part, 1.5, SOUNDFONT)
    assert audio.shape == (2, int(1.5 * RATE))
    assert np.abs(audio[:, : int(0.45 * RATE)]).max() < 1e-3
    heard = sampler.fundamental_hz(audio[0, RATE // 2 :])
    assert heard == pytest.approx(440, rel=0.01)


def test_a_broken_soundfont_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match="fluidsynth"):
        soundfont.play(Part("other", 0, (Note(0, 1, 60, 100),)), 1.0, tmp_path / "x.sf2")


# voices


def test_phrases_are_cut_at_pauses() -> None:
    sound, pause = _noise(1.0), np.zeros((2, RATE // 2), np.float32)
    lines = voices.phrases(np.concatenate([pause, sound, pause, sound[:, : RATE // 2], pause], 1))
    assert [round(line.shape[1] / RATE, 1) for line in lines] == [1.0, 0.5]
    assert voices.phrases(np.zeros((2, RATE), np.float32)) == []
    assert max(line.shape[1] for line in voices.phrases(_noise(3.0), longest_s=1)) <= 1.1 * RATE


def test_pitch_and_tempo_change_independently() -> None:
    pytest.importorskip("python_stretch")
    audio = voices.pitch_shifted(_sine(220, 2.0), 12, 1.0)
    assert sampler.fundamental_hz(audio[0, RATE // 2 :]) == pytest.approx(440, rel=0.02)
    slower = voices.pitch_shifted(_sine(220, 2.0), 0, 0.5)
    assert slower.shape[1] == pytest.approx(4 * RATE, rel=0.01)
    assert voices.varispeed(_sine(220, 1.0), 2.0).shape[1] == pytest.approx(RATE / 2, abs=2)


def test_lines_are_laid_out_over_the_song() -> None:
    out = voices.lay_out([_noise(1.0)], 12, _rng())
    assert out.shape == (2, 12 * RATE) and 0.3 < (np.abs(out).max(0) > 0).mean() < 1
    assert not voices.lay_out([], 2, _rng()).any()


# effects


def test_level_sets_the_rms() -> None:
    assert 20 * np.log10(effects.rms(effects.level(_noise(2.0), -20))) == pytest.approx(-20, abs=0.01)
    assert not effects.level(np.zeros((2, 100), np.float32), -20).any()


def test_the_equaliser_hits_its_points() -> None:
    for hz, gain_db in ((100, -12), (1000, 0), (8000, 6)):
        out = effects.filtered(_sine(hz, 1.0), {50: -12, 200: -12, 800: 0, 2000: 0, 6000: 6, 20000: 6})
        measured = 20 * np.log10(out[0, 5000:-5000].std() / _sine(hz, 1.0)[0, 5000:-5000].std())
        assert measured == pytest.approx(gain_db, abs=0.1)


def test_convolution_is_convolution() -> None:
    audio, impulse = _noise(0.1), _noise(0.01, seed=1)
    exact = np.stack([np.convolve(a, i)[: audio.shape[1]] for a, i in zip(audio, impulse, strict=True)])
    assert np.abs(effects.convolved(audio, impulse) - exact).max() < 1e-5


def test_the_compressor_brings_peaks_down_by_its_ratio() -> None:
    loud = effects.compressed(_sine(1000, 1.0, 1.0), -20, 4, 0.1)
    quiet = effects.compressed(_sine(1000, 1.0, 0.05), -20, 4, 0.1)
    assert 20 * np.log10(np.abs(loud).max()) == pytest.approx(-15, abs=0.2)
    assert np.abs(quiet).max() == pytest.approx(0.05, rel=0.01)


@pytest.mark.parametrize(
    "effect",
    [
        lambda a: effects.saturated(a, 10),
        lambda a: effects.room(a, 0.3, 0.5, _rng()),
        lambda a: effects.echo(a, 0.1, 0.5),
        lambda a: effects.doubled(a, _rng()),
        lambda a: effects.widened(a, 0.2),
        lambda a: effects.random_eq(a, _rng()),
    ],
)
def test_effects_leave_length_input_and_silence_alone(effect) -> None:
    audio = _noise(0.7)
    before = audio.copy()
    out = effect(audio)
    assert out.shape == audio.shape and out.dtype == np.float32 and np.isfinite(out).all()
    assert np.array_equal(audio, before) and not np.array_equal(out, audio)
    assert not effect(np.zeros((2, RATE), np.float32)).any()


def test_no_width_is_mono() -> None:
    left, right = effects.widened(_noise(0.1), 0)
    assert np.array_equal(left, right)


# materials


@pytest.mark.slow
def test_held_out_and_training_material_share_nothing(shared_data: Path) -> None:
    samples, album = shared_data / "clean-samples", shared_data / "everything-is-free-cc0"
    train, held_out = (find_materials([], samples, album, side) for side in (False, True))
    for kind in ("takes", "songs", "loops", "singers", "speakers"):
        ours, theirs = set(getattr(train, kind)), set(getattr(held_out, kind))
        assert ours and theirs and not ours & theirs
    assert [t.name for t in held_out.album] == ["3.Sodium"] and len(train.album) == 6
    assert is_held_out("3.Sodium") and not is_held_out("2.Lithium")

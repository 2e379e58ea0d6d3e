"""Preparation of tiny's training: what is missing, the album's stems, voices and validation songs."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import prepare
from measure_songs import Sound, share_db
from songmaker.effects import RATE, Audio
from songmaker.materials import Materials
from stemsplit.datasets.tracks import Track, find_tracks

KINDS = ("album", "singing", "speech", "guitars", "basses")


def sine(hz: float, rate: int = RATE, seconds: float = 2.0) -> np.ndarray:
    return 0.2 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)


def album(folder: Path, song: str, files: dict[str, tuple[str, np.ndarray, int]]) -> Track:
    """Write a song of the album from a stem, samples [T] and a rate by file name; return it as a track."""
    (folder / song).mkdir(parents=True)
    stems: dict[str, list[str]] = {}
    for name, (stem, samples, rate) in files.items():
        soundfile.write(folder / song / name, np.stack([samples] * 2, 1), rate, subtype="FLOAT")
        stems.setdefault(stem, []).append(name)
    (folder / "stems.json").write_text(json.dumps({song: stems}))
    (track,) = find_tracks(folder, sample_rate=RATE)
    return track


def level(audio: Audio, hz: float) -> float:
    """Return the amplitude of a sine in the left channel, away from the ends."""
    middle = audio[0, RATE // 2 : RATE // 2 + RATE]
    return float(2 * abs(np.exp(-2j * np.pi * hz * np.arange(RATE) / RATE) @ middle) / RATE)


@pytest.mark.parametrize(("song", "bass"), [("1.Hydrogen", 0.0), ("2.Lithium", 0.2)])
def test_the_bass_inside_the_synthesiser_is_taken_out(tmp_path: Path, song: str, bass: float) -> None:
    files = {"x MINILOGUE SYNTH.wav": ("other", sine(80) + sine(1000), RATE)}
    files["x BEEPS.wav"] = ("other", sine(100), RATE)
    other = prepare.album_stems(album(tmp_path, song, files))["other"]
    assert level(other, 80) == pytest.approx(bass, abs=1e-3)
    assert level(other, 1000) == pytest.approx(0.2, abs=1e-3)
    assert level(other, 100) == pytest.approx(0.2, abs=2e-3)


def test_pad_and_bass_together_are_left_out(tmp_path: Path) -> None:
    files = {"PAD + BASS.wav": ("other", sine(500), RATE), "KEYS.wav": ("other", sine(800), RATE)}
    files["x PAD + BASS.wav"] = ("bass", sine(60), RATE)
    stems = prepare.album_stems(album(tmp_path, "4.Potassium", files))
    other = stems["other"]
    assert list(stems) == ["other"]
    assert level(other, 500) < 1e-4 and level(other, 800) == pytest.approx(0.2, abs=1e-3)


def test_files_of_different_rates_stay_in_time_and_in_tune(tmp_path: Path) -> None:
    files = {f"{rate}.wav": ("drums", sine(440, rate), rate) for rate in (24_000, 44_100, 48_000)}
    drums = prepare.album_stems(album(tmp_path, "5.Rubidium", files))["drums"]
    assert drums.shape == (2, 2 * RATE)
    assert level(drums, 440) == pytest.approx(0.6, abs=2e-3)  # in phase


def test_loud_stems_keep_their_balance(tmp_path: Path) -> None:
    loud, soft = np.full((2, 100), 2.0, np.float32), np.full((2, 100), -0.5, np.float32)
    prepare.write(tmp_path / "song", {"drums": loud, "bass": soft})
    found = [soundfile.read(tmp_path / f"song/{stem}.flac")[0] for stem in ("drums", "bass")]
    assert np.allclose(found[0], 1, atol=1e-3) and np.allclose(found[1], -0.25, atol=1e-3)
    prepare.write(tmp_path / "song", {"drums": 0 * loud})  # kept
    assert soundfile.read(tmp_path / "song/drums.flac")[0].any()


def complete(folder: Path) -> list[str]:
    """Make every material that is asked for; return the arguments that name them."""
    for name in prepare.FOLDERS:
        (folder / "samples" / name).mkdir(parents=True)
        (folder / "samples" / name / "LICENSE.txt").write_text("CC0")
    stems: dict[str, Any] = {song: {"drums": ["drums.wav"]} for song in prepare.SONGS}
    for song in prepare.SONGS:
        (folder / "album" / song).mkdir(parents=True)
        soundfile.write(folder / "album" / song / "drums.wav", np.stack([sine(200)] * 2, 1), RATE)
    (folder / "album/stems.json").write_text(json.dumps(stems))
    (folder / "font.sf2").touch()
    return [f"--samples={folder}/samples", f"--album={folder}/album", f"--font={folder}/font.sf2"]


def test_everything_that_is_missing_is_said_at_once(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out"), *complete(tmp_path), "--check"]
    assert CliRunner().invoke(prepare.main, arguments).exit_code == 0
    (tmp_path / "font.sf2").unlink()
    (tmp_path / "samples/bass_meat/LICENSE.txt").unlink()
    (tmp_path / "album/stems.json").write_text(json.dumps({"2.Lithium": {"drums": ["drums.wav"]}}))
    said = CliRunner().invoke(prepare.main, arguments)
    assert said.exit_code == 1
    for part in ("bass_meat: no such folder, or empty", "no song 3.Sodium", "font.sf2: no such file"):
        assert part in said.output
    assert "Lithium" not in said.output and not (tmp_path / "out").exists()


def test_folders_that_are_missing_take_a_line_each(tmp_path: Path) -> None:
    arguments = [str(tmp_path / "out"), "--check"]
    arguments += [f"--{name}={tmp_path}/{name}" for name in ("samples", "album", "font")]
    said = CliRunner().invoke(prepare.main, arguments)
    assert said.exit_code == 1
    first, *lines = said.output.splitlines()
    assert first == "Error: materials are missing:"
    reasons = ("samples: no such folder, or empty", "album: no album", "font: no such file")
    assert lines == [f"  {tmp_path}/{reason}" for reason in reasons]


@pytest.mark.parametrize("check", [False, True])
def test_one_command_prepares_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: bool
) -> None:
    done: list[object] = []

    def run(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        done.append((command[1:], cwd, env["OMP_NUM_THREADS"]))
        return subprocess.CompletedProcess(command, 3)

    monkeypatch.setattr(prepare.subprocess, "run", run)
    monkeypatch.setattr(prepare, "prepare", lambda *_: done.append("prepared") or ())
    arguments = [str(tmp_path / "out"), *complete(tmp_path), "--train", *["--check"] * check]
    said = CliRunner().invoke(prepare.main, arguments)
    if check:
        assert said.exit_code == 0 and not done
    else:
        train = ["-m", "stemsplit", "train", "--config", str(prepare.RECIPE), "--resume"]
        assert done == ["prepared", (train, tmp_path / "out", "1")] and said.exit_code == 3
        assert prepare.RECIPE.is_file()


def test_data_sets_are_made_without_what_is_held_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    complete(tmp_path)
    sounds = {"vocals_dagstuhl/quartet": 6.0, "vocals_emvd/Singer2_Clear": 6.0, "vocals_emvd/short": 2.0,
              "vocals_choir_misc/crowd": 8.0,
              "voice_speech/reader": 7.0, "other_sectoid/metal": 6.0}  # fmt: skip
    for name, seconds in sounds.items():
        samples = sine(300, 22_050, seconds)
        soundfile.write(tmp_path / "samples" / f"{name}.ogg", samples, 22_050)
    monkeypatch.setattr(prepare, "make_songs", short_songs)
    out = tmp_path / "out"
    list(prepare.prepare(out, tmp_path / "samples", tmp_path / "album", [], 9))
    made = {kind: sorted(f.name for f in (out / kind).iterdir()) for kind in KINDS}
    assert made["album"] == sorted(set(prepare.SONGS) - {"3.Sodium"})
    assert made["singing"] == ["quartet"] and made["speech"] == ["reader"] and made["guitars"] == ["metal"]
    assert [f.name for f in (out / "guitars/metal").iterdir()] == ["other.flac"]
    assert made["basses"] == ["song-0000"]
    assert [f.name for f in (out / "basses/song-0000").iterdir()] == ["bass.flac"]
    info = soundfile.info(out / "singing/quartet/vocals.flac")
    assert (info.samplerate, info.channels, info.frames) == (RATE, 2, 6 * RATE)
    stereo, mono = (
        soundfile.read(out / f / "song-0007/drums.flac")[0] for f in ("songs-valid", "songs-valid-mono")
    )
    assert np.allclose(mono[:, 0], stereo.mean(1), atol=1e-4) and (mono[:, 0] == mono[:, 1]).all()
    assert len(list((out / "songs").iterdir())) == 9


def test_electronic_basses_are_low_lines_of_two_kinds() -> None:
    sounds = [Sound(prepare.electronic_bass(f"song-{i}", 8.0, Materials())) for i in range(12)]
    low = [share_db(sound, 30, 250) for sound in sounds]
    overtones = [share_db(sound, 500, 2000) for sound in sounds]
    assert min(low) > -4
    assert min(overtones) < -30 and max(overtones) > -15  # 808s and bright synthesisers


def short_songs(out: Path, names: Sequence[str], *rest: object, seed: int) -> Iterator[Path]:
    for name in names:
        noise = 0.1 * np.random.default_rng(seed).standard_normal((2, 500)).astype(np.float32)
        prepare.write(out / name, {"drums": noise})
        yield out / name

"""Statistics of songs: known sounds give known figures, and the table compares folders."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

import make_songs
import measure_songs
from measure_songs import RATE, Sound, crest_db, loud_low_end, share_db, side_db
from songmaker.effects import Audio


def tone(hz: float, amplitude: float, seconds: float = 4.0) -> Audio:
    """Return a sine, [1, T]."""
    return np.asarray(amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE), "f4")[None]


def test_the_share_of_a_band_is_that_of_its_energy() -> None:
    audio = np.repeat(tone(100, 0.5) + tone(1000, 0.05), 2, 0)
    assert share_db(Sound(audio), 500, 2000) == pytest.approx(-20.04, abs=0.05)
    assert share_db(Sound(audio), 20, 150) == pytest.approx(-0.04, abs=0.05)


def test_the_side_is_compared_with_the_middle_inside_its_band() -> None:
    middle, side = tone(300, 0.5) + tone(3000, 0.5), tone(3000, 0.05)
    sound = Sound(np.concatenate([middle + side, middle - side]))
    assert side_db(sound) == pytest.approx(-23.0, abs=0.1)
    assert side_db(sound, 500, 8000) == pytest.approx(-20.0, abs=0.1)
    assert side_db(sound, 100, 500) == -60
    assert side_db(Sound(middle)) == -60  # a mono file has no side


@pytest.mark.parametrize("share", [0.1, 0.25])
def test_peaks_and_the_time_of_a_loud_low_end(share: float) -> None:
    audio = np.repeat(tone(60, 0.5, 20.0), 2, 0)
    audio[:, int(share * audio.shape[1]) :] = 0
    assert crest_db(Sound(audio)) == pytest.approx(-10 * np.log10(share), abs=0.2)
    assert loud_low_end(Sound(audio)) == pytest.approx(100 * share, abs=1)


def test_the_table_has_a_column_for_each_folder(tmp_path: Path) -> None:
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for folder, seed in zip(folders, ("1", "2"), strict=True):
        arguments = [folder, "--songs", "2", "--seconds", "3", "--seed", seed]
        assert CliRunner().invoke(make_songs.main, arguments).exit_code == 0
    said = CliRunner().invoke(measure_songs.main, folders)
    assert said.exit_code == 0, said.output
    head, rule, *rows = said.output.splitlines()
    assert head.endswith("| real | `one` | `two` |") and rule.count("|") == 6
    assert len(rows) == len(measure_songs.STATISTICS) == 7
    crest = next(row for row in rows if "loudest 50 ms" in row).split(" | ")
    assert crest[2] == "11.2" and 0 < float(crest[3].split()[0]) < 25 and crest[3] != crest[4]


def test_silent_stems_count_for_nothing(tmp_path: Path) -> None:
    for name, bass in (("a", tone(1000, 0.3)), ("b", 0 * tone(1000, 0.3))):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "bass.wav", bass.T, RATE)
    values = measure_songs.measure(tmp_path)
    assert values[0] == pytest.approx([0.0], abs=1e-3) and values[1] == [-60.0]
    said = CliRunner().invoke(measure_songs.main, [str(tmp_path)]).output
    assert "| 0.0 (0.0 to 0.0) |" in said.replace("−0.0", "0.0") and said.count("| – |") == 5


def test_a_folder_without_songs_is_one_sentence(tmp_path: Path) -> None:
    said = CliRunner().invoke(measure_songs.main, [str(tmp_path)])
    assert said.exit_code == 1 and said.output.startswith("Error: ") and said.output.count("\n") == 1

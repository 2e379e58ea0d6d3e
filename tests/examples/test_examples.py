"""The example programs run and give what they describe."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(folder: Path, name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_module_of_ones_own_separates_an_array(tmp_path: Path) -> None:
    middle, sides = run(tmp_path, "own_module.py").splitlines()
    assert middle.startswith("middle (2, 480000)") and sides.startswith("sides (2, 480000)")


def test_a_recipe_of_three_models_runs_over_a_folder(tmp_path: Path) -> None:
    (tmp_path / "in/album").mkdir(parents=True)
    audio = 0.1 * np.random.default_rng(0).standard_normal((30_000, 2))
    for name in ("a.wav", "album/b.flac"):
        soundfile.write(tmp_path / "in" / name, audio, 44100)
    told = run(tmp_path, "recipe_over_folder.py", "in", "out").splitlines()
    assert [line.split()[0] for line in told] == ["done", "done"]
    found = sorted(
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.flac")
    )
    stems = ("band", "low_voices", "voices")
    assert found == [f"{song}/{stem}.flac" for song in ("a", "album/b") for stem in stems]
    band, _, voices = (soundfile.read(tmp_path / f"out/a/{stem}.flac")[0] for stem in stems)
    assert np.abs(band + voices - soundfile.read(tmp_path / "in/a.wav")[0]).max() < 1e-6
    again = run(tmp_path, "recipe_over_folder.py", "in", "out").splitlines()
    assert [line.split()[0] for line in again] == ["skipped", "skipped"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy_family.py"])
def test_a_family_in_one_file_trains_is_saved_and_runs(tmp_path: Path, name: str) -> None:
    assert run(tmp_path, name).strip() == "{'vocals': (2, 100000), 'other': (2, 100000)}"

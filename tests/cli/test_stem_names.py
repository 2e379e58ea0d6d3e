"""Checkpoints whose configuration names stems with capitals, spaces and dashes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from stemsplit import Separator, load_model, models
from tests.cli.conftest import Shell

ARGUMENTS = {
    "dim": 16,
    "depth": 1,
    "heads": 2,
    "dim_head": 8,
    "stereo": True,
    "stft_n_fft": 512,
    "stft_hop_length": 128,
    "stft_win_length": 512,
    "mask_estimator_depth": 2,
    "freqs_per_bands": [32, 96, 129],
}


def published(folder: Path, name: str, instruments: list[str]) -> str:
    """Write a random BS-RoFormer with its YAML file, as published; return its path for -m."""
    torch.manual_seed(0)
    own = {**ARGUMENTS, "num_stems": len(instruments)}
    network = models.build("bs_roformer", {**own, "stems": instruments, "segment_samples": 22050})
    torch.save(network.state_dict(), folder / f"{name}.ckpt")
    content = {
        "audio": {"chunk_size": 22050, "sample_rate": 44100},
        "model": own,
        "training": {"instruments": instruments, "target_instrument": None},
    }
    (folder / f"{name}.yaml").write_text(json.dumps(content))
    return f"{name}.ckpt"


@pytest.mark.parametrize(
    ("options", "outputs"),
    [
        ([], ["drums", "no_drum_bass", "no_reverb", "vocals"]),
        (["-s", "Vocals"], ["vocals"]),
        (["-s", "vocals"], ["vocals"]),
        (["-s", "No Reverb"], ["no_reverb"]),
        (["-s", "no_reverb,NO-REVERB"], ["no_reverb"]),
        (["-s", "no-drum bass", "--rest"], ["no_drum_bass", "no_no_drum_bass"]),
        (["--karaoke"], ["instrumental"]),
        (["-s", "drums", "--mix", "x=Vocals + no-reverb"], ["drums", "x"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_options_take_the_names_however_they_are_written(
    shell: Shell, options: list[str], outputs: list[str]
) -> None:
    shell.write("s.wav", seconds=0.3)
    model = published(shell.folder, "m", ["Vocals", "Drums", "No Reverb", "No Drum-Bass"])
    ran = shell("s.wav", "-m", model, *options)
    assert ran.code == 0, ran.err
    assert [f for f in shell.files() if f.startswith("stems/")] == [f"stems/s/{o}.wav" for o in outputs]


def test_a_name_that_the_model_lacks(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    model = published(shell.folder, "m", ["Vocals", "No Reverb"])
    ran = shell("s.wav", "-m", model, "-s", "Piano")
    assert ran.code == 2
    assert "no stem named 'Piano'" in ran.err and "choose from vocals, no_reverb" in ran.err


def test_a_model_with_a_complement_of_its_own(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    model = published(shell.folder, "m", ["Vocals", "No Vocals"])
    ran = shell("s.wav", "-m", model, "--rest")
    assert ran.code == 2 and "--rest: two outputs would be called no_vocals" in ran.err
    assert shell("s.wav", "-m", model, "-s", "vocals", "--rest").code == 0


def test_two_names_that_are_one_are_refused(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    (shell.folder / "m.yaml").write_text("family: openunmix\narguments: {targets: [Vocals, vocals]}\n")
    torch.save({"x": torch.zeros(1)}, shell.folder / "m.pth")
    ran = shell("s.wav", "-m", "m.pth")
    assert ran.code == 4 and "not 'Vocals', 'vocals'" in ran.err


def test_python_takes_and_gives_the_same_names(tmp_path: Path) -> None:
    model = tmp_path / published(tmp_path, "m", ["Vocals", "No Reverb"])
    mix = np.random.default_rng(0).standard_normal((2, 9000)).astype(np.float32)
    whole = Separator(model).separate(mix, 44100)
    assert list(whole) == ["vocals", "no_reverb"]
    for typed in ("No Reverb", "no_reverb", "NO-REVERB"):
        found = Separator(model, stems=[typed]).separate(mix, 44100)
        assert list(found) == ["no_reverb"]
        np.testing.assert_allclose(found["no_reverb"], whole["no_reverb"], atol=1e-6)


def test_a_bag_joins_members_that_write_a_stem_differently(tmp_path: Path) -> None:
    for name, stems in (("a", ["Vocals", "Other"]), ("b", ["vocals", "other"])):
        published(tmp_path, name, stems)
        (tmp_path / f"{name}.ckpt").rename(tmp_path / f"{name}.th")
    bag = tmp_path / "bag.yaml"
    bag.write_text("models: [a, b]\n")
    assert load_model(bag, stems=["VOCALS"]).stems == ("vocals",)


def test_an_open_unmix_with_capitals_narrows(tmp_path: Path) -> None:
    own = {"targets": ["Vocals", "Back Drums"], "niter": 0, "hidden_size": 8, "segment_s": 0.2}
    torch.manual_seed(0)
    torch.save(models.build("openunmix", own).state_dict(), tmp_path / "m.pth")
    (tmp_path / "m.yaml").write_text(json.dumps({"family": "openunmix", "arguments": own}))
    mix = torch.randn(1, 2, 8820)
    whole, narrow = load_model(tmp_path / "m.pth"), load_model(tmp_path / "m.pth", stems=["back drums"])
    assert whole.stems == ("vocals", "back_drums") and narrow.stems == ("back_drums",)
    assert torch.allclose(narrow(mix)[:, 0], whole(mix)[:, 1], atol=1e-6)


def test_evaluation_finds_the_references_of_such_a_model(shell: Shell) -> None:
    model = published(shell.folder, "m", ["Vocals", "No Reverb"])
    for name, seconds in (("Vocals", 1.2), ("No Reverb", 0.7)):  # equal files would be one stem
        shell.write(f"set/song/{name}.wav", seconds=seconds)
    ran = shell("evaluate", "--dataset", "set", "-m", model, "--no-bss", "--json")
    assert ran.code == 0, ran.err
    (track,) = json.loads(ran.out)["tracks"]
    assert set(track["stems"]) == {"vocals", "no_reverb"}


def test_karaoke_of_a_model_of_vocals_alone(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.3)
    model = published(shell.folder, "m", ["Vocals"])
    assert shell("s.wav", "-m", model, "--karaoke", "--bit-depth", "32f").code == 0
    assert shell("s.wav", "-m", model, "--bit-depth", "32f").code == 0
    mix, vocals, rest = (
        shell.read(name)[0] for name in ("s.wav", "stems/s/vocals.wav", "stems/s/instrumental.wav")
    )
    np.testing.assert_allclose(vocals + rest, mix, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "typed", "file"),
    [
        ("noreverb", "dry", "no_reverb"),
        ("dry", "No Reverb", "dry"),
        ("hh", "Hi-Hat", "hihat"),
        ("bombo", "kick", "kick"),
        ("bombo", "bombo", "kick"),
        ("redoblante", "Redoblante", "snare"),
        ("platillos", "cymbals", "cymbals"),
    ],
)
def test_synonyms_and_english_names_of_files(shell: Shell, given: str, typed: str, file: str) -> None:
    shell.write("s.wav", seconds=0.1)
    ran = shell("s.wav", "-m", published(shell.folder, "m", [given, "toms"]), "-s", typed, "-P")
    assert ran.code == 0 and ran.out.decode().split() == [f"stems/s/{file}.wav"], ran.err


@pytest.mark.parametrize(
    ("layout", "files"),
    [
        ("demucs", ["stems/classic/s/no_vocals.wav", "stems/classic/s/vocals.wav"]),
        ("uvr", ["stems/s_(Instrumental)_classic.wav", "stems/s_(Vocals)_classic.wav"]),
    ],
)
def test_layouts_of_other_programs(shell: Shell, layout: str, files: list[str]) -> None:
    shell.write("s.wav", seconds=0.1)
    assert shell("s.wav", "-m", "classic", "-s", "vocals", "--rest", "--layout", layout).code == 0
    assert [name for name in shell.files() if name.startswith("stems/")] == files
    assert shell("s.wav", "--layout", layout, "--template", "{stem}.{ext}").code == 2


def test_karaoke_lead_is_a_recipe_of_the_registry(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    ran = shell("s.wav", "--karaoke-lead", "--offline")
    assert ran.code == 4 and "karaoke_bs_roformer_anvuew" in ran.err
    for other in (["-m", "classic"], ["--karaoke"], ["-s", "vocals"]):
        assert shell("s.wav", "--karaoke-lead", *other).code == 2


def test_the_best_model_is_chosen_and_said(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    ran = shell("s.wav", "-n", "-m", "best:vocals", "--license", "MIT")
    assert ran.code == 0, ran.err
    first, *_, last = ran.err.splitlines()
    name = first.removeprefix("note: best:vocals is ").partition(":")[0]
    assert last.startswith(f"1 to do with {name};") and "licence or memory left out" in first
    assert shell("s.wav", "-n", "-m", "best:theremin").code == 2
    then = shell("s.wav", "-n", "-m", "classic", "--then", "vocals=best:drums")
    assert then.code == 0, then.err
    assert "note: best:drums is " in then.err


@pytest.mark.parametrize(
    "words",
    [
        ("tune", "best:drums"),
        ("tune", "-m", "best:drums"),
        ("evaluate", "--dataset", ".", "-m", "classic", "-m", "best:drums"),
        ("train", "check-data", ".", "-m", "best:drums"),
    ],
)
def test_every_command_knows_the_best_model(shell: Shell, words: tuple[str, ...]) -> None:
    shell.write("song/drums.wav", seconds=0.1)
    ran = shell(*words, env={"STEMSPLIT_OFFLINE": "1"})
    assert (
        ran.code == 4 and "note: best:drums is " in ran.err and "not downloaded yet, and offline" in ran.err
    )


@pytest.mark.parametrize("words", [("tune", ""), ("serve", ""), ("train", "check-data", "")])
def test_an_empty_name_is_refused(shell: Shell, words: tuple[str, ...]) -> None:
    ran = shell(*words)
    assert ran.code == 2 and ("no such file or folder" in ran.err or "is empty" in ran.err)

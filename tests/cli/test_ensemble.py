"""Ensembles: several -m."""

import json

import numpy as np
import pytest
import soundfile
import torch

from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.load import load_model
from stemsplit.models.network import Network
from tests.cli.conftest import Shell

BOTH = ("-m", "tiny", "-m", "classic")
TOLD = "note: bass: from tiny and classic, blended by avg_wave\n"


def test_the_blend_of_two_models_is_written_and_skipped_the_next_time(shell: Shell) -> None:
    shell.write("a.wav", seconds=1.0)
    for model in ("tiny", "classic"):
        shell("a.wav", "-m", model, "-s", "bass", "-o", model, "--bit-depth", "32f")
    ran = shell("a.wav", *BOTH, "-s", "bass", "-o", "both", "--bit-depth", "32f", "--json")
    assert ran.code == 0 and ran.err.startswith(TOLD)
    assert json.loads(ran.out)["model"]["name"] == "tiny+classic"
    one, other, both = (
        soundfile.read(shell.folder / f"{name}/a/bass.wav")[0] for name in ("tiny", "classic", "both")
    )
    assert np.abs(both - (one + other) / 2).max() < 1e-6
    again = shell("a.wav", *BOTH, "-s", "bass", "-o", "both", "--bit-depth", "32f")
    assert again.code == 0 and "0 done, 1 skipped" in again.err
    for change in (("--blend", "max_fft"), ("--weights", "1,2"), ("-m", "tiny")):
        other_way = shell("a.wav", *BOTH, *change, "-s", "bass", "-o", "both", "--bit-depth", "32f")
        assert other_way.code == 1 and "exists, and " in other_way.err, change


def test_other_weights_of_an_ensembles_model_are_not_the_same(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    for factor in (1.0, 0.5):
        network = load_model("tiny")
        assert isinstance(network, Network)
        with torch.no_grad():
            next(network.parameters()).mul_(factor)
        save_package(shell.folder / "own.safetensors", network)
        ran = shell("a.wav", "-m", "own.safetensors", "-m", "classic", "-s", "bass")
    assert ran.code == 1 and "exists, and sha256 was" in ran.err


def test_into_a_pipe(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.5)
    ran = shell("a.wav", *BOTH, "-s", "bass", "-o", "-", "--blend", "median_fft")
    assert ran.code == 0 and len(ran.out) == 58 + 22050 * 2 * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*BOTH, "--weights", "1"), "--weights 1: 2 models need 2 weights"),
        ((*BOTH, "--weights", "nan,1"), "--weights nan,1: must not be negative, nor all zero"),
        ((*BOTH, "--blend", "min_fft", "--weights", "1,2"), "--weights: min_fft doesn't use weights"),
        ((*BOTH, "--weights", "1,x"), "'1,x': must be numbers with commas between them"),
        ((*BOTH, "--blend", "mean"), "no blend named 'mean'"),
        ((*BOTH, "--blend", "ensemble_wav"), "--blend ensemble_wav: needs the whole track in memory"),
        (("-m", "tiny", "--blend", "avg_fft"), "--blend: needs several models"),
        (("-m", "tiny", "--weights", "1"), "--weights: needs several models"),
        ((*BOTH, "-s", "piano"), "no stem named 'piano'"),
        (("-m", "tiny", "-m", "clasic"), "no model named 'clasic'"),
    ],
)
def test_wrong_use_is_one_line_before_the_work(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", *arguments)
    assert ran.code == 2
    first, *hint = ran.err.splitlines()
    assert said in first and len(hint) < 2
    assert shell.files() == ["a.wav"]


def test_the_environment_has_one_model_per_line(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", "-s", "bass", "-n", env={"STEMSPLIT_MODEL": "tiny\nclassic"})
    assert ran.code == 0 and "1 to do with tiny+classic" in ran.err

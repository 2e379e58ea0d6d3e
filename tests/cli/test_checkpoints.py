"""Unusable checkpoints and configurations: one line, exit code 4."""

import hashlib
import json

import pytest
import torch

from tests.cli.conftest import Shell
from tests.cli.test_stem_names import published
from tests.hub.test_placeholders import POINTER


def test_from_outside(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    (shell.folder / "m.safetensors").write_text(POINTER)
    ran = shell("s.wav", "-m", "m.safetensors")
    assert ran.code == 4
    assert ran.err == (
        "stemsplit: error: m.safetensors: a Git LFS pointer, not the file itself\n"
        "  hint: get the file with: git lfs pull\n"
    )


@pytest.mark.parametrize("key", ["depth", "mask_estimator_depth", "heads", "stft_n_fft"])
def test_a_configuration_of_a_network_without_end(key: str, shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    model = published(shell.folder, "m", ["Vocals", "Other"])
    content = json.loads((shell.folder / "m.yaml").read_text())
    content["model"][key] = 10**9
    (shell.folder / "m.yaml").write_text(json.dumps(content))
    ran = shell("s.wav", "-m", model)
    assert ran.code == 4 and ran.err.count("\n") == 1
    assert f"can't be built as a bs_roformer ({key} 1000000000: no network has more than" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fft": -1}, "fft -1: must not be negative"),
        ({"components": 0}, "components 0: must be positive"),
        ({"fft": "x"}, "unsupported operand"),
    ],
)
def test_arguments_of_an_own_model_that_make_no_network(
    arguments: dict[str, object], said: str, shell: Shell
) -> None:
    shell.write("s.wav", seconds=0.1)
    entry = {"family": "nmf", "stems": ["drums", "other"], "sample_rate": 44100, "license": "MIT"}
    (shell.folder / "own.yaml").write_text(json.dumps({"models": {"mine": entry | {"arguments": arguments}}}))
    ran = shell("s.wav", "-m", "mine", env={"STEMSPLIT_REGISTRY": "own.yaml"})
    assert ran.code == 4 and ran.err.count("\n") == 1
    assert f"mine: can't be built as a nmf ({said}" in ran.err


def test_an_own_model_without_its_weights(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    entry = {"family": "bsrnn", "stems": ["vocals"], "sample_rate": 44100, "license": "MIT"}
    (shell.folder / "own.yaml").write_text(json.dumps({"models": {"mine": entry}}))
    ran = shell("s.wav", "-m", "mine", env={"STEMSPLIT_REGISTRY": "own.yaml"})
    assert ran.code == 4 and "error: mine: its entry names no files, but a bsrnn has weights\n" in ran.err


def test_the_error_about_an_argument_names_the_model_and_not_its_file(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    model = shell.folder / published(shell.folder, "m", ["Vocals", "Other"])
    entry: dict[str, object] = {"family": "bs_roformer", "stems": ["vocals", "other"], "sample_rate": 44100}
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    entry |= {"license": "MIT", "files": [{"path": str(model), "sha256": digest}]}
    entry["arguments"] = {"stft_hop_length": 0}
    (shell.folder / "own.yaml").write_text(json.dumps({"models": {"mine": entry}}))
    ran = shell("s.wav", "-m", "mine", env={"STEMSPLIT_REGISTRY": "own.yaml"})
    assert ran.code == 4 and ran.err.endswith(
        "error: mine: can't be built as a bs_roformer (stft_hop_length 0: must be positive)\n"
    )


def test_weights_that_are_nan(shell: Shell) -> None:
    shell.write("s.wav", seconds=0.1)
    model = published(shell.folder, "m", ["Vocals", "Other"])
    state = torch.load(shell.folder / model, weights_only=True)
    state["final_norm.gamma"][0] = float("nan")
    torch.save(state, shell.folder / model)
    for command in (["s.wav", "-m", model], ["models", "convert", model, "out.safetensors"]):
        ran = shell(*command)
        assert ran.code == 4 and ran.err.endswith(
            "m.ckpt: its weights are damaged: final_norm.gamma holds NaN or infinite values\n"
        )
    assert not any(name.startswith(("stems/", "out")) for name in shell.files())

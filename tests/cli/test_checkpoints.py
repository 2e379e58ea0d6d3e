"""Unusable checkpoints and configurations: one line, exit code 4."""

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

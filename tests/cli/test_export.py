"""stemsplit models convert --half, and export."""

import re

import onnx
import pytest

from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from tests.cli.conftest import Shell
from tests.models.test_contract import HTDEMUCS


@pytest.fixture
def model(shell: Shell) -> str:
    save_package(shell.folder / "m.safetensors", build("htdemucs", HTDEMUCS).eval())
    return "m.safetensors"


def test_half_of_a_download(shell: Shell, model: str) -> None:
    ran = shell("models", "convert", model, "half.safetensors", "--half")
    assert ran.code == 0
    found = re.fullmatch(r"m.safetensors -> half.safetensors \(agrees to (\d+\.\d) dB on noise\)\n", ran.err)
    assert found and 40 < float(found[1]) < 90
    sizes = [(shell.folder / name).stat().st_size for name in (model, "half.safetensors")]
    assert sizes[1] < 0.7 * sizes[0]  # the rest is the list of names, long for such a small network


@pytest.mark.parametrize("stft", ["inside", "outside"])
def test_an_export_says_how_well_it_agrees(shell: Shell, model: str, stft: str) -> None:
    ran = shell("models", "export", model, "m.onnx", "--stft", stft)
    assert ran.code == 0 and ran.out == b""
    found = re.fullmatch(r"m.safetensors -> m.onnx \(agrees to (\d+\.\d) dB, \w+ [\d.+\w]+\)\n", ran.err)
    assert found and float(found[1]) >= 90
    assert {"stemsplit.agreement_db", "stemsplit.stems"} <= {
        one.key for one in onnx.load(str(shell.folder / "m.onnx")).metadata_props
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny", "tiny.onnx"), "tiny is a band_unet; exported are htdemucs, hdemucs"),
        (("m.safetensors", "m.pt"), "m.pt: must end in .onnx"),
        (("htdemuks", "m.onnx"), "htdemucs"),
    ],
)
def test_what_is_not_exported(shell: Shell, model: str, arguments: tuple[str, ...], said: str) -> None:
    ran = shell("models", "export", *arguments)
    assert ran.code == 2 and said in ran.err
    assert not [name for name in shell.files() if name.endswith((".onnx", ".part"))]

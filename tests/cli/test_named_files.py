"""Files that options name: reports, scores, models."""

import json

import pytest

from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from tests.cli.conftest import Shell
from tests.models.test_contract import HTDEMUCS

BASS = ("-m", "classic", "-s", "bass")


@pytest.mark.parametrize("name", ["q/s/vocals.wav", "song2.WAV", "clip.stem.mp4", "linked"])
@pytest.mark.parametrize(
    "arguments",
    [("a.wav", *BASS, "--report"), ("evaluate", ".", ".", "--csv"), ("evaluate", ".", ".", "--html")],
)
def test_no_text_is_written_over_audio(shell: Shell, arguments: tuple[str, ...], name: str) -> None:
    shell.write("a.wav", seconds=0.2)
    (shell.folder / "linked").symlink_to("a.wav")
    (shell.folder / "q/s").mkdir(parents=True)
    before = shell.files()
    ran = shell(*arguments, name)
    assert ran.code == 2
    words = f"{arguments[-1]} {name}: is the name of an audio file or a film"
    assert ran.err.splitlines() == [f"stemsplit: error: {words}"]
    assert shell.files() == before


def test_a_report_is_not_written_over_an_input_without_a_suffix(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2).rename(shell.folder / "song")
    ran = shell("song", *BASS, "--report", "./song")
    assert ran.code == 2 and "--report ./song: is an input" in ran.err
    assert shell.files() == ["song"]


@pytest.mark.parametrize("option", ["--csv", "--html"])
@pytest.mark.parametrize(("name", "words"), [("-", "{} -: must be a file"), ("", "{}: is empty")])
def test_what_names_no_file(shell: Shell, option: str, name: str, words: str) -> None:
    ran = shell("evaluate", ".", ".", option, name)
    assert ran.code == 2 and words.format(option) in ran.err
    assert shell.files() == []


def test_a_report_on_stdout_is_that_of_json(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    ran = shell("a.wav", *BASS, "--report", "-")
    assert ran.code == 0
    assert [t["status"] for t in json.loads(ran.out)["tracks"]] == ["done"]
    again = shell("a.wav", *BASS, "--report", "-", "--json")
    assert [t["status"] for t in json.loads(again.out)["tracks"]] == ["skipped"]
    assert shell.files() == ["a.wav", "stems/a/bass.wav"]


@pytest.mark.parametrize("command", ["convert", "export"])
def test_a_model_is_written_over_only_where_that_is_asked_for(shell: Shell, command: str) -> None:
    out = "m.safetensors" if command == "convert" else "m.onnx"
    save_package(shell.folder / "m.safetensors", build("htdemucs", HTDEMUCS).eval())
    (shell.folder / "m.onnx").write_text("precious")
    before = (shell.folder / out).read_bytes()
    ran = shell("models", command, "m.safetensors", out)
    assert ran.code == 2
    assert ran.err.splitlines() == [f"stemsplit: error: {out}: exists", "  hint: --replace writes over it"]
    assert (shell.folder / out).read_bytes() == before
    assert shell("models", command, "m.safetensors", out, "--half", "--replace").code == 0
    assert (shell.folder / out).read_bytes() != before
    assert shell.files() == ["m.onnx", "m.safetensors"]

"""Help, completion, the manual page and the doctor."""

import json
import shutil
import subprocess
from typing import Any

import pytest

Shell = Any


@pytest.mark.parametrize("arguments", [(), ("separate",), ("models",), ("models", "list"), ("doctor",)])
def test_help(shell: Shell, arguments: tuple[str, ...]) -> None:
    ran = shell(*arguments, "--help")
    assert ran.code == 0
    assert ran.out.startswith(b"Usage: stemsplit")
    assert ran.err == ""
    assert b"\\b" not in ran.out
    assert shell(*arguments, "-h").out == ran.out


@pytest.mark.parametrize("group", ["models", "report", "train"])
def test_a_group_without_a_command_prints_its_help(shell: Shell, group: str) -> None:
    ran = shell(group)
    assert ran.code == 2 and ran.out == b""
    assert ran.err == shell(group, "--help").out.decode()


def test_defaults_come_from_the_settings(shell: Shell) -> None:
    text = " ".join(shell("separate", "--help").out.decode().split())
    for default in (
        "[default: stems]",
        "[default: htdemucs]",
        "[default: the model's own, or 0.25]",
        "[default: wav]",
        "[default: 24]",
    ):
        assert default in text


def test_the_environment_sets_options(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    env = {"STEMSPLIT_MODEL": "classic", "STEMSPLIT_OUTPUT": "elsewhere", "STEMSPLIT_STEM": "bass"}
    assert shell("a.wav", env=env).code == 0
    assert shell.files() == ["a.wav", "elsewhere/a/bass.wav"]


def test_a_file_with_the_name_of_a_command(shell: Shell) -> None:
    shell.write("doctor", seconds=0.2)
    assert shell("./doctor", "-m", "classic", "-s", "bass").code == 0
    assert shell("separate", "doctor", "-m", "classic", "-s", "bass", "-o", "b").code == 0
    assert shell.files() == ["b/doctor/bass.wav", "doctor", "stems/doctor/bass.wav"]


def test_a_misspelt_command(shell: Shell) -> None:
    ran = shell("modles", "list")
    assert ran.code == 2
    assert ran.err.splitlines()[1] == "  hint: did you mean models?"


def test_version(shell: Shell) -> None:
    from stemsplit import __version__

    assert shell("--version").out.decode() == f"stemsplit {__version__}\n"


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_completion(shell: Shell, name: str) -> None:
    ran = shell("completion", name)
    assert ran.code == 0
    assert b"_STEMSPLIT_COMPLETE" in ran.out


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        ("stemsplit mod", "models"),
        ("stemsplit song.wav --blend max_f", "max_fft"),
        ("stemsplit separate --precision b", "bf16"),
    ],
)
def test_completion_completes_in_bash(shell: Shell, words: str, completed: str) -> None:
    position = str(len(words.split()) - 1)
    env = {"_STEMSPLIT_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": position}
    ran = shell.process(env=env)
    assert (ran.code, ran.err) == (0, "")
    assert f"plain,{completed}" in ran.out.decode().splitlines()


def test_the_manual_page(shell: Shell) -> None:
    text = shell("man").out.decode()
    for part in (".SH NAME", '.SH "MODELS DOWNLOAD"', "\\-\\-overlap", ".SH EXIT STATUS"):
        assert part in text
    if not shutil.which("groff"):
        return
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"], input=text.encode(), capture_output=True, check=True
    )
    assert done.stderr == b""


def test_the_doctor(shell: Shell) -> None:
    found = json.loads(shell("doctor", "--json").out)
    assert found["schema"] == 1
    assert set(found) >= {"versions", "devices", "encoders", "folders", "free"}
    assert b"torch" in shell("doctor").out

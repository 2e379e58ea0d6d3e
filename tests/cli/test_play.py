"""`stemsplit play` and `stemsplit serve`."""

import importlib.util
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import COMMAND

Shell = Any
web = pytest.mark.skipif(importlib.util.find_spec("uvicorn") is None, reason="needs the extra web")


@pytest.mark.parametrize("command", ["play", "serve"])
def test_help_names_the_extra(shell: Shell, command: str) -> None:
    text = " ".join(shell(command, "--help").out.decode().split())
    assert "pip install 'stemsplit-cli[web]'" in text
    assert "[default: 127.0.0.1]" in text and "[default: stems]" in text
    assert ("--no-open" in text) == (command == "play")


@pytest.mark.parametrize("command", ["play", "serve"])
def test_without_the_extra_it_says_how_to_install_it(
    shell: Shell, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("starlette", "uvicorn") else found(name)
    )
    ran = shell(command)
    assert ran.code == 1
    assert ran.err.splitlines() == [
        "stemsplit: error: the page needs starlette and uvicorn",
        "  hint: pip install 'stemsplit-cli[web]'",
    ]


@web
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.wav"], "missing.wav: no such file or folder"),
        ([""], "'': no such file or folder"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0: needs --key"),
        (["--key", "short"], "--key: must be 8 or more"),
        (["--port", "70000"], "--port 70000: must be from 0 to 65535"),
        (["--port", "-1"], "'--port'"),
        (["-o", "-"], "-o -: the page writes files into a folder"),
        (["--host", "no.such.host.example", "--key", "long-enough"], "can't listen on no.such.host.example"),
        (["-d", "cuda:99"], "--device cuda:99"),
        (["-o", ""], "--output: is empty"),
        (["-m", ""], "--model: is empty"),
        (["-m", "tiny", "-m", "classic"], "-m tiny -m classic: the page takes one model"),
        (["-o", "s3://me:secret@bucket/stems"], "-o s3://bucket/stems: the page writes files into a folder"),
    ],
)
def test_what_makes_no_sense_is_refused(shell: Shell, arguments: list[str], words: str) -> None:
    ran = shell("serve", *arguments)
    assert ran.code == 2 and words in ran.err.splitlines()[0], ran.err
    assert shell.files() == []


@web
@pytest.mark.parametrize("command", ["play", "serve"])
@pytest.mark.parametrize("output", ["file.txt", "file.txt/below"])
def test_an_output_folder_that_can_t_be_written_is_refused_as_by_separate(
    shell: Shell, command: str, output: str
) -> None:
    (shell.folder / "file.txt").touch()
    shell.write("song.wav")
    ran, wanted = shell(command, "-o", output), shell("song.wav", "-m", "classic", "-o", output)
    assert (ran.code, ran.out, ran.err) == (wanted.code, b"", wanted.err)
    assert ran.err == "stemsplit: error: file.txt: is a file, not a folder\n"


@web
def test_one_model_may_come_from_the_environment(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[object] = []
    monkeypatch.setattr("stemsplit.web.server.serve", lambda *given, **_: served.append(given[2]["model"]))
    (shell.folder / "my own.safetensors").touch()
    for model in ("my own.safetensors", "tiny"):
        assert shell("serve", env={"STEMSPLIT_MODEL": model}).code == 0
        assert shell("serve", "-m", "classic", env={"STEMSPLIT_MODEL": model}).code == 0
    assert served == ["my own.safetensors", "classic", "tiny", "classic"]


@web
@pytest.mark.parametrize("command", ["play", "serve"])
@pytest.mark.parametrize(
    ("model", "code", "lines"),
    [
        ("tinny", 2, ["no model named 'tinny'", "did you mean tiny?"]),
        ("runs/none.safetensors", 4, ["runs/none.safetensors: no such file"]),
    ],
)
def test_a_model_that_can_t_be_found_is_refused(
    shell: Shell, command: str, model: str, code: int, lines: list[str]
) -> None:
    ran = shell(command, "-m", model)
    assert ran.code == code and ran.out == b""
    assert all(words in line for words, line in zip(lines, ran.err.splitlines(), strict=False)), ran.err
    assert shell.files() == []


@web
@pytest.mark.parametrize("model", ["htdemucs", "htdemucs_ft.yaml", "hf:owner/repository", "own.safetensors"])
def test_a_model_is_not_loaded_before_it_is_used(
    shell: Shell, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shell.folder / "own.safetensors").touch()
    served: list[object] = []
    monkeypatch.setattr("stemsplit.web.server.serve", lambda *given, **_: served.append(given[2]))
    assert shell("serve", "-m", model).code == 0
    assert served == [{"model": model}]


@web
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_the_printed_address_answers_until_it_is_interrupted(shell: Shell) -> None:
    server = shell.start("play", "--no-open")
    try:
        address = server.stdout.readline().decode().strip()
        assert address.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(address) as answer:
            assert answer.status == 200 and b"<title>stemsplit</title>" in answer.read()
    finally:
        server.send_signal(signal.SIGINT)
        out, err = server.communicate(timeout=60)
    assert (server.returncode, out) == (130, b"")
    assert err.decode().splitlines() == ["Ctrl-C ends the server", "stemsplit: interrupted"]


@web
def test_a_browser_is_opened_where_there_is_one(shell: Shell) -> None:
    browser = shell.folder / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > opened\n')
    browser.chmod(0o755)
    server = subprocess.Popen(
        [*COMMAND, "play"],
        cwd=shell.folder,
        env={**shell.environment(), "BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert server.stdout is not None
    address = server.stdout.readline().decode()
    opened = Path(shell.folder, "opened")
    for _ in range(100):
        if opened.exists() and opened.read_text():
            break
        with pytest.raises(subprocess.TimeoutExpired):
            server.wait(0.1)
    server.terminate()
    server.communicate(timeout=60)
    assert opened.read_text() == address

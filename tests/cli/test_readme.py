"""The README's commands, run with small files under the names that it uses."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from stemsplit.audio.reader import read_audio
from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from stemsplit.settings import DEFAULT_MODEL

Shell = Any
README = (Path(__file__).parents[2] / "README.md").read_text()
STEMS = ("drums", "bass", "other", "vocals")
# commands that aren't run, and why
NOT_HERE = {
    r"^(pip|pytest)\b": "sets up the environment",
    r"stemsplit (play|serve)\b": "serves until it is interrupted",
    r"models download": "needs a network",
    r"train --config": "trains a model",
    r"\.th\b": "needs a checkpoint of demucs",
}
PROGRAMS = ("ffmpeg", "jq", "man")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def commands() -> list[tuple[str, str]]:
    """Return every command of the README with its comment."""
    found = []
    for block in blocks("sh"):
        joined = re.sub(r"(\\|(?<=\|))\n\s*", " ", block)
        for line in joined.splitlines():
            command, _, comment = re.match(r"((?:'[^']*'|[^'#])*)(#\s*)?(.*)", line).groups("")  # type: ignore[union-attr]
            if command.strip():
                found.append((command.strip(), comment.strip()))
    return found


def write_film(path: Path, seconds: float) -> None:
    """Write two audio streams in Matroska, at a low sample rate, so that minutes are quickly read."""
    with av.open(path, "w") as container:
        streams = [container.add_stream("pcm_s16le", rate=4000, layout="mono") for _ in range(2)]
        for stream in streams:
            samples = (3000 * np.sin(np.arange(round(seconds * 4000)) / 3)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate = 4000
            container.mux([*stream.encode(frame), *stream.encode(None)])


def write_clip(path: Path) -> None:
    """Write half a second of picture and sound."""
    with av.open(str(path), "w") as container:
        picture: Any = container.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        sound: Any = container.add_stream("pcm_s16le", rate=44100, layout="stereo")
        for _ in range(12):
            image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(picture.encode(image))
        noise = np.random.default_rng(0).integers(-3000, 3000, (1, 2 * 22050), np.int16)
        frame = av.AudioFrame.from_ndarray(noise, format="s16", layout="stereo")
        frame.sample_rate = 44100
        container.mux([*sound.encode(frame), *sound.encode(None), *picture.encode(None)])


def write_sound(path: Path, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = 0.1 * np.random.default_rng(0).standard_normal((round(44100 * seconds), 2))
    soundfile.write(path, noise, 44100, format=path.suffix[1:].upper())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README and the pages of docs/ name."""
    folder = tmp_path_factory.mktemp("readme")
    songs = ("song.mp3", "album/one.mp3", "album/two.mp3", "album/live/three.flac")
    for name in (*songs, "a/vocals.wav", "b/vocals.wav"):
        write_sound(folder / name, 0.3)
    for stem in (*STEMS, "mixture"):
        for track in ("songs/train/one", "songs/valid/two", "estimates/two"):
            write_sound(folder / f"{track}/{stem}.wav", 2.0)
    write_film(folder / "live.mkv", 91)
    write_film(folder / "talk.mkv", 0.5)
    write_clip(folder / "clip.mkv")
    tiny = {"sources": list(STEMS), "channels": 8, "bottom_channels": 16, "t_layers": 1, "t_heads": 2}
    for run in ("runs/x", "runs/fine-tune"):
        (folder / run).mkdir(parents=True)
        network = build("htdemucs", {**tiny, "nfft": 1024, "segment": 2.0})
        save_package(folder / run / "model.safetensors", network)
    (folder / "home").mkdir()
    return folder


@pytest.fixture
def furnished(shell: Shell, files: Path) -> Shell:
    """The command line in a folder with these files."""
    shutil.copytree(files, shell.folder, dirs_exist_ok=True)
    return shell


def run_in_bash(
    shell: Shell, command: str, env: dict[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[bytes]:
    """Run a shell command in which `stemsplit` is the tested program."""
    programs = shell.folder / "home/bin"
    programs.mkdir(parents=True, exist_ok=True)
    program = programs / "stemsplit"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m stemsplit "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join((str(programs), os.environ["PATH"]))
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=shell.folder,
        env={**shell.environment(), **env, "PATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
    )


@pytest.mark.parametrize(("command", "comment"), commands(), ids=lambda value: value[:60])
def test_commands(furnished: Shell, command: str, comment: str) -> None:
    shell = furnished
    for pattern, reason in NOT_HERE.items():
        if re.search(pattern, command):
            pytest.skip(reason)
    for program in PROGRAMS:
        if re.search(rf"(^|\| *){program}\b", command) and not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    env = {"STEMSPLIT_MODEL": "classic"}  # which needs no download
    if set("|>") & set(command):
        ran = run_in_bash(shell, command, env)
        assert ran.returncode == 0, ran.stderr.decode()
    else:
        ran = shell(*shlex.split(command)[1:], env=env)
        assert ran.code == 0, ran.err
    if comment.startswith("stems/"):
        assert (shell.folder / comment).is_file()
    made = [name for name in shell.files() if name.startswith("stems/")]
    asked = re.match(r"stemsplit (song|album|live|--from-file)", command) and " -n" not in command
    assert bool(made) == bool(asked) or "find" in command


def test_the_first_example_gives_the_tree_below_it(furnished: Shell) -> None:
    first = next(command for command, _ in commands() if command.startswith("stemsplit"))
    assert furnished(*shlex.split(first)[1:]).code == 0
    tree = re.findall(r"[└├]── (\w+\.wav)", README)
    assert [f"stems/song/{name}" for name in tree] == [n for n in furnished.files() if n.startswith("stems/")]


def test_the_default_model_is_marked() -> None:
    assert f"| `{DEFAULT_MODEL}` (default) |" in README


def test_python(furnished: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks("python")
    monkeypatch.chdir(furnished.folder)
    samples = furnished.tones(seconds=0.3, rate=48000)
    names: dict[str, Any] = {"samples": samples}
    exec(code, names)
    assert set(names["stems"]) == set(STEMS)
    assert names["vocals"].shape == samples.shape


def write_excerpts(folder: Path, album: Path, names: tuple[str, ...], seconds: int) -> None:
    """Write a data set of some seconds of some tracks of an album."""
    tracks = json.loads((album / "stems.json").read_text())
    chosen = {name: stems for name, stems in tracks.items() if name.startswith(names)}
    for name, stems in chosen.items():
        (folder / name).mkdir(parents=True)
        for file in {file for files in stems.values() for file in files}:
            samples, rate = read_audio(album / name / file)
            excerpt = samples[:, 30 * rate : (30 + seconds) * rate]  # [C, frames]
            soundfile.write(folder / name / f"{file}.flac", excerpt.T, rate)
    excerpts = {
        name: {stem: [f"{name}/{file}.flac" for file in files] for stem, files in stems.items()}
        for name, stems in chosen.items()
    }
    (folder / "stems.json").write_text(json.dumps(excerpts))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_album_is_read_checked_learnt_from_and_scored(shell: Shell, shared_data: Path) -> None:
    """The README's training commands, as they stand, on real music."""
    album = (shared_data / "everything-is-free-cc0").resolve()
    write_excerpts(shell.folder / "songs/train", album, ("4.", "6."), 60)
    write_excerpts(shell.folder / "songs/valid", album, ("5.",), 20)
    block = re.search(r"^<!-- album -->\n```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    assert block
    ran = run_in_bash(shell, "set -e\n" + block[1], {}, timeout=3500)
    assert ran.returncode == 0, ran.stderr.decode()
    checked, scored = ran.stdout.decode().split("TRACK", 1)
    assert {line.split()[0] for line in checked.splitlines()[1:8]} == {"4.Potassium", "6.Caesium"}
    assert " songs are in doubt" in checked
    lines = (shell.folder / "runs/fine-tune/metrics.jsonl").read_text().splitlines()
    start, *_, last = (json.loads(line) for line in lines)
    assert last["step"] == 60 and last["best"]["score"] >= start["valid"]["raw"]["mean"]
    rows = [line.split() for line in scored.splitlines() if line.startswith("5.Rubidium ")]
    usdr = {(method, stem): score for _, method, stem, score, *_ in rows}
    assert {method for method, _ in usdr} == {"runs/fine-tune", "tiny", "mixture", "classic"}
    # validation and evaluation are the same core
    assert float(usdr["runs/fine-tune", "mean"]) == pytest.approx(last["best"]["score"], abs=0.02)
    assert float(usdr["tiny", "mean"]) == pytest.approx(start["valid"]["raw"]["mean"], abs=0.02)

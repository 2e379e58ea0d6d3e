"""`stemsplit train`: recipes, refusals, whole runs, and the check for mislabelled stems."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

Shell = Any

ABSENT = "cuda" if sys.platform == "darwin" else "mps"  # whatever machine and build of PyTorch

CONFIG = """\
folder: runs/mine
model:
  family: demucs
  arguments: {sources: [drums, bass], channels: 4, depth: 2, lstm_layers: 0, dconv_mode: 0,
              resample: false, samplerate: 8000, segment: 0.25}
data:
  train: [{path: songs, exclude: [held]}]
  valid: [{path: songs, only: [held]}]
  segment_s: 0.2
  workers: 0
fit: {epochs: 2, steps_per_epoch: 2, batch_size: 2, device: cpu}
valid: {at_start: true}
"""


@pytest.fixture
def songs(shell: Shell) -> Path:
    """Three songs of a bass and drums."""
    time = np.arange(8000) / 8000
    for number, name in enumerate(("a", "b", "held")):
        folder = shell.folder / "songs" / name
        folder.mkdir(parents=True)
        noise = np.random.default_rng(number).standard_normal(8000) * 0.1
        for stem, audio in (("drums", noise), ("bass", 0.3 * np.sin(2 * np.pi * 60 * time))):
            soundfile.write(folder / f"{stem}.wav", np.stack([audio, audio], 1), 8000, subtype="FLOAT")
    (shell.folder / "mine.yaml").write_text(CONFIG)
    return shell.folder / "songs"


def test_help_and_no_arguments(shell: Shell) -> None:
    ran = shell("train")
    assert ran.code == 2 and ran.err.startswith("Usage: stemsplit train")
    assert shell("train", "check-data", "--help").code == 0


def test_recipes_are_printed(shell: Shell) -> None:
    from stemsplit.training.recipes import recipe_names, recipe_text

    assert shell("train", "--init", "list").out.decode().split() == recipe_names()
    for name in recipe_names():
        assert shell("train", "--init", name).out.decode() == recipe_text(name)
    ran = shell("train", "--init", "finetune")
    assert ran.code == 2 and "did you mean fine-tune?" in ran.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config", "missing.yaml"], "missing.yaml: can't be read (No such file or directory)"),
        (["--config", "mine.yaml", "--resume", "--fresh"], "--resume and --fresh exclude each other"),
        (["--config", "mine.yaml", "--set", "optim.lt=1"], "optim.lt: no such key; did you mean lr?"),
        (["--config", "mine.yaml", "--set", "model.family=demux"], "did you mean demucs?"),
        (
            ["--config", "mine.yaml", "--set", "model.arguments.depht=3"],
            "demucs has no such argument; did you mean depth?",
        ),
        (["--config", "mine.yaml", "--set", "model.arguments.depth=x"], "model.arguments: makes no demucs"),
        (
            ["--config", "mine.yaml", "--set", "model.arguments.channels=-4"],
            "model.arguments: makes no demucs",
        ),
        (
            ["--config", "mine.yaml", "--set", "model.arguments.kernel_size=0"],
            "model.arguments: makes no demucs (kernel_size 0: must be positive)",
        ),
        (
            [
                *("--config", "mine.yaml", "--set", "model.family=tasnet"),
                *("--set", "model.arguments={sources: [drums, bass], N: 0}"),
            ],
            "weight would be empty)",
        ),
        (
            ["--config", "mine.yaml", "--set", "model.arguments.sources=[1, 2]"],
            "its stems must be different names",
        ),
        (["--config", "mine.yaml", "--set", "data.train.0.path=nowhere"], "no such file or folder: nowhere"),
        (
            ["--config", "mine.yaml", "--set", "data.train.0.exclude=['*']"],
            "only and exclude leave none of its 3 tracks",
        ),
        (["--config", "mine.yaml", "--set", "data.stems=[drums]"], "data.stems: lacks bass"),
        (["--config", "mine.yaml", "--set", "loss.weights.vocals=1"], "the network estimates drums, bass"),
        (["--config", "mine.yaml", "--set", "loss.weights={drums: 0, bass: 0}"], "must not all be zero"),
        (["--config", "mine.yaml", "--set", "optim.groups=[{match: x}]"], "no parameter is called x"),
        (["--config", "mine.yaml", "--set", f"fit.device={ABSENT}"], f"fit.device: --device {ABSENT}: "),
        (["--config", "mine.yaml", "--set", "model={start: classic}"], "Classic has no weights to train"),
        (["--config", "mine.yaml", "--set", "model={start: htdemux}"], "no model named 'htdemux'"),
    ],
)
def test_refusals_are_one_line(shell: Shell, songs: Path, arguments: list[str], said: str) -> None:
    ran = shell("train", *arguments)
    lines = [line for line in ran.err.splitlines() if not line.startswith("  hint: ")]
    assert len(lines) == 1 and said in lines[0] and lines[0].startswith("stemsplit: error: ")
    assert ran.code in (1, 2) and not (shell.folder / "runs").exists()


def test_train_and_separate(shell: Shell, songs: Path) -> None:
    ran = shell("train", "--config", "mine.yaml")
    assert ran.code == 0 and ran.out == b""
    lines = ran.err.splitlines()
    assert lines[0].startswith("validation after 0 steps: drums ")
    assert [line.split(":")[0] for line in lines[1:5]] == [
        "epoch 1/2",
        "validation after 2 steps",
        "epoch 2/2",
        "validation after 4 steps",
    ]
    assert lines[-1].startswith("runs/mine: 4 steps done, best ")
    assert lines[-1].endswith("; stemsplit SONG -m runs/mine")
    shell.write("song.wav", seconds=1)
    assert shell("song.wav", "-m", "runs/mine").code == 0
    assert [f for f in shell.files() if f.startswith("stems/")] == [
        "stems/song/bass.wav",
        "stems/song/drums.wav",
    ]
    ran = shell("train", "--config", "mine.yaml")
    assert ran.code == 2 and "  hint: continue it with --resume, or start over with --fresh" in ran.err
    assert shell("train", "--config", "mine.yaml", "--resume").code == 0
    assert shell("train", "--config", "mine.yaml", "--fresh", "--set", "fit.epochs=1").code == 0


def test_a_dry_run(shell: Shell, songs: Path) -> None:
    ran = shell("train", "--config", "mine.yaml", "--dry-run")
    assert ran.code == 0 and ran.err.splitlines()[-1] == "one step trained; nothing was kept (--dry-run)"
    assert "epoch 1/1: loss 0." in ran.err and not (shell.folder / "runs").exists()


def test_excluded_data_is_reported(shell: Shell, songs: Path) -> None:
    for name in ("a", "b"):
        parts = [soundfile.read(songs / name / f"{stem}.wav")[0] for stem in ("drums", "bass")]
        soundfile.write(songs / name / "band.wav", sum(parts), 8000, subtype="FLOAT")
        soundfile.write(songs / name / "linear_mixture.wav", sum(parts), 8000, subtype="FLOAT")
    for ran in (
        shell("train", "--config", "mine.yaml", "--dry-run"),
        shell("train", "--config", "mine.yaml"),
    ):
        assert ran.code == 0
        notes = [line for line in ran.err.splitlines() if line.startswith("note: ")]
        assert notes == [
            "note: a and 1 more: band.wav is left out: its samples are the sum of bass and drums",
            "note: a and 1 more: linear_mixture.wav is left out: by its name it holds bass and drums",
        ]


def test_progress_as_json(shell: Shell, songs: Path) -> None:
    ran = shell("train", "--config", "mine.yaml", "--progress", "json")
    events = [json.loads(line) for line in ran.err.splitlines()]
    names = [event["event"] for event in events]
    assert names[:2] == ["preparing", "preparing"] and names[-1] == "finished"
    assert {"trained", "validated"} <= set(names)
    assert set(events[names.index("validated")]["scores"]["raw"]) == {"drums", "bass", "mean"}


def test_a_bar_on_a_terminal(shell: Shell, songs: Path) -> None:
    ran = shell("train", "--config", "mine.yaml", "--progress", "bar")
    assert ran.code == 0 and "validation after 4 steps" in ran.err


@pytest.fixture
def album(shell: Shell) -> Path:
    """Write two songs of three seconds, one of them with bass and drums swapped."""
    rate, length = 44100, 3 * 44100
    time = np.arange(length) / rate
    bass = 0.3 * np.sin(2 * np.pi * 60 * time)
    clicks = np.zeros(length)
    clicks[:: rate // 4] = 0.9
    for name, stems in {"good": ("bass", "drums"), "swapped": ("drums", "bass")}.items():
        folder = shell.folder / "album" / name
        folder.mkdir(parents=True)
        for stem, audio in zip(stems, (bass, clicks), strict=True):
            soundfile.write(folder / f"{stem}.wav", np.stack([audio, audio], 1), rate, subtype="FLOAT")
    return shell.folder / "album"


def test_swapped_stems_are_found(shell: Shell, album: Path) -> None:
    ran = shell("train", "check-data", "album", "-m", "classic")
    assert ran.code == 0
    table, _, verdict = ran.out.decode().partition("\n\n")
    assert table.splitlines()[0].split() == ["SONG", "STEM", "SOUNDS", "drums", "bass"]
    assert len(table.splitlines()) == 5
    doubts = verdict.splitlines()[1:]
    assert "swapped: drums holds bass in 100% of it" in doubts
    assert not any(line.startswith("good: bass") for line in doubts)
    found = json.loads(
        shell("train", "check-data", "album", "-m", "classic", "--json", "--only", "swapped").out
    )
    (track,) = found["tracks"]
    assert track["name"] == "swapped" and track["found"]["drums"]["bass"] == 1.0
    assert set(track["active"]) == {"drums", "bass"}


def test_sums_of_stems_are_not_checked(shell: Shell, songs: Path) -> None:
    parts = [soundfile.read(songs / "a" / f"{stem}.wav")[0] for stem in ("drums", "bass")]
    soundfile.write(songs / "a" / "no_vocals.wav", sum(parts), 8000, subtype="FLOAT")
    ran = shell("train", "check-data", "songs", "-m", "classic", "--only", "a", "--json")
    (entry,) = json.loads(ran.out)["tracks"]
    assert entry["problems"][-1] == "no_vocals.wav is left out: by its name it holds bass and drums"
    assert set(entry["active"]) == {"drums", "bass"}
    ran = shell("train", "check-data", "songs", "-m", "classic", "--only", "a")
    assert "a: note: no_vocals.wav is left out: by its name it holds bass and drums" in ran.out.decode()


def test_unreadable_songs_do_not_stop_the_check(shell: Shell, album: Path) -> None:
    (album / "swapped" / "bass.wav").write_bytes(b"RIFF, but not really")
    ran = shell("train", "check-data", "album", "-m", "classic")
    assert ran.code == 3 and "of 1 songs are in doubt" in ran.out.decode()
    assert "stemsplit: error: album/swapped/bass.wav: " in ran.err
    ran = shell("train", "check-data", "album", "-m", "classic", "--json")
    tracks = {track["name"]: track for track in json.loads(ran.out)["tracks"]}
    assert ran.code == 3 and "found" in tracks["good"] and "bass.wav" in tracks["swapped"]["error"]
    assert shell("train", "check-data", "album/swapped", "-m", "classic").code == 1


def test_a_missing_folder_is_reported_before_a_missing_model(shell: Shell) -> None:
    ran = shell("train", "check-data", "nowhere")
    assert ran.code == 2 and "nowhere: no such file or folder" in ran.err


LONG = ("fit.epochs=3", "fit.steps_per_epoch=6", "fit.checkpoint_steps=2", "fit.batch_size=4")


def settings(*more: str) -> list[str]:
    return [part for value in (*LONG, "ema.step=[0.9]", "data.workers=1", *more) for part in ("--set", value)]


def weights(folder: Path, name: str) -> dict[str, Any]:
    state = torch.load(folder / "runs" / name / "checkpoints" / "last.ckpt", weights_only=True)
    kept = {"model": state["state_dict"], "average": state["stemsplit"]["averages"]["step 0.9"]["values"]}
    moments = state["optimizer_states"][0]["state"]
    kept["moments"] = {f"{i}.{k}": v for i, one in moments.items() for k, v in one.items()}
    return {f"{part}.{key}": value for part, values in kept.items() for key, value in values.items()}


# Adapters of a trained model, two micro-batches per step and process, and recomputed activations.
ADAPTED = (
    "model={start: runs/base}",
    "lora={rank: 1}",
    "fit.batch_size=4",
    "fit.accumulate=2",
    "fit.recompute=true",
)


TWO = "fit.devices=2", "loggers=[]"


def base(shell: Shell, how: tuple[str, ...]) -> None:
    """Train the model to start from, if there is one."""
    if how is ADAPTED:
        assert shell.process("train", "--config", "mine.yaml", "--set", "folder=runs/base").code == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", [(), ADAPTED, TWO], ids=["weights", "adapters", "two processes"])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(
    shell: Shell, songs: Path, how: tuple[str, ...]
) -> None:
    base(shell, how)
    whole = shell.process("train", "--config", "mine.yaml", *settings(*how, "folder=runs/whole"))
    assert whole.code == 0
    parts = ["train", "--config", "mine.yaml", *settings(*how, "folder=runs/parts"), "--progress", "json"]
    for step in sorted(Random(f"kill {how}").sample(range(1, 14), 3)):
        running = shell.start(*parts, "--resume")
        for line in running.stderr:
            event = json.loads(line)
            if event["event"] == "trained" and event["step"] >= step:
                break
        running.kill()
        running.wait()
        running.stdout.close()
        running.stderr.close()
    assert shell.process(*parts, "--resume").code == 0
    first, second = weights(shell.folder, "whole"), weights(shell.folder, "parts")
    assert first.keys() == second.keys() and len(first) > 40
    assert all(torch.equal(value, second[key]) for key, value in first.items())


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def together(shell: Shell, way: str, arguments: list[str]) -> list[str]:
    """Train in two processes, started in one of three ways; return the output of each that was started."""
    command, environments = [sys.executable, "-m", "stemsplit"], [{}]
    if way == "torchrun":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        command += ["-m", "stemsplit"]
    if way == "nodes":
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        environments = [{**meeting, "NODE_RANK": str(rank)} for rank in range(2)]
    size = "fit.nodes=2" if way == "nodes" else "fit.devices=2"
    started = [
        subprocess.Popen(
            [*command, *arguments, "--set", size],
            cwd=shell.folder,
            env={**shell.environment(), **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    said = [process.communicate(timeout=200)[1] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "how"), [("devices", ()), ("torchrun", ()), ("nodes", ()), ("devices", ADAPTED)]
)
def test_two_processes_train_as_one_with_the_whole_batch(
    shell: Shell, songs: Path, way: str, how: tuple[str, ...]
) -> None:
    base(shell, how)
    command = ["train", "--config", "mine.yaml"]
    assert shell.process(*command, *settings(*how, "folder=runs/one")).code == 0
    said = together(shell, way, [*command, *settings(*how, "folder=runs/two")])
    assert said[0].count("steps done") == 1 and not any(said[1:])  # told by one of them
    one, two = weights(shell.folder, "one"), weights(shell.folder, "two")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)
    lines = [(shell.folder / "runs" / n / "metrics.jsonl").read_text().splitlines() for n in ("one", "two")]
    losses = [[json.loads(line)["loss"] for line in run[1:]] for run in lines]  # the first is of no step
    assert len(losses[0]) == 3 and losses[0] == pytest.approx(losses[1], rel=1e-4)

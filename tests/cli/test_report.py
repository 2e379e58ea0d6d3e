"""`stemsplit report join`, and `--report FILE.jsonl`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit.cli.failures import Terminated
from stemsplit.errors import Cancelled
from stemsplit.separation.runner import Runner

Shell = Any
CLASSIC = ("-m", "classic")


def report(*tracks: tuple[str, str], model: str = "classic", wall_s: float = 1.0) -> dict[str, Any]:
    rows = [{"input": name, "status": status, "duration_s": 2.0} for name, status in tracks]
    head = {"schema": 1, "version": "0.1.0", "model": {"name": model, "sha256": None}, "device": "cpu"}
    return {**head, "settings": {}, "tracks": rows, "summary": {"wall_s": wall_s}}


def write(folder: Path, name: str, content: Any) -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


def test_a_run_writes_lines_and_join_reads_them(shell: Shell) -> None:
    soundfile.write(shell.folder / "song.wav", np.zeros((9000, 2)), 44100)
    ran = shell("song.wav", *CLASSIC, "-s", "bass", "--report", "r.jsonl")
    assert ran.code == 0
    lines = [json.loads(line) for line in (shell.folder / "r.jsonl").read_text().splitlines()]
    kinds = ["model" in line or "summary" in line for line in lines]
    assert kinds == [True, False, True]
    joined = shell("report", "join", "r.jsonl")
    assert joined.code == 0 and "1 done, 0 skipped, 0 failed" in joined.err
    assert json.loads(joined.out)["tracks"][0]["status"] == "done"


def test_the_last_result_of_a_track_counts_but_skipped_replaces_nothing(shell: Shell) -> None:
    one = write(shell.folder, "1.json", report(("a", "failed"), ("b", "done"), ("c", "skipped"), wall_s=3))
    two = write(shell.folder, "2.json", report(("a", "done"), ("b", "skipped"), ("c", "failed"), wall_s=5))
    joined = json.loads(shell("report", "join", one, two).out)
    assert {track["input"]: track["status"] for track in joined["tracks"]} == {
        "a": "done",
        "b": "done",
        "c": "failed",
    }
    assert joined["summary"] == {"done": 2, "skipped": 0, "failed": 1, "wall_s": 5, "realtime": 4 / 5}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is not a report"),
        ("[1]", "is not a report"),
        ('{"schema": 1}', "is not a report"),
        ('{"status": "done"}\n', "is not a report"),
        (json.dumps({**report(), "schema": 9}), "is not a report"),
        (json.dumps(report(model="tiny")), "has another model than good.json"),
    ],
)
def test_what_can_t_be_joined(shell: Shell, content: str, reason: str) -> None:
    good, bad = write(shell.folder, "good.json", report(("a", "done"))), write(shell.folder, "bad", content)
    ran = shell("report", "join", good, bad)
    assert ran.code == 2 and f"bad: {reason}" in ran.err and ran.out == b""


def test_files_that_aren_t_there(shell: Shell) -> None:
    ran = shell("report", "join", "none.json")
    assert ran.code == 2 and "none.json: no such file" in ran.err
    assert shell("report", "join").code == 2


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (Terminated, 143), (Cancelled, 130)])
def test_an_interrupted_run_reports_the_tracks_before(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], code: int
) -> None:
    def interrupt(*_: Any, **__: Any) -> Iterator[Any]:
        raise error

    for name in "abc":
        shell.write(f"{name}.wav", seconds=0.1)
    songs = [f"{name}.wav" for name in "abc"]
    assert shell("a.wav", *CLASSIC, "-s", "bass").code == 0
    monkeypatch.setattr(Runner, "run", interrupt)
    assert shell(*songs, *CLASSIC, "-s", "bass", "--report", "r.json").code == code
    report = json.loads((shell.folder / "r.json").read_text())
    assert [(track["input"], track["status"]) for track in report["tracks"]] == [("a.wav", "skipped")]
    assert report["summary"]["skipped"] == 1 and report["model"]["name"] == "classic"
    assert shell("report", "join", "r.json").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="closed pipes of POSIX")
def test_a_reader_of_stdout_that_leaves_costs_no_report(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.1)
    with shell.start("a.wav", *CLASSIC, "-s", "bass", "--json", "--report", "r.json") as running:
        running.stdout.close()
        assert running.wait(60) == 141
    assert json.loads((shell.folder / "r.json").read_text())["summary"]["done"] == 1


def test_a_run_that_does_nothing_leaves_an_older_report_alone(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.1)
    (shell.folder / "r.json").write_text("older")
    assert shell("a.wav", *CLASSIC, "--precision", "fp16", "--report", "r.json").code == 2
    assert (shell.folder / "r.json").read_text() == "older"

"""The command on a real Ray cluster of two nodes: the same files, and nothing lost when something crashes."""

import filecmp
import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit import evaluate, separate_files
from stemsplit.cluster import Ray
from stemsplit.errors import SettingsError
from stemsplit.evaluation.plan import Job, plan_dataset
from stemsplit.events import Event, TrackStart
from stemsplit.hub.access import Access
from stemsplit.settings import BatchSettings, OutputSettings, Request
from tests.separation.deadly import Deadly

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray isn't installed"),
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.xdist_group("cluster"),
]
ROOT = Path(__file__).parents[2]
TRACKS = 40
SEEDS = int(os.environ.get("STEMSPLIT_SEEDS", "5"))
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@dataclass
class Machines:
    """A cluster of two nodes; the first one is the head, to which drivers connect.

    Attributes:
        drivers: the commands that this test has started.
    """

    cluster: Any
    second: Any
    folder: Path
    drivers: list[subprocess.Popen[str]] = field(default_factory=list)

    def command(self, output: str, *options: str) -> list[str]:
        given = ["in", "-m", "tiny", "-o", output, "--progress", "plain", *options]
        ray = ["--engine", "ray", "--address", self.cluster.address, "--worker-cpus", "1"]
        return [sys.executable, "-m", "stemsplit", *given, *ray]

    def start(self, output: str, *options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            self.command(output, *options),
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # shells start background jobs, such as a test run, with SIGINT ignored
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        self.drivers.append(process)
        return process

    def answer(self, process: subprocess.Popen[str]) -> tuple[str, str]:
        """Return what a driver printed; fail with what is left of its work if it doesn't end."""
        try:
            return process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            process.kill()
            hidden = {str(path): path.read_bytes()[:400] for path in self.folder.rglob(".*")}
            pytest.fail(f"it doesn't end; workers {workers()}, hidden {hidden}, {process.communicate()[1]}")

    def kill_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def repair(self) -> None:
        """Begin a test: two nodes, and no driver or worker of a test that failed."""
        for process in self.drivers:
            process.kill()
        self.drivers.clear()
        until(lambda: not workers())
        if self.second is None:
            self.second = self.cluster.add_node(**NODE)
            self.cluster.wait_for_nodes()


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "in").mkdir()
    for number in range(TRACKS):
        noise = 0.1 * np.random.default_rng(number).standard_normal((30_000 + 997 * number, 2))
        soundfile.write(folder / f"in/{number:02}.wav", noise, 44100)
    plain = [sys.executable, "-m", "stemsplit", "in", "-m", "tiny", "-o", "serial", "--report", "serial.json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *sys.path]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        subprocess.run(plain, cwd=folder, check=True, capture_output=True)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        second = cluster.add_node(**NODE)
        cluster.wait_for_nodes()
        try:
            yield Machines(cluster, second, folder)
        finally:
            cluster.shutdown()


def same(one: Path, other: Path) -> bool:
    """Return whether two folders have the same files with the same bytes, hidden ones included."""
    found = [sorted(path.relative_to(root) for path in root.rglob("*")) for root in (one, other)]
    return found[0] == found[1] and all(
        (one / name).is_dir() or filecmp.cmp(one / name, other / name, shallow=False) for name in found[0]
    )


def workers() -> list[int]:
    """Return the processes of all actors of this package that run."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            line = (place / "cmdline").read_bytes() if place.name.isdecimal() else b""
        except OSError:
            continue
        if line.startswith(b"ray::Host"):
            found.append(int(place.name))
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)


def finished(folder: Path) -> int:
    return len(list(folder.glob("*/vocals.wav")))


def lines(path: Path) -> list[dict[str, Any]]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # half a line
            continue
    return [one for one in found if "status" in one]


def comparable(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report without times, and with outputs below their folder."""
    for track in report["tracks"]:
        track.pop("wall_s")
        track["outputs"] = {stem: path.partition("/")[2] for stem, path in track["outputs"].items()}
    report["summary"] = {name: report["summary"][name] for name in ("done", "skipped", "failed")}
    return report


def test_same_bytes_and_report_as_in_one_process(machines: Machines) -> None:
    machines.repair()
    process = machines.start("plain", "--json")
    out, err = machines.answer(process)
    assert process.returncode == 0, err
    assert same(machines.folder / "serial", machines.folder / "plain")
    report, serial = json.loads(out), json.loads((machines.folder / "serial.json").read_text())
    assert comparable(report) == comparable(serial)
    assert f"{TRACKS} done, 0 skipped, 0 failed" in err.splitlines()[-1]
    until(lambda: not workers())
    again = subprocess.run(machines.command("plain"), cwd=machines.folder, capture_output=True, text=True)
    assert again.returncode == 0 and f"0 done, {TRACKS} skipped" in again.stderr


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_lost_when_something_is_killed(machines: Machines, seed: int) -> None:
    machines.repair()
    random.seed(seed)
    victim = ("worker", "node", "driver", "worker", "driver")[seed % 5]
    name, after = f"killed{seed}", random.randrange(TRACKS * 3 // 4)
    output, report = machines.folder / name, machines.folder / f"{name}.jsonl"
    process = machines.start(name, "--report", report.name)
    until(lambda: bool(workers()) and finished(output) >= after)
    time.sleep(0.2 * random.random())
    if victim == "worker":
        os.kill(random.choice(workers() or [process.pid]), signal.SIGKILL)
    elif victim == "node":
        machines.kill_second()
    else:
        process.kill()
    _, err = machines.answer(process)
    print(f"seed {seed}: {victim} killed after {after} tracks, exit {process.returncode}")
    if process.returncode == -signal.SIGKILL:
        until(lambda: not workers())
        second = machines.start(name, "--report", report.name)
        _, err = machines.answer(second)
        process = second
    assert process.returncode == 0, err
    assert same(machines.folder / "serial", output)
    done = Counter(one["input"] for one in lines(report) if one["status"] == "done")
    assert not [one for one, count in done.items() if count > 1], "a track was done twice"
    assert {one["input"] for one in lines(report)} == {f"in/{number:02}.wav" for number in range(TRACKS)}
    until(lambda: not workers())


def test_two_drivers_share_a_library(machines: Machines) -> None:
    machines.repair()
    pair = [machines.start("shared", "--workers", "1", "--json") for _ in range(2)]
    answers = [machines.answer(process) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], answers
    assert same(machines.folder / "serial", machines.folder / "shared")
    reports = [json.loads(out) for out, _ in answers]
    done = Counter(t["input"] for one in reports for t in one["tracks"] if t["status"] == "done")
    assert len(done) == TRACKS and set(done.values()) == {1}
    assert all(one["summary"]["failed"] == 0 and len(one["tracks"]) == TRACKS for one in reports)
    notes = {t["note"] for one in reports for t in one["tracks"]}  # none where it was done before the survey
    assert notes <= {None, "done meanwhile by another run or worker"}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_leave_no_parts(machines: Machines, number: int, code: int) -> None:
    machines.repair()
    name = f"signal{code}"
    process = machines.start(name)
    until(lambda: finished(machines.folder / name) >= 3)
    os.killpg(process.pid, number)
    _, err = machines.answer(process)
    assert process.returncode == code, err
    assert not [path for path in (machines.folder / name).rglob(".*")]
    until(lambda: not workers())


def test_fail_fast_stops(machines: Machines) -> None:
    machines.repair()
    (machines.folder / "in/03.wav").rename(machines.folder / "kept.wav")
    (machines.folder / "in/03.wav").write_bytes((machines.folder / "kept.wav").read_bytes()[:400] + b"\0" * 7)
    try:
        process = machines.start("fast", "--fail-fast")
        _, err = machines.answer(process)
    finally:
        (machines.folder / "kept.wav").replace(machines.folder / "in/03.wav")
    assert process.returncode in (1, 3) and "1 failed" in err
    assert finished(machines.folder / "fast") < TRACKS


def songs(folder: Path) -> None:
    """Write a data set of two songs."""
    for number, track in enumerate("ab"):
        (folder / track).mkdir(parents=True)
        for stem in ("drums", "bass", "other", "vocals"):
            noise = 0.1 * np.random.default_rng(number).standard_normal((44100, 2))
            soundfile.write(folder / track / f"{stem}.wav", noise, 44100)


def test_an_evaluation_gives_the_same_scores(machines: Machines) -> None:
    machines.repair()
    songs(machines.folder / "set")
    words = ["evaluate", "--dataset", "set", "-m", "classic", "--no-bss", "--json", "--fresh"]
    ray = ["--engine", "ray", "--address", machines.cluster.address, "--worker-cpus", "1"]
    command = [sys.executable, "-m", "stemsplit", *words]
    plain, spread = (
        subprocess.run([*command, *more], cwd=machines.folder, capture_output=True, text=True)
        for more in ([], ray)
    )
    assert plain.returncode == spread.returncode == 0, spread.stderr
    assert json.loads(spread.stdout) == json.loads(plain.stdout)


def test_a_node_without_the_files_is_named(machines: Machines, tmp_path: Path) -> None:
    machines.repair()
    from stemsplit.separation.nodes import look

    engine = Ray(machines.cluster.address)
    for probe, inputs, words in (
        (tmp_path / "no", [], "output folder"),
        (tmp_path, [tmp_path / "x"], "no such"),
        (None, [tmp_path / "x"], "no such"),
    ):
        answers = engine.on_every_node(look, (), inputs, probe, Access())
        assert len(answers) == 2
        assert all(words in str(answer) for answer in answers.values())


def test_an_evaluation_checks_the_nodes_first(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines.repair()
    data = tmp_path / "set"
    songs(data)
    planned = plan_dataset(data)

    def moved(root: str | Path, only: Sequence[str] = ()) -> list[Job]:
        data.rename(tmp_path / "elsewhere")  # as if this machine alone saw the files
        return planned

    monkeypatch.setattr("stemsplit.api.plan_dataset", moved)
    events = list[Event]()
    with pytest.raises(SettingsError, match=r"node .*no such file"):
        evaluate(data, "tiny", engine=Ray(machines.cluster.address), callback=events.append)
    assert not any(isinstance(event, TrackStart) for event in events)


def test_a_poisoned_track_fails_and_the_others_are_done(machines: Machines, tmp_path: Path) -> None:
    machines.repair()
    (tmp_path / "in").mkdir()
    for name, level in (("a", 0.3), ("b", 0.99), ("c", 0.3), ("d", 0.3)):
        noise = np.random.default_rng(1).uniform(-level, level, (20_000, 2))
        soundfile.write(tmp_path / f"in/{name}.wav", noise, 44100, subtype="FLOAT")
    request = Request(
        output=OutputSettings(bit_depth="32f"), batch=BatchSettings(output=str(tmp_path / "out"))
    )
    engine = Ray(machines.cluster.address, worker_cpus=1)
    report = separate_files(tmp_path / "in", request, model=Deadly(), engine=engine)
    assert [track.status for track in report.tracks] == ["done", "failed", "done", "done"]
    assert report.exit_code == 3
    error = report.tracks[1].error
    assert error is not None and error.code == 5 and "3 worker processes died" in error.message
    found = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert found == ["a", "c", "d", *["one.wav"] * 3, *["two.wav"] * 3]

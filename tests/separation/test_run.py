"""Files and folders separated from Python, as the command does."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from stemsplit import Recipe, Request, Step, separate_files
from stemsplit.engines import Engine, Processes, Threads
from stemsplit.errors import Cancelled, SettingsError, StemsplitError, UnknownNameError
from stemsplit.events import Callback, End, Event, Progress, Start, TrackDone, TrackStart
from stemsplit.models.network import Identity
from stemsplit.settings import BatchSettings, ModelSettings, OutputSettings, StemSettings
from tests.test_engines import until


def songs(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        audio = 0.1 * np.random.default_rng(len(name)).standard_normal((9000, 2))
        soundfile.write(path, audio, 44100)
    return folder / "in"


def request(folder: Path, **batch: object) -> Request:
    return Request(
        model=ModelSettings("classic"),
        stems=StemSettings(stems=("bass",)),
        output=OutputSettings(bit_depth="32f"),
        batch=BatchSettings(output=str(folder / "out"), **batch),  # type: ignore[arg-type]
    )


def files(folder: Path) -> dict[str, bytes]:
    out = folder / "out"
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_a_folder_becomes_files_and_a_report(tmp_path: Path) -> None:
    folder, events = songs(tmp_path, "a.wav", "sub/b.wav"), list[Event]()
    report = separate_files(folder, request(tmp_path), callback=events.append)
    assert report.exit_code == 0 and [track.status for track in report.tracks] == ["done", "done"]
    assert sorted(files(tmp_path)) == ["a/bass.wav", "sub/b/bass.wav"]
    kinds = [type(event) for event in events if not isinstance(event, Progress)]
    assert kinds[0] is Start and kinds[-1] is End
    assert kinds.count(TrackStart) == kinds.count(TrackDone) == 2
    again = separate_files([str(folder)], request(tmp_path))
    assert [track.status for track in again.tracks] == ["skipped", "skipped"]


@pytest.mark.parametrize("engine", [None, Threads(), Processes(2)], ids=["shared", "own thread", "processes"])
def test_every_engine_gives_the_same_files(tmp_path: Path, engine: Engine | None) -> None:
    folder, events = songs(tmp_path, "a.wav", "bb.wav", "ccc.wav"), list[Event]()
    (folder / "bb.wav").write_bytes(b"no audio")
    report = separate_files(folder, request(tmp_path), engine=engine, callback=events.append)
    assert [(track.input[-6:], track.status) for track in report.tracks] == [
        *(("/a.wav", "done"), ("bb.wav", "failed"), ("cc.wav", "done")),
    ]
    assert report.exit_code == 3
    expected = tmp_path / "expected"
    separate_files(folder, request(expected))
    assert files(tmp_path) == files(expected)
    assert any(isinstance(event, Progress) and event.done_s for event in events)


@pytest.mark.slow
def test_a_process_that_dies_costs_one_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it writes: the others are done, and the same call again does the one that is missing."""
    folder, killed = songs(tmp_path, "a.wav", "bb.wav", "ccc.wav"), list[int]()

    def kill(event: Event) -> None:
        if isinstance(event, TrackStart) and event.input.endswith("bb.wav") and not killed:
            killed.extend(child for child in children() if child)
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    def children() -> list[int]:
        return [process.pid or 0 for process in multiprocessing.active_children()]

    report = separate_files(folder, request(tmp_path), engine=Processes(1), callback=kill)
    assert killed and [track.status for track in report.tracks] == ["done", "failed", "done"]
    assert report.tracks[1].error is not None and "a worker process died" in report.tracks[1].error.message
    again = separate_files(folder, request(tmp_path), engine=Processes(1))
    assert [track.status for track in again.tracks] == ["skipped", "done", "skipped"]
    assert sorted(files(tmp_path)) == ["a/bass.wav", "bb/bass.wav", "ccc/bass.wav"]


@pytest.mark.parametrize("engine", [None, Processes(2)], ids=["shared", "processes"])
def test_a_callback_that_returns_false_ends_the_run_and_leaves_nothing_half_done(
    tmp_path: Path, engine: Engine | None
) -> None:
    folder = songs(tmp_path, *(f"{number}.wav" for number in range(6)))
    finished = list[str]()

    def stop(event: Event) -> bool | None:
        if isinstance(event, TrackDone):
            finished.append(event.input)
        return False if len(finished) == 2 else None

    with pytest.raises(Cancelled):
        separate_files(folder, request(tmp_path), engine=engine, callback=stop)
    assert 1 < len(files(tmp_path)) < 6
    assert all(name.endswith("/bass.wav") for name in files(tmp_path)), "no part is left"


class Stuck:
    """The mix, for hours."""

    stems = ("one",)
    sample_rate, channels, segment_samples, context_samples = 44100, 2, 44100, 0
    normalise, overlap = False, None

    def __call__(self, mix: Tensor) -> Tensor:
        time.sleep(3600)
        return mix[:, None]  # [B, 1, C, T]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the worker is killed by a signal")
def test_a_worker_that_doesn_t_stop_is_killed_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stemsplit.engines._EXIT_TIMEOUT_S", 1)
    folder, begun = songs(tmp_path, "a.wav", "b.wav"), threading.Event()

    def stop(event: Event) -> bool | None:
        if isinstance(event, TrackStart):
            until(lambda: [*(tmp_path / "out").rglob(".*.part")])
            begun.set()
        return False if begun.is_set() else None

    whole = replace(request(tmp_path), stems=StemSettings())
    with pytest.raises(Cancelled):
        separate_files(folder, whole, model=Stuck(), engine=Processes(1), callback=stop)
    assert begun.is_set() and not (tmp_path / "out").exists()


class Lazy:
    """An engine that forgets the last item."""

    def run(self, items: Iterable[Any], factory: Any, callback: Callback | None = None) -> Iterator[Any]:
        yield from list(Threads().run(items, factory, callback))[:-1]


def test_an_engine_that_loses_a_track_is_an_error(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav", "b.wav")
    with pytest.raises(StemsplitError, match=r"Lazy ended without a result of .*/b.wav"):
        separate_files(folder, request(tmp_path), engine=Lazy())


class Shares:
    """Fixed shares of the mix."""

    stems = ("drums", "bass", "other", "vocals")
    sample_rate, channels, segment_samples, context_samples = 44100, 2, 44100, 0
    normalise, overlap = False, None

    def __init__(self, *shares: float, identity: Identity | None = None) -> None:
        self.shares = torch.tensor(shares)
        if identity:
            self.identity = identity

    def __call__(self, mix: Tensor) -> Tensor:
        return mix[:, None] * self.shares[:, None, None]  # [B, S, C, T]


def test_karaoke_of_a_recipe_with_named_outputs_is_exact(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav")
    recipe = Recipe((Step((Shares(0.1, 0.2, 0.3, 0.4),), name="a"),), outputs={"band": "mix - a.vocals"})
    karaoke = replace(request(tmp_path), stems=StemSettings(karaoke=True))
    separate_files(folder, karaoke, model=recipe)
    mix, _ = soundfile.read(folder / "a.wav", dtype="float32")
    found, _ = soundfile.read(tmp_path / "out/a/instrumental.wav", dtype="float32")
    np.testing.assert_allclose(found, 0.6 * mix, atol=1e-6)


def test_a_model_s_identity_tells_its_files_from_another_s(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav")
    first, second = (Shares(*shares) for shares in ((0.1, 0.2, 0.3, 0.4), (0.4, 0.3, 0.2, 0.1)))
    assert separate_files(folder, request(tmp_path), model=first).tracks[0].note is None
    (again,) = separate_files(folder, request(tmp_path), model=second).tracks
    assert again.status == "skipped" and again.note and "can't be told from another" in again.note
    named = request(tmp_path / "named")
    separate_files(folder, named, model=Shares(0.1, 0.2, 0.3, 0.4, identity=Identity("mine", "aa" * 32)))
    (same,) = separate_files(
        folder, named, model=Shares(0.1, 0.2, 0.3, 0.4, identity=Identity("mine", "aa" * 32))
    ).tracks
    assert same.status == "skipped" and same.note is None
    (other,) = separate_files(
        folder, named, model=Shares(0.4, 0.3, 0.2, 0.1, identity=Identity("mine", "bb" * 32))
    ).tracks
    assert other.status == "failed" and other.error and "sha256 was" in other.error.message


def test_a_recipe_and_a_module_take_the_place_of_the_named_model(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav")
    recipe = Recipe((Step(("classic",)), Step(("classic",), input="bass")))
    report = separate_files(folder, request(tmp_path), model=recipe)
    assert list(report.tracks[0].outputs) == ["bass.drums", "bass.bass", "bass.other", "bass.vocals"]
    again = separate_files(folder, request(tmp_path), model=recipe)
    assert again.tracks[0].status == "skipped"


def test_wrong_settings_are_errors_before_the_work(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav")
    with pytest.raises(UnknownNameError, match="no model named 'clasic'"):
        separate_files(folder, request(tmp_path), model="clasic")
    with pytest.raises(SettingsError, match="no audio file found"):
        separate_files([folder], request(tmp_path, exclude=("*.wav",)))
    assert not (tmp_path / "out").exists()


def test_files_in_folders_are_included_and_excluded(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav", "b.wav", "old/c.wav")
    separate_files(folder, request(tmp_path, include=("*.wav",), exclude=("old", "b*")))
    assert list(files(tmp_path)) == ["a/bass.wav"]

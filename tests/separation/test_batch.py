"""A batch goes on if a file fails, and leaves no incomplete file."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit.events import Event, Start
from stemsplit.separation.files import TrackFiles
from stemsplit.separation.inputs import collect
from stemsplit.separation.run import Session, prepare
from stemsplit.separation.runner import Runner
from stemsplit.settings import BatchSettings, ModelSettings, Request, StemSettings


def session(folder: Path, *names: str) -> Session:
    for name in names:
        soundfile.write(folder / name, np.full((4000, 2), 0.1), 8000)
    request = Request(
        model=ModelSettings("classic"),
        stems=StemSettings(stems=("bass",)),
        batch=BatchSettings(output=str(folder / "out")),
    )
    return prepare(collect([folder / name for name in names]), request)


def test_a_file_deleted_during_the_batch_is_a_failed_track(tmp_path: Path) -> None:
    def remove(event: Event) -> None:
        if isinstance(event, Start):
            (tmp_path / "b.wav").unlink()

    results = list(session(tmp_path, "a.wav", "b.wav", "c.wav").run(remove))
    assert [result.status for result in results] == ["done", "failed", "done"]
    assert results[1].error is not None and "no such file" in results[1].error.message.lower()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "c"]


def test_a_system_error_of_one_file_fails_its_track(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: TrackFiles, tags: object) -> None:
        raise OSError(5, "Input/output error", "/disk")

    monkeypatch.setattr(TrackFiles, "open", broken)
    (result,) = session(tmp_path, "a.wav").run()
    assert result.error is not None
    assert (result.error.code, result.error.message, result.error.hint) == (
        1,
        "/disk: Input/output error",
        None,
    )


def test_an_input_that_breaks_a_library_does_not_end_the_survey(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stemsplit.separation import jobs as survey

    def breaking(path: Path, **named: object) -> object:
        if path.name == "b.wav":
            raise MemoryError
        return probe(path, **named)  # type: ignore[arg-type]

    probe = survey.probe
    monkeypatch.setattr(survey, "probe", breaking)
    results = list(session(tmp_path, "a.wav", "b.wav").run())
    assert [(result.status, result.error and result.error.code) for result in results] == [
        ("failed", 5),
        ("done", None),
    ]


def test_leaving_early_removes_parts_between_two_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One track is being encoded, another is computed and waits for its turn."""
    free, computed = threading.Event(), threading.Event()
    publish = TrackFiles.publish

    def slow(self: TrackFiles) -> None:
        if not any("a" in path.parts for path in self.files.values()):
            assert free.wait(30)
        publish(self)

    def watched(self: Runner, *given: Any, **named: Any) -> Iterator[Any]:
        yield from run(self, *given, **named)
        if named["name"].endswith("c.wav"):
            computed.set()

    run = Runner.run
    monkeypatch.setattr(Runner, "run", watched)
    monkeypatch.setattr(TrackFiles, "publish", slow)
    results = session(tmp_path, "a.wav", "b.wav", "c.wav").run()
    assert next(iter(results)).status == "done"
    assert computed.wait(30)
    time.sleep(0.1)
    threading.Timer(0.5, free.set).start()
    results.close()
    left = [path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")]
    assert "a/bass.wav" in left and not any(name.endswith(".part") for name in left)
    # whichever of the two is encoded first ends whole, the one that waits doesn't begin
    assert sum(name.endswith("/bass.wav") for name in left) == 2

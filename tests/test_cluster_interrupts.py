"""An interruption of the driver at any line lets every worker of a cluster clean up; Ray is replaced."""

import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from stemsplit import cluster, pools
from stemsplit.events import Callback, Notice, emit
from tests import test_engines as simple

WATCHED = {cluster.__file__, pools.__file__}


class Interrupted(BaseException):
    """As a signal raises it."""


class FakeRay:
    """What the engine uses of Ray, with threads as actors."""

    exceptions = SimpleNamespace(RayError=ConnectionError)

    def remote(self, **options: Any) -> Any:
        def kind(made: type) -> Any:
            return SimpleNamespace(remote=lambda *arguments: FakeActor(made(*arguments), options))

        return kind

    def wait(
        self, references: Sequence[Future[Any]], num_returns: int = 1, timeout: float | None = None
    ) -> tuple[list[Any], list[Any]]:
        when = FIRST_COMPLETED if num_returns == 1 else "ALL_COMPLETED"
        done = wait_for(references, timeout, when).done
        return [one for one in references if one in done], [one for one in references if one not in done]

    def get(self, reference: Future[Any]) -> Any:
        return reference.result()

    def kill(self, actor: "FakeActor") -> None:
        actor.threads.shutdown(wait=False)


class FakeActor:
    """Actor whose methods run in threads of this process."""

    def __init__(self, host: object, options: dict[str, Any]) -> None:
        self.host, self.threads = host, ThreadPoolExecutor(options["max_concurrency"])

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.host, name)
        return SimpleNamespace(remote=lambda *arguments: self.threads.submit(method, *arguments))


class Lines:
    """The engine's lines that this thread executes, each counted once; an exception comes before `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.seen = last, dict[tuple[str, int], None]()

    def __enter__(self) -> "Lines":
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        # Signals are ignored once the first has come, so that `close` isn't interrupted.
        watched = frame.f_code.co_filename in WATCHED and frame.f_code.co_name != "close"
        return self._line if watched else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.seen.setdefault((Path(frame.f_code.co_filename).name, frame.f_lineno))
            if len(self.seen) == self.last:
                sys.settrace(None)
                raise Interrupted(*reversed(self.seen))
        return self._line


def holding(item: Path, callback: Callback) -> str:
    """Hold a file for a while, or until the work is cancelled."""
    item.touch()
    try:
        for number in range(6):
            emit(callback, Notice(str(number)))
            time.sleep(0.01)
    finally:
        time.sleep(0.02)  # longer than the driver takes for a line
        item.unlink()
    return item.name


def run(folder: Path, lines: Lines) -> None:
    """Do five items with two workers."""
    share = cluster._Share(2, 1, 0)
    actors = cluster._Actors(FakeRay(), pools.packed(simple.Recipe(holding)), share)
    items = [folder / str(number) for number in range(5)]
    results = pools.in_order(actors, share.workers, items, None)
    with lines:
        assert list(results) == [*"01234"]


def test_an_interruption_before_any_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr("stemsplit.actor.BATCH_S", 0.02)
    lines, interrupted, left = Lines(), 0, {}
    run(tmp_path, lines)
    for last in range(1, len(lines.seen) + 1):
        folder = tmp_path / str(last)
        folder.mkdir()
        try:
            run(folder, Lines(last))
        except Interrupted as where:
            interrupted += 1
            left[where.args[0]] = sorted(path.name for path in folder.iterdir())
        time.sleep(0.03)  # for the thread of an actor that is lost
    assert interrupted > 40
    assert {where: files for where, files in left.items() if files} == {}

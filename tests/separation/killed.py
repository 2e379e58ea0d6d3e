"""Kill a worker before every line that deals with files, and let another process do its track; a program.

    python -m tests.separation.killed FOLDER

It prints a JSON list of what went wrong, empty if nothing did, and the number of kills on stderr.
"""

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import soundfile

from stemsplit import claims, files
from stemsplit.claims import Claims, claim_of
from stemsplit.separation import files as track_files
from stemsplit.separation.batch import Item, WorkerFactory, items_of
from stemsplit.separation.report import TrackResult
from stemsplit.separation.run import find, prepare
from stemsplit.settings import BatchSettings, OutputSettings, Request
from tests.separation.deadly import Deadly

fork = multiprocessing.get_context("fork")  # before torch has threads
WATCHED = {claims.__file__, files.__file__, track_files.__file__}


class Lines:
    """Lines that a worker executes, each counted once; the process is killed before line `last`."""

    def __init__(self, last: int | None = None) -> None:
        self.last, self.seen = last, dict[tuple[str, int], None]()

    def __enter__(self) -> "Lines":
        threading.settrace(self._call)
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]

    def _call(self, frame: FrameType, event: str, _: Any) -> Any:
        return self._line if frame.f_code.co_filename in WATCHED else None

    def _line(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.seen.setdefault((Path(frame.f_code.co_filename).name, frame.f_lineno))
            if len(self.seen) == self.last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._line


def job(song: Path, output: Path, run: str) -> tuple[WorkerFactory, Item | None]:
    """Return a run's work; no item if it finds the track done."""
    request = Request(output=OutputSettings(bit_depth="16"), batch=BatchSettings(output=str(output)))
    session = prepare(find([str(song)], request), request, model=Deadly())
    (found,) = session.survey()
    item = None if isinstance(found, TrackResult) else next(items_of([found], 1))
    flow = session.flow.narrow(session.outputs)
    return WorkerFactory(flow, session.outputs, session.fingerprint, request, run), item


def work(factory: WorkerFactory, item: Item | None, last: int | None = None) -> Sequence[Any] | None:
    """Do the track in a process that is killed before its line `last`.

    Returns:
        The result's status, and the lines that were executed; None if it was killed.
    """
    if item is None:
        return "skipped", ()
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_send, args=(sender, factory, item, last))
    process.start()
    sender.close()
    try:
        answer: Sequence[Any] = receiver.recv()
        return answer
    except EOFError:
        return None
    finally:
        receiver.close()
        process.join()


def _send(sender: Connection, factory: WorkerFactory, item: Item, last: int | None) -> None:
    with Lines(last) as lines:
        worker = factory()
        worked = worker(item, lambda _: None)
        worker.close()
    status = worked.result.status if worked.result is not None else "taken"
    sender.send((status, [*lines.seen]))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def abandon(output: Path) -> None:
    """Leave the claim of a process that has ended."""
    claim = claim_of(output / "song/two.wav")
    assert isinstance(claim, Path)
    claim.parent.mkdir(parents=True)
    claim.write_text(json.dumps(asdict(replace(Claims("older").owner, process="1:1"))))


def wrongs(folder: Path, successor: str, abandoned: bool) -> Iterator[str]:
    """Kill the worker before each of its lines; yield what the successor's run did wrong."""
    song, first = folder / "song.wav", folder / "first"
    if abandoned:
        abandon(first)
    answer = work(*job(song, first, "run"))
    assert answer is not None and answer[0] == "done"
    kills = 0
    for last, line in enumerate(answer[1], 1):
        output = folder / str(last)
        if abandoned:
            abandon(output)
        factory, item = job(song, output, "run")
        if work(factory, item, last) is None:
            kills += 1
        if successor != "run":
            factory, item = job(song, output, successor)
        status = outcome(work(factory, item))
        if status == "taken" and item is not None:  # it comes last, as in the engine
            time.sleep(claims.WRITTEN_S)
            status = outcome(work(factory, item._replace(waits=True)))
        if status not in ("done", "skipped") or names(output) != names(first):
            yield f"{line}: {status}, {names(output)}"
    print(f"{kills} kills before {last} lines, next run {successor}, abandoned {abandoned}", file=sys.stderr)


def outcome(answer: Sequence[Any] | None) -> str:
    return "killed" if answer is None else str(answer[0])


def main(folder: Path) -> None:
    claims.WRITTEN_S, claims.POLL_S = 0.3, 0.05
    noise = 0.1 * np.random.default_rng(1).standard_normal((20_000, 2))
    found = list[str]()
    for successor, abandoned in (("run", True), ("another", False)):
        place = folder / successor
        place.mkdir()
        soundfile.write(place / "song.wav", noise, 44100)
        found += wrongs(place, successor, abandoned)
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

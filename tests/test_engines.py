"""Engines: results in order, events, failures, cancelling, and processes that are killed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from stemsplit.engines import Engine, Processes, Threads, make_engine
from stemsplit.errors import (
    Cancelled,
    InputError,
    ResourceError,
    SettingsError,
    StemsplitError,
    UnknownNameError,
)
from stemsplit.events import Callback, Event, Notice, emit

ENGINES: list[Engine] = [Threads(), Threads(3), Processes(2)]
SEVERAL: list[Engine] = [Threads(2), Processes(2)]
each = pytest.mark.parametrize("engine", ENGINES, ids=repr)
both = pytest.mark.parametrize("engine", SEVERAL, ids=repr)
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@dataclass(frozen=True)
class Recipe:
    """Recipe that makes workers from a function of this module, and writes a file for each."""

    work: Callable[[Any, Callback], Any]
    folder: Path | None = None

    def __call__(self) -> Callable[[Any, Callback], Any]:
        if self.folder is not None:
            (self.folder / f"{os.getpid()}-{threading.get_ident()}").touch()
        return self.work


def square(item: int, callback: Callback) -> int:
    return item * item


def sleepy(item: float, callback: Callback) -> float:
    time.sleep(item)
    return item


def telling(item: int, callback: Callback) -> int:
    for part in range(3):
        emit(callback, Notice(f"{item}.{part}"))
    return item


def endless(item: int, callback: Callback) -> None:
    while True:
        emit(callback, Notice("still here"))
        time.sleep(0.01)


def mute(item: Path, callback: Callback) -> None:
    """Write a file with the process id, then send nothing for a long time."""
    part = item.with_suffix(".part")
    part.write_text(str(os.getpid()))
    part.replace(item)
    time.sleep(600)


class Odd(Exception):
    """Exception that can be pickled, but not unpickled."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(f"{one} {two}")


def failing(item: object, callback: Callback) -> object:
    if isinstance(item, Exception):
        raise item
    if item == "odd":
        raise Odd("quite", "odd")
    if item == "lambda":
        return lambda: None
    return item


def dying(item: str, callback: Callback) -> str:
    emit(callback, Notice(f"begins {item}"))
    if item == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "exit":
        sys.exit(3)
    if item == "gone":
        os._exit(0)
    return item


def telling_from_threads(item: int, callback: Callback) -> None:
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(emit, callback, Notice("x" * 100_000)) for _ in range(40)]:
            future.result()


def cancelled(item: int, callback: Callback) -> None:
    raise Cancelled


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


# ---------------------------------------------------------------- results


@each
@pytest.mark.parametrize("count", [0, 1, 7])
def test_results(engine: Engine, count: int) -> None:
    assert list(engine.run(range(count), Recipe(square))) == [n * n for n in range(count)]
    assert not active_children()


@both
def test_results_keep_the_order_of_the_items(engine: Engine) -> None:
    waits = [0.5, 0.0, 0.2, 0.0, 0.1]
    assert list(engine.run(waits, Recipe(sleepy))) == waits


@each
def test_workers_are_made_once_where_they_work(engine: Engine, tmp_path: Path) -> None:
    assert len(list(engine.run(range(9), Recipe(square, tmp_path)))) == 9
    made = list(tmp_path.iterdir())
    assert 1 <= len(made) <= getattr(engine, "count", 1)
    assert all(path.name.startswith(f"{os.getpid()}-") for path in made) is not isinstance(engine, Processes)


def touching(item: Path, callback: Callback) -> None:
    item.touch()


@each
def test_items_are_taken_as_workers_become_free(engine: Engine, tmp_path: Path) -> None:
    def files() -> Iterator[Path]:
        for number in range(20):
            begun = number - len(list(tmp_path.iterdir()))
            assert begun < getattr(engine, "count", 1)
            yield tmp_path / str(number)

    results = engine.run(files(), Recipe(touching))
    assert not list(tmp_path.iterdir())
    assert list(results) == [None] * 20


def test_engines_by_number() -> None:
    assert make_engine(1) == Threads(1) and make_engine(3) == Processes(3)


# ---------------------------------------------------------------- events


@each
def test_events_reach_the_caller_s_thread(engine: Engine) -> None:
    heard: list[tuple[str, int]] = []

    def callback(event: Event) -> None:
        assert isinstance(event, Notice)
        heard.append((event.message, threading.get_ident()))

    assert list(engine.run(range(4), Recipe(telling), callback)) == [0, 1, 2, 3]
    for item in range(4):
        assert [m for m, _ in heard if m.startswith(f"{item}.")] == [f"{item}.{part}" for part in range(3)]
    assert {thread for _, thread in heard} == {threading.get_ident()}


@each
def test_a_callback_is_optional(engine: Engine) -> None:
    assert list(engine.run([5], Recipe(telling))) == [5]


def test_events_of_a_worker_s_threads_do_not_mix() -> None:
    heard: list[Event] = []
    assert list(Processes(2).run(range(2), Recipe(telling_from_threads), heard.append)) == [None, None]
    assert heard == [Notice("x" * 100_000)] * 80


# ---------------------------------------------------------------- failures


@each
def test_exceptions_are_results(engine: Engine) -> None:
    errors: list[StemsplitError] = [
        InputError("a.wav", "is empty", hint="no hint"),
        UnknownNameError("model", "clasic", ["classic"]),
        ResourceError("full"),
    ]
    first, *found, last = engine.run([1, *errors, 2], Recipe(failing))
    assert (first, last) == (1, 2)
    for error, again in zip(errors, found, strict=True):
        assert type(again) is type(error) and str(again) == str(error)
        assert vars(again) == vars(error)


def test_results_that_can_not_be_pickled_are_errors() -> None:
    odd, function, last = Processes(1).run(["odd", "lambda", "last"], Recipe(failing))
    assert isinstance(odd, StemsplitError) and str(odd) == "Odd: quite odd"
    assert isinstance(function, Exception) and "lambda" in str(function)
    assert last == "last"


def test_a_factory_that_can_not_be_sent_is_refused() -> None:
    with pytest.raises(SettingsError, match="the work can't be sent to other processes: .*lambda"):
        Processes(2).run([1], lambda: square)


def broken_factory() -> Callable[[int, Callback], int]:
    raise InputError("model", "is broken")


@each
def test_a_worker_that_can_not_be_made_fails_each_item(engine: Engine) -> None:
    found = list(engine.run(range(3), broken_factory))
    assert [str(error) for error in found] == ["model: is broken"] * 3


def test_an_exit_in_a_thread_is_passed_on() -> None:
    with pytest.raises(SystemExit):
        list(Threads(2).run(["exit"], Recipe(dying)))


@pytest.mark.parametrize("engine", [Processes(1), Processes(2)], ids=repr)
@pytest.mark.parametrize("end", [pytest.param("kill", marks=posix), "exit", "gone"])
def test_a_process_that_dies_is_one_failed_item(engine: Engine, end: str) -> None:
    heard: list[Event] = []
    items = ["a", end, "b", end, "c"]
    found = list(engine.run(items, Recipe(dying), heard.append))
    assert [result for result in found if isinstance(result, str)] == ["a", "b", "c"]
    for failed in (found[1], found[3]):
        assert isinstance(failed, ResourceError) and failed.reason == "a worker process died"
    # messages that were sent before the process died are received
    assert sorted(event.message for event in heard if isinstance(event, Notice)) == sorted(
        f"begins {item}" for item in items
    )
    assert not active_children()


@posix
def test_a_process_killed_from_outside_while_the_other_works(tmp_path: Path) -> None:
    victim = tmp_path / "victim"

    def kill() -> None:
        until(victim.exists)
        os.kill(int(victim.read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    found = list(Processes(2).run([victim, tmp_path / "no" / "folder"], Recipe(mute)))
    killer.join()
    assert isinstance(found[0], ResourceError) and isinstance(found[1], FileNotFoundError)


@posix
def test_a_process_killed_while_it_waits_is_replaced() -> None:
    results = Processes(1).run(range(3), Recipe(square))
    assert next(results) == 0
    (process,) = active_children()
    process.kill()
    until(lambda: not process.is_alive())
    assert list(results) == [1, 4]


def test_a_script_that_starts_itself_again_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from stemsplit.engines import Processes\n"
        "def factory():\n    return lambda item, callback: item + 1\n"
        "GUARD\n    print(list(Processes(2).run([1, 2], factory)))\n"
    )
    text = script.read_text()
    script.write_text(text.replace("GUARD", "if True:"))
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert ran.stderr.endswith("ResourceError: a worker process died before it could begin\n")
    script.write_text(text.replace("GUARD", 'if __name__ == "__main__":'))
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.stderr) == ("[2, 3]\n", "")


# ---------------------------------------------------------------- cancelling


@each
def test_a_callback_cancels(engine: Engine) -> None:
    heard: list[Event] = []

    def callback(event: Event) -> bool:
        heard.append(event)
        return len(heard) < 5

    with pytest.raises(Cancelled):
        list(engine.run(range(4), Recipe(endless), callback))
    assert len(heard) == 5
    assert not active_children()


@each
def test_a_worker_cancels(engine: Engine) -> None:
    with pytest.raises(Cancelled):
        list(engine.run(range(4), Recipe(cancelled)))
    assert not active_children()


def first_then_endless(item: int, callback: Callback) -> None:
    if item:
        endless(item, callback)


@both
def test_closing_the_iterator_ends_the_work(engine: Engine) -> None:
    threads = threading.active_count()
    results = engine.run(range(9), Recipe(first_then_endless))
    assert next(results) is None
    results.close()
    assert threading.active_count() == threads and not active_children()


@posix
@pytest.mark.parametrize("engine", ENGINES, ids=repr)
def test_ctrl_c(engine: Engine) -> None:
    def callback(event: Event) -> None:
        if not interrupted:
            interrupted.append(event)
            os.kill(os.getpid(), signal.SIGINT)

    interrupted: list[Event] = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(engine.run(range(4), Recipe(endless), callback))
    finally:
        signal.signal(signal.SIGINT, before)
    assert not active_children()


@pytest.mark.slow
@posix
def test_silent_processes_are_terminated(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    results = Processes(2).run(files, Recipe(mute))
    waiting = threading.Thread(target=lambda: until(lambda: all(f.exists() for f in files)))
    waiting.start()
    numbers: list[int] = []

    def interrupt() -> None:
        waiting.join()
        numbers.extend(int(file.read_text()) for file in files)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            list(results)
    finally:
        interrupter.join()
        signal.signal(signal.SIGINT, before)
    assert len(numbers) == 2 and not any(map(is_running, numbers))

"""Engines: map items over workers, in threads of this process or in other processes.

An engine knows nothing about audio or models. A worker is called with an item and a callback for its events.
A factory is a function that makes a worker; it is called in the thread or process in which the worker runs.
Results are in the order of the items, and the exception of a failed item is a result, too.
"""

import os
import pickle
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context, parent_process, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread, local
from time import monotonic
from types import NoneType
from typing import Any, Protocol, TypeVar

from stemsplit.errors import Cancelled, ResourceError
from stemsplit.events import Callback, Event
from stemsplit.fields import require, require_a
from stemsplit.pools import Message, in_order, packed, picklable

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker = Callable[[Item, Callback], Result]
Factory = Callable[[], Worker[Item, Result]]

_EXIT_TIMEOUT_S = 5  # after which a terminated process is killed
_READY = "ready"  # first message of a process


class Engine(Protocol):
    """Anything that maps items over workers."""

    def run(
        self, items: Iterable[Item], factory: Factory[Item, Result], callback: Callback | None = None
    ) -> Generator[Result | Exception, None, None]:
        """Yield the results in the order of the items: a worker's return value or the exception it raised.

        Items are taken when a worker is free. Closing the iterator early stops the work.

        Args:
            items: arguments of the workers.
            factory: function that makes a worker, called once in each thread or process that gets an item.
            callback: receives the events of all workers, one at a time, in the caller's thread.

        Raises:
            Cancelled: the callback returned False, or a worker raised it.
        """
        ...


def check_call(engine: object, callback: object) -> None:
    """Refuse arguments that aren't what they are called; None is allowed for both.

    Args:
        engine: must have a method `run`.
        callback: must be a function.

    Raises:
        SettingsError: one of them isn't.
    """
    require(engine is None or hasattr(engine, "run"), "engine", "must be an engine", engine)
    require_a("callback", callback, Callable, NoneType)


@dataclass(frozen=True)
class Threads:
    """Engine with threads of this process; a single worker runs in the caller's thread.

    After a cancellation, it waits for all threads, which stop at their worker's next event.

    Attributes:
        count: number of threads.
    """

    count: int = 1

    def run(
        self, items: Iterable[Item], factory: Factory[Item, Result], callback: Callback | None = None
    ) -> Generator[Result | Exception, None, None]:
        """See `Engine.run`."""
        if self.count == 1:
            return _one_by_one(items, factory, callback)
        return in_order(_ThreadPool(self.count, factory), self.count, items, callback)


@dataclass(frozen=True)
class Processes:
    """Engine with spawned processes; factory, items, events and results are pickled.

    If a process dies, its item's result is a `ResourceError`, and a new process replaces it. After a
    cancellation, every worker stops at its next event, and is terminated if that takes long.

    Attributes:
        count: number of processes.
    """

    count: int

    def run(
        self, items: Iterable[Item], factory: Factory[Item, Result], callback: Callback | None = None
    ) -> Generator[Result | Exception, None, None]:
        """See `Engine.run`.

        Raises:
            SettingsError: the factory can't be pickled.
            ResourceError: a process died before any process was ready.
        """
        return in_order(_ProcessPool(packed(factory)), self.count, items, callback)


def make_engine(jobs: int) -> Engine:
    """Return the engine for `jobs` items at a time: the caller's thread for one job, else processes."""
    return Threads() if jobs == 1 else Processes(jobs)


# ---------------------------------------------------------------- order


def _one_by_one(
    items: Iterable[Item], factory: Factory[Item, Result], callback: Callback | None
) -> Generator[Result | Exception, None, None]:
    make, tell = cache(factory), callback or _ignore
    for item in items:
        try:
            result: Result | Exception = make()(item, tell)
        except Cancelled:
            raise
        except Exception as error:
            result = error
        yield result


def _ignore(event: Event) -> None:
    pass


# ---------------------------------------------------------------- threads


class _ThreadPool:
    """Thread pool that sends its messages through a queue; each thread has its own worker."""

    def __init__(self, count: int, factory: Factory[Any, Any]) -> None:
        self._pool, self._factory, self._local = ThreadPoolExecutor(count), factory, local()
        self._messages: SimpleQueue[Message] = SimpleQueue()
        self._closed = Flag()

    def submit(self, index: int, item: Any) -> None:
        self._pool.submit(self._work, index, item)

    def receive(self) -> Message:
        return self._messages.get()

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)

    def _work(self, index: int, item: Any) -> None:
        def tell(event: Event) -> bool | None:
            self._messages.put(Message(index, False, event))
            return False if self._closed.is_set() else None

        try:
            if not hasattr(self._local, "worker"):
                self._local.worker = self._factory()
            result = self._local.worker(item, tell)
        except BaseException as error:  # `receive` would wait for ever for an exception that isn't sent
            result = error
        self._messages.put(Message(index, True, result))


# ---------------------------------------------------------------- processes


class _ProcessPool:
    """Process pool with a pipe to each process; processes are started when they are needed."""

    def __init__(self, factory: bytes) -> None:
        self._factory = factory
        self._processes: dict[Connection, SpawnProcess] = {}
        self._items: dict[Connection, int] = {}  # index of the item that each busy process has
        self._ready = set[Connection]()  # pipes of processes that have begun; also of those that died since

    def submit(self, index: int, item: Any) -> None:
        idle = [p for p, process in self._processes.items() if p not in self._items and process.is_alive()]
        pipe = idle[0] if idle else self._start()
        self._items[pipe] = index
        with suppress(BrokenPipeError):  # the process has died, which `receive` reports
            pipe.send(item)

    def _start(self) -> Connection:
        pipe, other = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(other, self._factory), daemon=True)
        with _sigint_blocked():
            process.start()
            self._processes[pipe] = process
        other.close()
        return pipe

    def receive(self) -> Message:
        while True:
            pipes: dict[Any, Connection] = {pipe: pipe for pipe in self._items}
            pipes |= {self._processes[pipe].sentinel: pipe for pipe in self._items}
            for found in wait(list(pipes)):
                if (message := self._received(pipes[found])) is not None:
                    return message

    def _received(self, pipe: Connection) -> Message | None:
        """Return the next message of a process that has sent one or has died; None for its ready message."""
        try:
            # messages that were sent before the process died come first
            content = pipe.recv() if pipe.poll() else None
        except (EOFError, OSError):
            content = None
        if content is None:
            return self._crashed(pipe)
        if content == _READY:
            self._ready.add(pipe)
            return None
        done, content = content
        return Message(self._items.pop(pipe) if done else self._items[pipe], done, content)

    def _crashed(self, pipe: Connection) -> Message:
        """Return a `ResourceError` as the result of the item whose process has died."""
        process, index = self._processes.pop(pipe), self._items.pop(pipe)
        pipe.close()
        _terminate(process)
        if not self._ready:
            hint = 'a script must start workers below `if __name__ == "__main__":`'
            raise ResourceError("a worker process died before it could begin", hint=hint)
        hint = "it may have been out of memory; use fewer --jobs"
        return Message(index, True, ResourceError("a worker process died", hint=hint))

    def close(self) -> None:
        for pipe, process in self._processes.items():
            if pipe not in self._ready:  # still importing: nothing is begun
                process.terminate()
            pipe.close()  # a busy worker sees it at its next event, and cleans up
        deadline = monotonic() + _EXIT_TIMEOUT_S
        for process in self._processes.values():
            process.join(max(0.0, deadline - monotonic()))
            _terminate(process)


def _terminate(process: SpawnProcess) -> None:
    """Terminate a process, which may be dead already, and wait for its end."""
    process.terminate()
    process.join(_EXIT_TIMEOUT_S)
    if process.exitcode is None:
        process.kill()
    process.join()
    process.close()


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """Block SIGINT in processes that are started in the block: their parent gets it and terminates them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # multiprocessing starts it with the first process, and unblocks SIGINT afterwards
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, factory: bytes) -> None:
    """Run a worker in this process on the items from a pipe, until the pipe is closed."""
    Thread(target=_exit_with_parent, daemon=True).start()
    lock = Lock()

    def send(done: bool, content: Any) -> None:
        with lock:
            pipe.send((done, content))

    def tell(event: Event) -> bool | None:
        # The parent sends nothing while an item is processed: what can be read is the end of the pipe.
        if pipe.poll():
            return False
        try:
            send(False, event)
        except OSError:  # the parent has closed it since
            return False
        return None

    @cache
    def worker() -> Worker[Any, Any]:
        made: Worker[Any, Any] = pickle.loads(factory)()
        return made

    with suppress(OSError):  # closed already: the loop ends at once
        pipe.send(_READY)
    while True:
        try:
            data = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        try:
            result = worker()(pickle.loads(data), tell)
        except Exception as error:
            result = picklable(error)
        try:
            send(True, result)
        except OSError:  # the parent has closed the pipe: nobody waits for the result
            return
        except (TypeError, AttributeError, pickle.PicklingError) as error:  # a result that can't be pickled
            send(True, picklable(error))


def _exit_with_parent() -> None:
    """Exit this process when its parent exits, which may be killed before it terminates its children."""
    if parent := parent_process():
        parent.join()
        os._exit(1)

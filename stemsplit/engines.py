"""Engines: map items over workers, in threads of this process or in processes of their own.

An engine knows nothing of audio or of models. A worker is called with an item and a callback for its events;
a recipe makes it where it's to work, so that a process can make its own. Results keep the order of the items,
and an item that fails is a result like the others.
"""

import os
import pickle
import signal
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from queue import SimpleQueue
from threading import Event as Flag
from threading import Lock, Thread, local
from typing import Any, NamedTuple, Protocol, TypeVar

from stemsplit.errors import Cancelled, ResourceError, SettingsError, StemsplitError
from stemsplit.events import Callback, Event, emit

Item = TypeVar("Item")
Result = TypeVar("Result")
Worker = Callable[[Item, Callback], Result]
Recipe = Callable[[], Worker[Item, Result]]

_END_S = 5  # that a process gets to end in before it's killed
_NONE = object()
_READY = "ready"  # the first that a process says


class Engine(Protocol):
    """Anything that maps items over workers."""

    def run(
        self, items: Iterable[Item], recipe: Recipe[Item, Result], callback: Callback | None = None
    ) -> Generator[Result | Exception, None, None]:
        """Yield the result of every item, in order: what the worker returned, or the exception it raised.

        Items are taken as workers become free. Closing the iterator early ends the work.

        Args:
            items: to work on.
            recipe: makes a worker; called wherever items are worked on, before the first of them.
            callback: receives the events of all workers, one at a time and in the caller's thread.

        Raises:
            Cancelled: the callback returned False, or a worker raised it.
        """
        ...


@dataclass(frozen=True)
class Threads:
    """Workers in threads of this process; a single one works in the caller's own thread.

    When the work is cancelled, every thread is waited for: it stops at its worker's next event.
    """

    count: int = 1

    def run(
        self, items: Iterable[Item], recipe: Recipe[Item, Result], callback: Callback | None = None
    ) -> Generator[Result | Exception, None, None]:
        """See `Engine.run`."""
        if self.count == 1:
            return _one_by_one(items, recipe, callback)
        return _in_order(_ThreadCrew(self.count, recipe), self.count, items, callback)


@dataclass(frozen=True)
class Processes:
    """Workers in spawned processes, to and from which recipe, items, events and results are pickled.

    A process that dies is a `ResourceError` for the item that it had; another takes its place. When the work
    is cancelled, the processes are ended whatever they are at.
    """

    count: int

    def run(
        self, items: Iterable[Item], recipe: Recipe[Item, Result], callback: Callback | None = None
    ) -> Generator[Result | Exception, None, None]:
        """See `Engine.run`.

        Raises:
            SettingsError: the recipe can't be pickled.
            ResourceError: a process died before any could begin.
        """
        try:
            packed = pickle.dumps(recipe)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise SettingsError(
                f"other processes can't be sent what is to work there: {error}",
                setting="--jobs",
                hint="a function must stand at the top of a module; one job at a time needs no process",
            ) from error
        return _in_order(_ProcessCrew(packed), self.count, items, callback)


def make_engine(jobs: int) -> Engine:
    """Return the engine for `jobs` items at a time: the caller's thread for one, else processes."""
    return Threads() if jobs == 1 else Processes(jobs)


# ---------------------------------------------------------------- order


def _one_by_one(
    items: Iterable[Item], recipe: Recipe[Item, Result], callback: Callback | None
) -> Generator[Result | Exception, None, None]:
    make, tell = cache(recipe), callback or _ignore
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


class _Message(NamedTuple):
    """An event, or what an item is `done` with, its result."""

    number: int
    done: bool
    content: Any


class _Crew(Protocol):
    """Workers at work."""

    def submit(self, index: int, item: Any) -> None:
        """Give an item to a worker that is free."""
        ...

    def receive(self) -> _Message:
        """Wait for the next message."""
        ...

    def close(self) -> None:
        """End the work."""
        ...


def _in_order(
    crew: _Crew, count: int, items: Iterable[Any], callback: Callback | None
) -> Generator[Any, None, None]:
    """Keep `count` workers busy, and yield the results in the order of the items."""
    todo, ready = enumerate(items), dict[int, Any]()
    running = following = 0
    with closing(crew):
        while True:
            while running < count and (pair := next(todo, None)) is not None:
                crew.submit(*pair)
                running += 1
            if not running:
                return
            message = crew.receive()
            if not message.done:
                emit(callback, message.content)
                continue
            running -= 1
            ready[message.number] = _passed(message.content)
            while (result := ready.pop(following, _NONE)) is not _NONE:
                following += 1
                yield result


def _passed(result: Any) -> Any:
    """Return a result; raise an exception that is to end all work."""
    stops = isinstance(result, BaseException) and not isinstance(result, Exception)
    if stops or isinstance(result, Cancelled):
        raise result
    return result


# ---------------------------------------------------------------- threads


class _ThreadCrew:
    """Threads that put their messages into a queue; each makes itself a worker."""

    def __init__(self, count: int, recipe: Recipe[Any, Any]) -> None:
        self._pool, self._recipe, self._own = ThreadPoolExecutor(count), recipe, local()
        self._messages: SimpleQueue[_Message] = SimpleQueue()
        self._closed = Flag()

    def submit(self, index: int, item: Any) -> None:
        self._pool.submit(self._work, index, item)

    def receive(self) -> _Message:
        return self._messages.get()

    def close(self) -> None:
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)

    def _work(self, index: int, item: Any) -> None:
        def tell(event: Event) -> bool | None:
            self._messages.put(_Message(index, False, event))
            return False if self._closed.is_set() else None

        try:
            if not hasattr(self._own, "worker"):
                self._own.worker = self._recipe()
            result = self._own.worker(item, tell)
        except BaseException as error:  # what isn't passed on would be waited for for ever
            result = error
        self._messages.put(_Message(index, True, result))


# ---------------------------------------------------------------- processes


class _ProcessCrew:
    """Processes at the other ends of pipes, begun when there is an item for them."""

    def __init__(self, recipe: bytes) -> None:
        self._recipe = recipe
        self._processes: dict[Connection, SpawnProcess] = {}
        self._items: dict[Connection, int] = {}  # what the busy ones are at
        self._begun = False

    def submit(self, index: int, item: Any) -> None:
        idle = [p for p, process in self._processes.items() if p not in self._items and process.is_alive()]
        pipe = idle[0] if idle else self._start()
        self._items[pipe] = index
        with suppress(BrokenPipeError):  # it has died, which `receive` tells
            pipe.send(item)

    def _start(self) -> Connection:
        pipe, other = get_context("spawn").Pipe()
        process = get_context("spawn").Process(target=_serve, args=(other, self._recipe), daemon=True)
        with _undisturbed():
            process.start()
            self._processes[pipe] = process
        other.close()
        return pipe

    def receive(self) -> _Message:
        while True:
            pipes: dict[Any, Connection] = {pipe: pipe for pipe in self._items}
            pipes |= {self._processes[pipe].sentinel: pipe for pipe in self._items}
            for found in wait(list(pipes)):
                if (message := self._received(pipes[found])) is not None:
                    return message

    def _received(self, pipe: Connection) -> _Message | None:
        """Return the next message of a process that has one or has ended; None for its first sign of life."""
        try:
            # what it said before its end comes first
            content = pipe.recv() if pipe.poll() else None
        except (EOFError, OSError):
            content = None
        if content is None:
            return self._buried(pipe)
        if content == _READY:
            self._begun = True
            return None
        done, content = content
        return _Message(self._items.pop(pipe) if done else self._items[pipe], done, content)

    def _buried(self, pipe: Connection) -> _Message:
        """Return the result of the item whose process has died."""
        process, index = self._processes.pop(pipe), self._items.pop(pipe)
        pipe.close()
        _end(process)
        if not self._begun:
            hint = 'a script that is run needs `if __name__ == "__main__":` before what starts workers'
            raise ResourceError("a worker process died before it could begin", hint=hint)
        hint = "it may have been out of memory; use fewer --jobs"
        return _Message(index, True, ResourceError("a worker process died", hint=hint))

    def close(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for pipe, process in self._processes.items():
            pipe.close()
            _end(process)


def _end(process: SpawnProcess) -> None:
    """End a process, which may be dead already, and wait for that."""
    process.terminate()
    process.join(_END_S)
    if process.exitcode is None:
        process.kill()
    process.join()
    process.close()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started inside: the one that starts them hears it and ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, recipe: bytes) -> None:
    """Work on one item after the other, in a process of its own."""
    Thread(target=_end_with_parent, daemon=True).start()
    lock = Lock()

    def send(done: bool, content: Any) -> None:
        with lock:
            pipe.send((done, content))

    def tell(event: Event) -> None:
        send(False, event)

    @cache
    def worker() -> Worker[Any, Any]:
        made: Worker[Any, Any] = pickle.loads(recipe)()
        return made

    pipe.send(_READY)
    while True:
        try:
            data = pipe.recv_bytes()
        except EOFError:
            return
        try:
            result = worker()(pickle.loads(data), tell)
        except Exception as error:
            result = _portable(error)
        try:
            send(True, result)
        except (TypeError, AttributeError, pickle.PicklingError) as error:  # a result that can't be pickled
            send(True, _portable(error))


def _portable(error: Exception) -> Exception:
    """Return an exception, or one that says the same where it can't be pickled and read again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return StemsplitError(f"{type(error).__name__}: {error}")
    return error


def _end_with_parent() -> None:
    """End this process with its parent, which may be killed and end nobody."""
    if parent := parent_process():
        parent.join()
        os._exit(1)

"""Worker's side of a Ray cluster (`cluster`): an actor, a process that runs one worker."""

import os
import pickle
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from queue import Empty, SimpleQueue
from typing import Any

from stemsplit import __version__
from stemsplit.engines import Worker
from stemsplit.events import Callback, Event
from stemsplit.pools import picklable

BATCH_S = 0.5  # for which a worker collects events, so that many workers don't flood the driver


class Host:
    """Actor that runs a worker on one item at a time, in a thread, and hands out its messages in batches."""

    def __init__(self, threads: int, folder: str) -> None:
        with suppress(OSError):  # relative paths mean the same as for the driver
            os.chdir(folder)
        # read when torch is imported, for the worker
        os.environ.update(OMP_NUM_THREADS=str(threads), MKL_NUM_THREADS=str(threads))
        self._items, self._messages = SimpleQueue[bytes](), SimpleQueue[tuple[bool, Any]]()
        self._stopped, self._working = threading.Event(), threading.Lock()

    def start(self, factory: bytes) -> str:
        """Begin; return the version of the package."""
        threading.Thread(target=self._serve, args=(factory,), daemon=True).start()
        return __version__

    def work(self, item: bytes) -> bytes:
        """Begin an item, and return its first messages."""
        self._items.put(item)
        return self.more()

    def more(self) -> bytes:
        """Wait for messages, and return pairs of done or not and an event or the result, pickled."""
        batch, until = [self._messages.get()], time.monotonic() + BATCH_S
        while not batch[-1][0]:
            try:
                batch.append(self._messages.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                break
        return pickle.dumps(batch)

    def stop(self) -> None:
        """Let the worker stop at its next event, and wait until it has."""
        self._stopped.set()
        with self._working:
            pass

    def _serve(self, factory: bytes) -> None:
        def tell(event: Event) -> bool | None:
            self._messages.put((False, event))
            return False if self._stopped.is_set() else None

        @cache
        def worker() -> Worker[Any, Any]:
            made: Worker[Any, Any] = pickle.loads(factory)()
            return made

        while True:
            item = self._items.get()
            with self._working:
                if self._stopped.is_set():
                    return
                self._messages.put((True, self._done(worker, item, tell)))

    @staticmethod
    def _done(worker: Callable[[], Worker[Any, Any]], item: bytes, tell: Callback) -> Any:
        """Return the result of an item, or the exception that it raised."""
        try:
            result = worker()(pickle.loads(item), tell)
            pickle.dumps(result)
            return result
        except Exception as error:
            return picklable(error)
        except BaseException:  # as in a process of its own
            os._exit(1)

"""An engine that keeps the models of the last run loaded, for the next one with the same settings."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from threading import Lock
from typing import Any

from stemsplit.engines import Item, Result, Worker
from stemsplit.errors import Cancelled
from stemsplit.events import Callback
from stemsplit.settings import BatchSettings


class WarmEngine:
    """Engine with one worker in the caller's thread, which stays for the next call with an equal factory."""

    def __init__(self) -> None:
        self._factory: Any = None
        self._worker: Any = None
        self._lock = Lock()

    def run(
        self,
        items: Iterable[Item],
        factory: Callable[[], Worker[Item, Result]],
        callback: Callback | None = None,
    ) -> Generator[Result | Exception, None, None]:
        """See `engines.Engine.run`."""
        with self._lock:
            for item in items:
                try:
                    result: Result | Exception = self._worker_of(factory)(item, callback or (lambda _: None))
                except Cancelled:
                    raise
                except Exception as error:
                    result = error
                yield result

    def close(self) -> None:
        """Free the models."""
        if self._worker is not None:
            self._worker.close()
        self._factory = self._worker = None

    def _worker_of(self, factory: Any) -> Any:
        # the paths of a batch, which differ from run to run, don't matter for the models
        known = replace(factory, request=replace(factory.request, batch=BatchSettings()))
        if self._worker is None or known != self._factory:
            self.close()
            self._worker, self._factory = factory(), known
        return self._worker

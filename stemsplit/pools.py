"""Pools of workers that run in parallel, whose results `in_order` puts in the order of the items."""

import pickle
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from typing import Any, NamedTuple, Protocol

from stemsplit.errors import Cancelled, SettingsError, StemsplitError
from stemsplit.events import Callback, emit

_MISSING = object()


class Message(NamedTuple):
    """Message of a worker about the item of that number: an event or, if `done`, the result."""

    number: int
    done: bool
    content: Any


class Pool(Protocol):
    """Workers that run in parallel."""

    def submit(self, index: int, item: Any) -> None:
        """Give an item to a free worker.

        Args:
            index: number of the item, which its messages have.
            item: the item.
        """
        ...

    def receive(self) -> Message:
        """Return the next message, waiting for it."""
        ...

    def close(self) -> None:
        """Stop the workers."""
        ...


def in_order(
    pool: Pool, count: int, items: Iterable[Any], callback: Callback | None
) -> Generator[Any, None, None]:
    """Keep the workers of a pool busy, and yield the results in the order of the items.

    Args:
        pool: the workers, which are stopped at the end.
        count: number of items that they get at the same time.
        items: the items.
        callback: receives the events of all workers.

    Yields:
        The result of every item; an exception may be one.

    Raises:
        Cancelled: the callback returned False, or a worker raised it.
    """
    todo, ready = enumerate(items), dict[int, Any]()
    running = following = 0
    with closing(pool):
        while True:
            while running < count and (pair := next(todo, None)) is not None:
                pool.submit(*pair)
                running += 1
            if not running:
                return
            message = pool.receive()
            if not message.done:
                emit(callback, message.content)
                continue
            running -= 1
            ready[message.number] = _checked(message.content)
            while (result := ready.pop(following, _MISSING)) is not _MISSING:
                following += 1
                yield result


def _checked(result: Any) -> Any:
    """Return a result, or raise it if it is an exception that stops all work."""
    stops = isinstance(result, BaseException) and not isinstance(result, Exception)
    if stops or isinstance(result, Cancelled):
        raise result
    return result


def packed(factory: Callable[..., Any]) -> bytes:
    """Return a factory of workers as bytes, for another process.

    Args:
        factory: function, or object that can be called.

    Raises:
        SettingsError: it can't be pickled.
    """
    try:
        return pickle.dumps(factory)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise SettingsError(
            f"the work can't be sent to other processes: {error}",
            setting="--jobs",
            hint="define functions at the top level of a module, or use one job, which needs no process",
        ) from error


def picklable(error: Exception) -> Exception:
    """Return an exception, or one with the same message if it can't be pickled.

    Args:
        error: the exception.
    """
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return StemsplitError(f"{type(error).__name__}: {error}")
    return error

"""Files that have their final names complete or not at all, and the locks that keep processes apart.

Every file grows under a hidden name of its own, `.<file>.part`, in the folder where it will stand. A process
that is killed leaves its part, which the next writer replaces; its locks die with it.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import get_native_id

from stemsplit.errors import OutputError, ResourceError, StemsplitError

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

ATTEMPTS = 10  # at a folder that somebody else removes
LOCK_POLL_S = 0.5
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


# ---------------------------------------------------------------- errors


def is_full(error: OSError) -> bool:
    """Return whether a write failed because the disk, or what a user may have of it, is full."""
    return error.errno in _NO_SPACE


def write_error(path: Path, error: OSError) -> StemsplitError:
    """Return the package's error for a failed write to `path`."""
    if is_full(error):
        return ResourceError(
            f"{path}: no space left on the disk", hint="free some space, or choose another -o"
        )
    return OutputError(path, f"can't be written ({error.strerror or error})")


@contextmanager
def os_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about writing `path` into the package's errors."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from None


# ---------------------------------------------------------------- whole files


def part_of(path: Path) -> Path:
    """Return where `path` grows until it is complete."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a file to write in the block: then it takes the place of `path`, and if that fails it's removed.

    It never waits: where another process writes the same file, or there are no locks, its name is its own.

    Raises:
        OSError: it can't be written. What would name the part names `path`.
    """
    part = part_of(path)
    try:
        held = _hold(part)
    except OSError:
        part, held = path.with_name(f".{path.name}.{get_native_id()}.part"), ExitStack()
    with held:
        try:
            yield part
            os.replace(part, path)
        except BaseException as error:
            remove(part)
            if isinstance(error, OSError) and error.errno and error.filename in (None, os.fspath(part)):
                error.filename, error.filename2 = os.fspath(path), None
            raise


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file so that its name never stands for half of it; its folder is made.

    Raises:
        OSError: it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_named(name: str, content: bytes) -> None:
    """Write the file that an option names: whole or not at all, but in place where it can't be replaced.

    Raises:
        OSError: it can't be written.
    """
    path = Path(os.path.realpath(name))
    open_already = os.path.abspath(name).startswith(("/dev/", "/proc/"))  # such as /dev/stdout
    if open_already or (path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK))):
        Path(name).write_bytes(content)
        return
    with replacing(path) as part:
        part.write_bytes(content)
        with suppress(FileNotFoundError):
            shutil.copymode(path, part)


def settle(part: Path, path: Path) -> None:
    """Give a complete part its final name, durably."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def remove(path: Path) -> None:
    """Remove a file if that's possible; on an unplugged disk the error before is the news."""
    with suppress(OSError):
        path.unlink()


class PartFile:
    """A part file that this process alone writes; `path` is its name.

    Raises:
        OutputError: another process is writing it, or the folder can't be written.
    """

    def __init__(self, final: Path) -> None:
        self.final, self.path = final, part_of(final)
        with os_errors(final):
            self._held = self._claim()
        self._there = True

    def _claim(self) -> ExitStack:
        try:
            for _ in range(ATTEMPTS):
                with suppress(FileNotFoundError):  # another track that failed has removed the empty folder
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    return _hold(self.path)
            return _hold(self.path)
        except BlockingIOError:
            raise OutputError(
                self.final, "another process is writing this file", hint="the same command later skips it"
            ) from None

    def publish(self) -> None:
        """Give the file its final name."""
        with os_errors(self.final):
            os.replace(self.path, self.final)
        self._there = False
        self._held.close()

    def discard(self) -> None:
        """Remove the file, unless it is published."""
        if self._there:
            self._there = False
            remove(self.path)
            self._held.close()


# ---------------------------------------------------------------- locks


def _hold(part: Path) -> ExitStack:
    """Make a part file anew that no other process writes until the returned stack is closed.

    Raises:
        BlockingIOError: another process does.
    """
    if fcntl is None:
        return _hold_beside(part)
    while True:
        with ExitStack() as held:
            handle = held.enter_context(open(part, "ab"))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened = os.fstat(handle.fileno())
            # The holder before us may have published or removed what we opened.
            with suppress(FileNotFoundError):
                if os.path.samestat(opened, os.stat(part)):
                    if not opened.st_size:
                        return held.pop_all()
                    part.unlink()  # a killed process left it, perhaps with another mode


def _hold_beside(part: Path) -> ExitStack:
    """Do the same where an open file can be neither renamed nor removed: its lock has a file of its own."""
    part.parent.stat()  # filelock would make the folder
    lock = part.with_suffix(".lock")
    with ExitStack() as held:
        held.callback(remove, lock)
        held.enter_context(locked(lock))
        part.write_bytes(b"")
        return held.pop_all()


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock of a lock file inside the block.

    Args:
        path: of the lock file, which stays.
        waiting: called twice a second while another process holds it; None doesn't wait.

    Raises:
        BlockingIOError: another process holds it, and `waiting` is None.
    """
    from filelock import FileLock, Timeout  # heavy for a ground floor, and few need it

    lock = FileLock(path, thread_local=False)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=LOCK_POLL_S if waiting else 0)
        except Timeout:
            if waiting is None:
                raise BlockingIOError(errno.EAGAIN, "another process holds it", os.fspath(path)) from None
            waiting()
    try:
        yield
    finally:
        lock.release()

"""Write files that get their final names only when they are complete, with locks between processes.

A file is written under a hidden name, `.<file>.part`, in its final folder. A process that is killed leaves
its part file, which the next writer replaces; its locks are released by the system.
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
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

ATTEMPTS = 10  # to create a folder that another process removes
LOCK_POLL_S = 0.5
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}


# ---------------------------------------------------------------- errors


def is_full(error: OSError) -> bool:
    """Return whether a write failed because the disk or the user's quota is full."""
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
    """Turn `OSError`s of writing `path` into the package's errors."""
    try:
        yield
    except OSError as error:
        raise write_error(path, error) from None


# ---------------------------------------------------------------- whole files


def part_of(path: Path) -> Path:
    """Return the name under which `path` is written until it is complete."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a part file to write in the block; after it, rename the part to `path`, or remove it on failure.

    It never waits: if another process writes the same file, or locks don't work, the part has a unique name.

    Raises:
        OSError: the file can't be written; the error names `path` in place of the part.
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
    """Write a file completely or not at all; create its folder.

    Raises:
        OSError: the file can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def write_named(name: str, content: bytes) -> None:
    """Write a file that an option names completely or not at all, or in place if it can't be replaced.

    Raises:
        OSError: the file can't be written.
    """
    path = Path(os.path.realpath(name))
    is_device = os.path.abspath(name).startswith(("/dev/", "/proc/"))  # such as /dev/stdout
    if is_device or (path.exists() and not (path.is_file() and os.access(path.parent, os.W_OK))):
        Path(name).write_bytes(content)
        return
    with replacing(path) as part:
        part.write_bytes(content)
        with suppress(FileNotFoundError):
            shutil.copymode(path, part)


def settle(part: Path, path: Path) -> None:
    """Rename a complete part file to its final name, after flushing it to the disk."""
    with part.open("r+b") as file:
        os.fsync(file.fileno())
    os.replace(part, path)


def remove(path: Path) -> None:
    """Remove a file, ignoring failures: on an unplugged disk, the error before matters more."""
    with suppress(OSError):
        path.unlink()


class PartFile:
    """Part file that only this process writes; `path` is its name.

    Raises:
        OutputError: another process is writing the file, or the folder isn't writable.
    """

    def __init__(self, final: Path) -> None:
        self.final, self.path = final, part_of(final)
        with os_errors(final):
            self._held = self._claim()
        self._there = True

    def _claim(self) -> ExitStack:
        try:
            for _ in range(ATTEMPTS):
                with suppress(FileNotFoundError):  # a failed track may have removed the empty folder
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    return _hold(self.path)
            return _hold(self.path)
        except BlockingIOError:
            raise OutputError(
                self.final, "another process is writing this file", hint="the same command later skips it"
            ) from None

    def publish(self) -> None:
        """Rename the file to its final name."""
        with os_errors(self.final):
            os.replace(self.path, self.final)
        self._there = False
        self._held.close()

    def discard(self) -> None:
        """Remove the file, unless it has its final name already."""
        if self._there:
            self._there = False
            remove(self.path)
            self._held.close()


# ---------------------------------------------------------------- locks


def _hold(part: Path) -> ExitStack:
    """Create an empty part file, locked until the returned stack is closed.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if fcntl is None:
        return _hold_beside(part)
    while True:
        with ExitStack() as held:
            handle = held.enter_context(open(part, "ab"))
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened = os.fstat(handle.fileno())
            # the previous holder may have renamed or removed the file that was opened
            with suppress(FileNotFoundError):
                if os.path.samestat(opened, os.stat(part)):
                    if not opened.st_size:
                        return held.pop_all()
                    part.unlink()  # left by a killed process, perhaps with other permissions


def _hold_beside(part: Path) -> ExitStack:
    """Do the same with a separate lock file, on systems where open files can't be renamed or removed."""
    part.parent.stat()  # fails without the folder, which filelock would create
    lock = part.with_suffix(".lock")
    with ExitStack() as held:
        held.callback(remove, lock)
        held.enter_context(locked(lock))
        part.write_bytes(b"")
        return held.pop_all()


@contextmanager
def locked(path: Path, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold a lock for the duration of the block.

    Args:
        path: the lock file, which isn't removed.
        waiting: called twice a second while another process holds the lock; None doesn't wait.

    Raises:
        BlockingIOError: another process holds the lock, and `waiting` is None.
    """
    from filelock import FileLock, Timeout  # slow to import, and rarely needed

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

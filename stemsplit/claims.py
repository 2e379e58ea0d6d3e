"""Claims of files by runs on several machines: hidden files beside the outputs that name their owner.

A lock (`files.PartFile`) holds between the processes of one machine; across machines not every file system
has locks. A claim is `.<name>.claim` in the output's folder: made by one process only, renewed while the
track is worked on, removed at its end. It expires when it isn't renewed for ten minutes; at once if its owner
was a process of this machine that has ended, or a worker of this run that has died; after ten seconds if it
names no owner, who died while writing it.
"""

import json
import os
import platform
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from stemsplit import urls
from stemsplit.errors import OutputError, StemsplitError
from stemsplit.files import os_errors, remove
from stemsplit.urls import Place, Url

EXPIRES_S = 600.0
RENEWED_S = 60.0  # after which a claim is renewed
WRITTEN_S = 10.0  # within which a new claim gets its content
POLL_S = 2.0  # between two looks at a claim that is waited for


class Taken(Exception):
    """Another run has claimed a file; an internal signal, not an error."""


@dataclass(frozen=True)
class Owner:
    """Process that has made a claim.

    Attributes:
        run: text that all workers of a run have in common.
        machine: text that tells machines, and containers, from each other.
        process: number of the process, and the time of its start where the system tells.
        token: text that no other process has.
    """

    run: str
    machine: str
    process: str
    token: str

    @classmethod
    def here(cls, run: str) -> "Owner":
        """Return the owner of claims that this process makes."""
        return cls(run, _machine(), _process(os.getpid()) or str(os.getpid()), uuid.uuid4().hex)


@cache
def _machine() -> str:
    """Return the name of the machine, of its start, and of the namespace of its processes."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)


def _process(number: int) -> str | None:
    """Return the number of a running process with the time of its start; None if there is no such process."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
        state, *rest = text.rpartition(")")[2].split()
        return None if state in "ZX" else f"{number}:{rest[18]}"  # field 22 of proc(5)
    except (OSError, IndexError):
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    if sys.platform == "win32":  # where os.kill ends the process: only its claims' age tells
        return str(number)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    return str(number)


def claim_of(place: Place) -> Place:
    """Return the name of the claim of a file.

    >>> claim_of(Path("song/vocals.wav")).as_posix()
    'song/.vocals.wav.claim'
    """
    return place.with_name(f".{place.name}.claim")


class Claims:
    """Claims of one worker; a thread renews those that it holds.

    Args:
        run: text that all workers of a run have in common.
    """

    def __init__(self, run: str) -> None:
        self.owner = Owner.here(run)
        self._content = json.dumps(asdict(self.owner)).encode()
        self._held: dict[Place, float] = {}  # claims and the time of their last renewal
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None

    def close(self) -> None:
        """Stop renewing."""
        self._closed.set()

    def clear(self, files: Iterable[Place]) -> None:
        """Remove the claims of a worker of this run that has died."""
        with suppress(Taken, StemsplitError), self.held(files):
            pass

    @contextmanager
    def held(self, files: Iterable[Place], waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Claim files for the duration of the block.

        Args:
            files: the files.
            waiting: called every few seconds while another run has one of them; None doesn't wait.

        Raises:
            Taken: another run has one of them, and `waiting` is None.
            OutputError: a claim can't be written.
        """
        with ExitStack() as stack:
            for claim in sorted({claim_of(file) for file in files}, key=str):
                while not self._take(claim):
                    if waiting is None:
                        raise Taken
                    waiting()
                    time.sleep(POLL_S)
                stack.callback(self._drop, claim)
            yield

    def require(self, files: Iterable[Place]) -> None:
        """Check before files are published that their claims are still this worker's.

        Raises:
            Taken: a claim expired, as on a machine that slept, and another run took it.
        """
        for claim in {claim_of(file) for file in files}:
            with self._lock:
                fresh = time.monotonic() - self._held[claim] < EXPIRES_S / 2
            if not fresh and _owner(claim) != self.owner:
                raise Taken

    def _take(self, claim: Place) -> bool:
        """Make a claim, or take over one that has expired; return whether it is this worker's now."""
        if not (_create(claim, self._content) or self._take_over(claim)):
            return False
        with self._lock:
            self._held[claim] = time.monotonic()
        if self._thread is None:
            self._thread = threading.Thread(target=self._renew, daemon=True)
            self._thread.start()
        return True

    def _take_over(self, claim: Place) -> bool:
        if not self._expired(claim):
            return False
        # Only who makes the claim of the claim replaces it, and sees then whether it is still the old one.
        guard = _guard_of(claim)
        if not _create(guard, self._content):
            if self._expired(guard):
                _delete(guard)
            return False
        try:
            if not self._expired(claim):
                return False
            _replace(claim, self._content)
            return True
        finally:
            _delete(guard)

    def _expired(self, claim: Place) -> bool:
        owner = _owner(claim)
        if owner is None:
            return _age_s(claim) > WRITTEN_S
        if owner.machine == self.owner.machine:
            number = owner.process.partition(":")[0]
            if _process(int(number) if number.isdecimal() else -1) != owner.process:
                return True
        # The engine gives a track to one worker at a time: another one of this run has died.
        if owner.run == self.owner.run and owner.token != self.owner.token:
            return True
        return _age_s(claim) > EXPIRES_S

    def _drop(self, claim: Place) -> None:
        with self._lock:
            self._held.pop(claim, None)
        if _owner(claim) == self.owner:
            _delete(_guard_of(claim))  # left by a process that was killed while it looked at the claim
            if isinstance(claim, Path):
                remove(_clock_of(claim))
            _delete(claim)

    def _renew(self) -> None:
        while not self._closed.wait(RENEWED_S / 4):
            now = time.monotonic()
            with self._lock:
                due = [claim for claim, renewed in self._held.items() if now - renewed >= RENEWED_S]
            for claim in due:
                with suppress(OSError, StemsplitError):  # tried again in a quarter of a minute
                    if _owner(claim) == self.owner:
                        _touch(claim, self._content)
                        with self._lock:
                            if claim in self._held:
                                self._held[claim] = time.monotonic()


# ---------------------------------------------------------------- files and objects


def _guard_of(claim: Place) -> Place:
    return claim.with_name(f"{claim.name}.next")


def _clock_of(claim: Path) -> Path:
    return claim.with_name(f"{claim.name}.now")


def _create(claim: Place, content: bytes) -> bool:
    """Write a claim unless it exists; return whether it was written."""
    if isinstance(claim, Url):
        return urls.put_new(claim, _dated(content))
    with os_errors(claim):
        claim.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(claim, "xb") as file:  # also of several hosts only one makes it
                file.write(content)
        except FileExistsError:
            return False
        return _read(claim) == content  # another run has it if writing took too long


def _dated(content: bytes) -> bytes:
    """Return the content of a claim in a store whose times can't be read alike everywhere."""
    return json.dumps({**json.loads(content), "renewed": time.time()}).encode()


def _replace(claim: Place, content: bytes) -> None:
    if isinstance(claim, Url):
        urls.put_small(claim, _dated(content))
    else:
        with os_errors(claim):
            claim.write_bytes(content)  # under the guard; a part file would stay after a kill


def _touch(claim: Place, content: bytes) -> None:
    if isinstance(claim, Url):
        urls.put_small(claim, _dated(content))
    else:
        os.utime(claim)


def _delete(claim: Place) -> None:
    if isinstance(claim, Url):
        urls.delete(claim)
    else:
        remove(claim)


def _read(claim: Place) -> bytes | None:
    if isinstance(claim, Url):
        return urls.read_small(claim)
    try:
        return claim.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(claim, f"can't be read ({error.strerror or error})") from None


def _owner(claim: Place) -> Owner | None:
    """Return the owner of a claim; None if there is no claim, or not one that this version can read."""
    try:
        content = json.loads(_read(claim) or b"")
        return Owner(*(str(content[name]) for name in ("run", "machine", "process", "token")))
    except (ValueError, KeyError, TypeError):
        return None


def _age_s(claim: Place) -> float:
    """Return the seconds since a claim was renewed, by one clock for both times; 0 if that isn't known."""
    if isinstance(claim, Url):
        try:
            return time.time() - float(json.loads(_read(claim) or b"")["renewed"])
        except (ValueError, KeyError, TypeError):
            return 0.0
    own = _clock_of(claim)
    try:
        with open(own, "wb") as file:  # a file server's clock may differ from this machine's
            return os.fstat(file.fileno()).st_mtime - claim.stat().st_mtime
    except OSError:
        return 0.0
    finally:
        remove(own)

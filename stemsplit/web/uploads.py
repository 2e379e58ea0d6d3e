"""Songs that a browser sends: spooled to a temporary folder, bounded in size and number.

There is always room for another one, unless jobs need all of them: the one unused for longest is forgotten.
"""

import os
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from threading import Lock

from anyio import to_thread

from stemsplit.audio.reader import probe
from stemsplit.files import is_full, part_of, remove, settle
from stemsplit.web.answers import ApiError

MOST_BYTES = 4 << 30  # of one song; ten hours of CD audio
MOST_FILES = 64  # that are kept
RESERVED_BYTES = 256 << 20  # that are left free on the disk
LONGEST_NAME_BYTES = 200


@dataclass(frozen=True)
class Upload:
    """A song that was sent.

    Attributes:
        id: its id.
        name: its name as it was sent, without folders.
        path: its file.
    """

    id: str
    name: str
    path: Path


class Uploads:
    """The songs that were sent to this server; they are removed when it ends.

    Args:
        needed: returns whether a job needs a file.
        forget: called with the file of an upload that is removed.
    """

    def __init__(self, needed: Callable[[Path], bool], forget: Callable[[Path], None]) -> None:
        # with links followed, as the library has its files, so that paths of jobs are equal to it
        self.folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="stemsplit-web-")))
        self._known: OrderedDict[str, Upload] = OrderedDict()  # the one unused for longest first
        self._needed, self._forget = needed, forget
        self._lock = Lock()

    async def receive(self, name: str, body: AsyncIterator[bytes]) -> Upload:
        """Store a song whose content arrives in pieces.

        Raises:
            ApiError: jobs need all uploads (429), the disk is nearly full (507), or it is empty (400).
            InputError: it isn't audio.
        """
        with self._lock:
            self._spare()
        upload = self._new(name)
        upload.path.parent.mkdir()
        part = part_of(upload.path)
        try:
            await self._spool(part, body)
            await to_thread.run_sync(settle, part, upload.path)
            await to_thread.run_sync(lambda: probe(upload.path, name=upload.name))
            await to_thread.run_sync(self._keep, upload)
        except BaseException as error:
            shutil.rmtree(upload.path.parent, ignore_errors=True)
            if isinstance(error, OSError) and is_full(error):
                raise _no_room() from None
            raise
        return upload

    def all(self) -> list[Upload]:
        """Return all uploads."""
        with self._lock:
            return list(self._known.values())

    def get(self, id: str) -> Upload:
        """Return an upload.

        Raises:
            ApiError: there is none with this id (404).
        """
        with self._lock:
            if id not in self._known:
                raise ApiError(404, "no such upload")
            return self._known[id]

    def use(self, id: str) -> Upload:
        """Return an upload as `get` does, and keep it for longer."""
        upload = self.get(id)
        with self._lock, suppress(KeyError):
            self._known.move_to_end(id)
        return upload

    def remove(self, id: str) -> None:
        """Remove an upload with its file; errors as in `get`."""
        upload = self.get(id)
        with self._lock:
            self._known.pop(id, None)
        self._clear(upload)

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _spare(self) -> list[Upload]:
        """Return the uploads that make room for another one.

        Raises:
            ApiError: jobs need all of them (429).
        """
        count = max(0, len(self._known) - MOST_FILES + 1)
        spare = [one for one in self._known.values() if not self._needed(one.path)] if count else []
        if len(spare) < count:
            raise ApiError(429, f"jobs need all of the {MOST_FILES} uploads", "try again when one is done")
        return spare[:count]

    def _keep(self, upload: Upload) -> None:
        with self._lock:
            spare = self._spare()
            for one in spare:
                del self._known[one.id]
            self._known[upload.id] = upload
        for one in spare:
            self._clear(one)

    def _clear(self, upload: Upload) -> None:
        self._forget(upload.path)
        remove(upload.path)
        with suppress(OSError):
            upload.path.parent.rmdir()

    def _new(self, name: str) -> Upload:
        base = os.path.basename(name.replace("\\", "/")).strip()
        if not base or not base.isprintable() or base.startswith(".") or "\0" in base:
            raise ApiError(400, "name must be the name of a file")
        if shortened(base) != base:
            raise ApiError(400, f"name must have at most {LONGEST_NAME_BYTES} bytes")
        id = token_hex(9)
        return Upload(id, base, self.folder / id / f"song{Path(base).suffix}")

    async def _spool(self, part: Path, body: AsyncIterator[bytes]) -> None:
        count = 0
        with part.open("wb") as file:
            async for piece in body:
                count += len(piece)
                if shutil.disk_usage(self.folder).free < RESERVED_BYTES + len(piece):
                    raise _no_room()
                await to_thread.run_sync(file.write, piece)
        if not count:
            raise ApiError(400, "the upload is empty")


def shortened(name: str) -> str:
    """Return the beginning of a name that file systems hold, in whole characters."""
    return name.encode()[:LONGEST_NAME_BYTES].decode(errors="ignore")


def _no_room() -> ApiError:
    return ApiError(507, "no space left in the temporary folder", "TMPDIR names another folder")

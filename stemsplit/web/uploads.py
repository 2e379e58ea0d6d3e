"""Songs that a browser sends: spooled to a temporary folder, bounded in size and number."""

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from anyio import to_thread

from stemsplit.audio.reader import probe
from stemsplit.files import is_full, part_of, remove, settle
from stemsplit.web.answers import ApiError

MOST_BYTES = 4 << 30  # of one song; ten hours of CD audio
MOST_FILES = 64
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
    """The songs that were sent to this server; they are removed when it ends."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stemsplit-web-"))
        self._known: dict[str, Upload] = {}

    async def receive(self, name: str, body: AsyncIterator[bytes]) -> Upload:
        """Store a song whose content arrives in pieces.

        Raises:
            ApiError: there are too many (409), the disk is nearly full (507), or there is no content (400).
            InputError: it isn't audio.
        """
        if len(self._known) >= MOST_FILES:
            raise ApiError(409, f"there are {MOST_FILES} uploads already", "remove some songs first")
        upload = self._new(name)
        upload.path.parent.mkdir()
        part = part_of(upload.path)
        try:
            await self._spool(part, body)
            await to_thread.run_sync(settle, part, upload.path)
            await to_thread.run_sync(lambda: probe(upload.path, name=upload.name))
        except BaseException as error:
            shutil.rmtree(upload.path.parent, ignore_errors=True)
            if isinstance(error, OSError) and is_full(error):
                raise _no_room() from None
            raise
        self._known[upload.id] = upload
        return upload

    def all(self) -> list[Upload]:
        """Return all uploads."""
        return list(self._known.values())

    def get(self, id: str) -> Upload:
        """Return an upload.

        Raises:
            ApiError: there is none with this id (404).
        """
        if id not in self._known:
            raise ApiError(404, "no such upload")
        return self._known[id]

    def remove(self, id: str) -> Upload:
        """Remove an upload with its file, and return it; errors as in `get`."""
        upload = self.get(id)
        del self._known[id]
        remove(upload.path)
        with suppress(OSError):
            upload.path.parent.rmdir()
        return upload

    def close(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _new(self, name: str) -> Upload:
        base = os.path.basename(name.replace("\\", "/")).strip()
        if not base or not base.isprintable() or base.startswith(".") or "\0" in base:
            raise ApiError(400, "name must be the name of a file")
        if len(os.fsencode(base)) > LONGEST_NAME_BYTES:
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


def _no_room() -> ApiError:
    return ApiError(507, "no space left in the temporary folder", "TMPDIR names another folder")

"""State of a running server, which the handlers of requests work with."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request

from stemsplit.separation.inputs import Input
from stemsplit.web.answers import ApiError
from stemsplit.web.exports import Exports
from stemsplit.web.jobs import Jobs
from stemsplit.web.library import Library
from stemsplit.web.models import Models
from stemsplit.web.peaks import Waveforms
from stemsplit.web.slices import Slices
from stemsplit.web.uploads import Uploads

T = TypeVar("T")

MOST_DECODING = 4  # requests that decode audio at the same time
MOST_WORKING = 2  # requests that read whole files at the same time
_POLL_S = 0.25


class Service:
    """The parts of a server.

    Attributes:
        library, slices, waveforms, uploads, exports, models, jobs: see their modules.
        base: settings of all separations, by the name of their field.

    Args:
        paths: files and folders to show.
        output: the folder of new stems.
        base: settings of all separations, by the name of their field.
    """

    def __init__(self, paths: Iterable[Path], output: Path, base: Mapping[str, Any]) -> None:
        self.base = {**base, "output": str(output)}
        self.library = Library(paths, output)
        self.slices = Slices()
        self.waveforms = Waveforms(self.slices)
        self.uploads = Uploads(lambda path: self.jobs.need(path), self.library.forget)
        self.exports = Exports()
        self.models = Models()
        self.jobs = Jobs(lambda song, folder: self.library.link(folder, song))
        self.decoding: CapacityLimiter | None = None
        self._working: asyncio.Semaphore | None = None

    def close(self) -> None:
        """Stop the jobs, and remove all temporary files."""
        self.jobs.close()
        self.waveforms.close()
        self.slices.close()
        self.exports.close()
        self.uploads.close()

    async def decode(self, work: Callable[[], T]) -> T:
        """Run short work in a thread, with few others at the same time."""
        if self.decoding is None:
            self.decoding = CapacityLimiter(MOST_DECODING)
        return await to_thread.run_sync(work, limiter=self.decoding)

    async def work(self, request: Request, work: Callable[[Callable[[], bool]], T]) -> T:
        """Run long work in a thread until it is done or the client is gone.

        Args:
            request: the request that waits for it.
            work: takes a function that returns True once the work is to stop.

        Raises:
            ApiError: the client is gone (499).
            Others: those of the work.
        """
        if self._working is None:
            self._working = asyncio.Semaphore(MOST_WORKING)
        stop = Event()
        async with self._working:
            task = asyncio.ensure_future(asyncio.to_thread(work, stop.is_set))
            try:
                while not (await asyncio.wait([task], timeout=_POLL_S))[0]:
                    if await request.is_disconnected():
                        stop.set()
                if stop.is_set():
                    raise ApiError(499, "the client is gone")
                return await task
            finally:
                stop.set()
                await asyncio.wait([task])
                if not task.cancelled():
                    task.exception()  # else asyncio prints that nobody has asked for it

    def song_of(self, body: Mapping[str, Any]) -> Input:
        """Return the song that a request names as `path`, `song` or `upload`.

        Raises:
            ApiError: it names none or several (400), or one that isn't there (404) or not inside (403).
        """
        given = [key for key in ("path", "song", "upload") if body.get(key) is not None]
        if len(given) != 1 or not isinstance(body[given[0]], str):
            raise ApiError(400, "name the song by one of path, song and upload")
        value = body[given[0]]
        if given[0] == "upload":
            upload = self.uploads.use(value)
            return Input(upload.path, label=upload.name)
        if given[0] == "song":
            source = self.library.song(value).source
            if source is None:
                raise ApiError(404, "the original of this song isn't known")
            known = next((one for one in self.uploads.all() if one.path == source), None)
            return Input(self.library.inside(source), label=known.name if known else None)
        return Input(self.library.inside(Path(value)))

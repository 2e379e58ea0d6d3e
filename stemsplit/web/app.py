"""The web application: routes of the page and of its HTTP API."""

import mimetypes
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from anyio import to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from stemsplit.errors import StemsplitError
from stemsplit.web import handlers, jobs_api
from stemsplit.web.answers import ApiError, on_error
from stemsplit.web.service import Service

STATIC = Path(__file__).with_name("static")
INDEX = "index.html"


def _files() -> dict[str, Path]:
    """Return the page's files by name. Only these are sent, so a request's path never becomes a file's."""
    return {path.name: path for path in STATIC.iterdir() if path.is_file()}


_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}


async def page(request: Request) -> Response:
    """Return a file of the page."""
    path = _files().get(request.path_params.get("name", INDEX))
    if path is None:
        raise ApiError(404, "no such page")
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Response(await to_thread.run_sync(path.read_bytes), media_type=kind)


ROUTES = [
    Route("/", page),
    Route("/api", handlers.about),
    Route("/api/songs", handlers.list_songs),
    Route("/api/songs/{id}", handlers.show_song),
    Route("/api/files/{id}", handlers.file),
    Route("/api/files/{id}/pcm", handlers.pcm),
    Route("/api/files/{id}/peaks", handlers.peaks),
    Route("/api/files/{id}/spectrogram", handlers.show_spectrogram),
    Route("/api/results/{id}/zip", handlers.zip_result),
    Route("/api/loudness", handlers.loudness),
    Route("/api/compare", handlers.compare),
    Route("/api/exports", handlers.export, methods=["POST"]),
    Route("/api/exports/{id}", handlers.download_export),
    Route("/api/models", handlers.list_models),
    Route("/api/uploads", jobs_api.upload, methods=["POST"]),
    Route("/api/uploads/{id}", jobs_api.remove_upload, methods=["DELETE"]),
    Route("/api/jobs", jobs_api.list_jobs),
    Route("/api/jobs", jobs_api.submit, methods=["POST"]),
    Route("/api/jobs/{id}", jobs_api.show),
    Route("/api/jobs/{id}", jobs_api.cancel, methods=["DELETE"]),
    Route("/api/jobs/{id}/events", jobs_api.events),
    Route("/{name}", page),
]


def make_app(paths: Iterable[Path], output: Path, base: Mapping[str, Any]) -> Starlette:
    """Return the application for some songs and stems.

    Args:
        paths: files and folders to show; nothing else is read.
        output: the folder of new stems.
        base: settings of all separations, by the name of their field.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.service = Service(paths, output, base)
        try:
            yield
        finally:
            await to_thread.run_sync(app.state.service.close)

    kinds = (ApiError, HTTPException, ClientDisconnect, StemsplitError, OSError, ValueError, Exception)
    app = Starlette(routes=ROUTES, lifespan=lifespan, exception_handlers={kind: on_error for kind in kinds})
    app.router.redirect_slashes = False  # a redirect would go to an address without the token
    return app

"""Handlers of the requests for jobs and uploads."""

import json
from collections.abc import AsyncIterator
from functools import partial

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from stemsplit.web import bodies
from stemsplit.web.answers import ApiError, Json, body_of, json_of, text
from stemsplit.web.handlers import service_of
from stemsplit.web.jobs import Job
from stemsplit.web.uploads import MOST_BYTES


async def upload(request: Request) -> Response:
    """Store a song that is sent as the body of the request."""
    service = service_of(request)
    name = text(request.query_params, "name")
    found = await service.uploads.receive(name, body_of(request, MOST_BYTES))
    name = found.path.with_name(found.name).stem
    await to_thread.run_sync(service.library.add, name, found.path)
    return Json({"id": found.id, "name": found.name}, 201)


async def remove_upload(request: Request) -> Response:
    """Remove an upload, unless a job needs it."""
    service = service_of(request)
    found = service.uploads.get(request.path_params["id"])
    if service.jobs.need(found.path):
        raise ApiError(409, "a job needs this upload", "cancel the job first")
    await to_thread.run_sync(service.uploads.remove, found.id)
    return Response(status_code=204)


async def list_jobs(request: Request) -> Response:
    """Return all jobs, the oldest first."""
    return Json({"jobs": [job.as_dict() for job in service_of(request).jobs.all()]})


async def submit(request: Request) -> Response:
    """Queue a separation."""
    service = service_of(request)
    body = await json_of(request)
    song = await to_thread.run_sync(service.song_of, body)
    settings = {key: value for key, value in body.items() if key not in ("path", "song", "upload")}
    asked, shown = bodies.separation(settings, service.base)
    if "model" in settings and settings["model"] != service.base.get("model"):
        await to_thread.run_sync(_require_known, str(asked.model.model))
    job = await to_thread.run_sync(partial(service.jobs.submit, song, asked, shown))
    return Json(job.as_dict(), 201)


def _require_known(model: str) -> None:
    """Refuse paths and repositories: a request may only name models of the registry.

    Raises:
        UnknownNameError: there is no model of this name.
    """
    from stemsplit.hub.registry import find_model

    find_model(model)


async def show(request: Request) -> Response:
    """Return one job."""
    return Json(service_of(request).jobs.get(request.path_params["id"]).as_dict())


async def cancel(request: Request) -> Response:
    """Cancel a job, or remove one that is finished from the list."""
    jobs = service_of(request).jobs
    return Json(jobs.cancel(request.path_params["id"]).as_dict())


async def events(request: Request) -> Response:
    """Return the events of a job as server-sent events, until it is finished.

    The data of each are the line that `--progress json` prints. A client that connects again with
    `Last-Event-ID` gets what came after; once there is nothing more, the status 204 tells it to stop.
    """
    job = service_of(request).jobs.get(request.path_params["id"])
    last = request.headers.get("last-event-id", "0")
    after = int(last) if last.isascii() and last.isdecimal() and len(last) < 19 else 0
    if job.finished and after >= job.last > 0:
        return Response(status_code=204)
    return StreamingResponse(_lines(job, after), media_type="text/event-stream")


async def _lines(job: Job, after: int) -> AsyncIterator[str]:
    yield "retry: 1000\n\n"
    async for found in job.follow(after):
        if found is None:
            yield ": still here\n\n"
        else:
            yield f"id: {found[0]}\ndata: {json.dumps(found[1].as_dict())}\n\n"

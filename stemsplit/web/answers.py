"""Answers of the HTTP API: errors as JSON with the right status, and bodies of bounded size."""

import asyncio
import json
import logging
import math
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Match, Route
from starlette.types import Message, Receive, Scope, Send

from stemsplit.errors import InputError, ModelUnavailableError, OutputError, ResourceError, SettingsError
from stemsplit.outcome import Failure

log = logging.getLogger(__name__)

MOST_JSON_BYTES = 64 << 10
BODY_TIMEOUT_S = 20.0  # a client that sends nothing for so long is given up
# Statuses of the package's errors; the first class that fits counts
_STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (SettingsError, 400),
    (InputError, 422),
    (OutputError, 409),
    (ResourceError, 507),
    (ModelUnavailableError, 502),
)


class ApiError(Exception):
    """A request that can't be answered.

    Attributes:
        status: the HTTP status.
        message: one sentence for a person.
        hint: what to do about it, or None.
    """

    def __init__(self, status: int, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


class Json(JSONResponse):
    """JSON in ASCII: UTF-8 can't hold the lone surrogates that stand for the other bytes of a file's name."""

    def render(self, content: Any) -> bytes:
        """Return the bytes of the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class SentFile(FileResponse):
    """The bytes of a file, or the range of them that was asked for; errors are as all others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file."""
        refused = False

        async def checked(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] >= 400:
                refused = True
                await _range_error(message)(scope, receive, send)
            elif not refused:
                await send(message)

        await super().__call__(scope, receive, checked)


def _range_error(message: Message) -> Response:
    """Return the error for the start of an answer that refuses a range."""
    kept = {name.decode(): value.decode() for name, value in message["headers"] if name == b"content-range"}
    if message["status"] == 416:
        return error_response(416, "the range begins behind the end of the file", headers=kept)
    return error_response(message["status"], "Range must be bytes=FIRST-LAST", headers=kept)


def sendable(name: str) -> str:
    """Return a file's name for headers and ZIP files, with bytes that aren't UTF-8 as %XX."""
    return re.sub("[\ud800-\udfff]", lambda found: f"%{ord(found[0]) & 0xFF:02X}", name)


def error_response(
    status: int, message: str, hint: str | None = None, headers: Mapping[str, str] | None = None
) -> Json:
    """Return an error as JSON: `{"error": {"message", "hint"}}`."""
    return Json({"error": {"message": message, "hint": hint}}, status, headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Return the response for an exception of a handler."""
    if isinstance(error, ApiError):
        return error_response(error.status, error.message, error.hint)
    if isinstance(error, HTTPException):
        headers = {"allow": _methods(request)} if error.status_code == 405 else error.headers
        return error_response(error.status_code, error.detail, headers=headers)
    if isinstance(error, ClientDisconnect):
        return error_response(400, "the request was cut short")
    failure = Failure.of(error, name_input=True)
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if status == 500:
        log.error("%s %s", request.method, request.url.path, exc_info=error)
    return error_response(status, failure.message, failure.hint)


def _methods(request: Request) -> str:
    """Return the methods of a path as in the header Allow; several routes may have the same path."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    found = [route.methods or () for route in routes if route.matches(request.scope)[0] is not Match.NONE]
    return ", ".join(sorted({method for methods in found for method in methods}))


async def body_of(request: Request, most_bytes: int) -> AsyncIterator[bytes]:
    """Yield a request's body in the pieces in which it arrives.

    Raises:
        ApiError: it is larger than `most_bytes` (413), or the client stops sending (408).
        ClientDisconnect: the client is gone.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > most_bytes:
        raise _too_large(most_bytes)
    count, pieces = 0, request.stream()
    while True:
        try:
            piece = await asyncio.wait_for(anext(pieces), BODY_TIMEOUT_S)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise ApiError(408, "the request's body doesn't arrive") from None
        count += len(piece)
        if count > most_bytes:
            raise _too_large(most_bytes)
        yield piece


def _too_large(most_bytes: int) -> ApiError:
    return ApiError(413, f"the request's body is larger than {most_bytes} bytes")


async def json_of(request: Request) -> dict[str, Any]:
    """Return the JSON object that a request carries.

    Requiring the type of JSON keeps out forms of other sites, which can't set it.

    Raises:
        ApiError: it is of another type (415), too large (413), or no JSON object (400).
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "the body must be JSON, with the type application/json")
    body = b"".join([piece async for piece in body_of(request, MOST_JSON_BYTES)])
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not valid JSON") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body must be a JSON object")
    return content


def number(values: Any, name: str, default: float | None, least: float, most: float) -> float:
    """Return a number of a JSON object or a query by its name.

    Raises:
        ApiError: it is missing without a default, no number, or out of range.
    """
    given = values.get(name)
    if given is None and default is not None:
        return default
    try:
        if isinstance(given, bool):
            raise ValueError
        found = float(given)
    except (TypeError, ValueError):
        raise ApiError(400, f"{name} must be a number") from None
    if not (math.isfinite(found) and least <= found <= most):
        raise ApiError(400, f"{name} must be from {least:.15g} to {most:.15g}")
    return found


def whole(values: Any, name: str, default: int | None, least: int, most: int) -> int:
    """Return a whole number of a JSON object or a query by its name; errors as in `number`."""
    found = number(values, name, default, least, most)
    if found != int(found):
        raise ApiError(400, f"{name} must be a whole number")
    return int(found)


def text(values: Any, name: str, default: str | None = None) -> str:
    """Return a text of a JSON object or a query by its name.

    Raises:
        ApiError: it is missing without a default, or no text.
    """
    given = values.get(name, default)
    if not isinstance(given, str):
        raise ApiError(400, f"{name} must be text")
    return given

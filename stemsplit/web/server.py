"""The server: a socket, an address with a token, and limits for slow and greedy clients."""

import asyncio
import logging
import socket
import webbrowser
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from secrets import token_urlsafe
from threading import Thread
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from stemsplit.errors import SettingsError
from stemsplit.web.app import make_app
from stemsplit.web.guard import Guard, is_loopback

MOST_CONNECTIONS = 64
MOST_HEADER_BYTES = 16 << 10
HEAD_TIMEOUT_S = 10.0  # for a request's line and headers, however slowly they drip
_CLOSING_S = 2  # that open streams get at the end


class PatientProtocol(H11Protocol):
    """uvicorn's protocol, which also closes connections whose request doesn't arrive in time."""

    _head: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Take bytes, and stop waiting once a request is complete."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._stop_waiting()
        self._head = self.loop.call_later(HEAD_TIMEOUT_S, self._give_up)
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 stands for any free one.

    Raises:
        SettingsError: the address isn't this machine's, or the port is taken.
    """
    if not 0 <= port < 1 << 16:
        raise SettingsError(f"--port {port}: must be from 0 to 65535", setting="--port")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.create_server((host, port), family=family, backlog=MOST_CONNECTIONS)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "choose another --port" if port else "--host 127.0.0.1 is this machine"
        raise SettingsError(
            f"can't listen on {host}, port {port}: {reason}", setting="--port", hint=hint
        ) from None
    return found


def serve(
    paths: Iterable[Path],
    output: Path,
    base: Mapping[str, Any],
    *,
    host: str,
    port: int,
    key: str | None,
    ready: Callable[[str, Callable[[], None]], None],
) -> None:
    """Serve the page until the process is interrupted.

    Args:
        paths: files and folders to show.
        output: the folder of new stems.
        base: settings of all separations, by the name of their field.
        host: the address to listen on.
        port: the port; 0 for any free one.
        key: the token; None for a random one, which a host other than this machine doesn't allow.
        ready: called with the page's address once it can be opened, and with a function that ends the server.

    Raises:
        SettingsError: another host without a key, a key with other characters, or a port that is taken.
    """
    _check_key(host, key)
    with listen(host, port) as listening:
        token, port = key or token_urlsafe(18), listening.getsockname()[1]
        shown = _reachable(host)
        guard = Guard(make_app(paths, output, base), token, host, port)
        address = f"http://{shown}:{port}/{token}/"
        _run(guard, listening, lambda stop: ready(address, stop))


def _check_key(host: str, key: str | None) -> None:
    """Refuse another host without a key, and a key that can't stand in an address.

    Raises:
        SettingsError: the message names the option.
    """
    if key is None and not is_loopback(host):
        hint = "every machine that reaches this one could use the page: --key WORD is its password"
        raise SettingsError(f"--host {host}: needs --key", setting="--host", hint=hint)
    if key is not None and not (
        len(key) >= 8 and key.isascii() and key.replace("-", "").replace("_", "").isalnum()
    ):
        raise SettingsError("--key: must be 8 or more letters, digits, - and _", setting="--key")


def _reachable(host: str) -> str:
    """Return a host as it stands in an address; this machine's own for one that stands for all addresses."""
    if host in ("0.0.0.0", "::"):
        return "127.0.0.1" if host == "0.0.0.0" else "[::1]"
    return f"[{host}]" if ":" in host else host


def _run(app: Guard, listening: socket.socket, ready: Callable[[Callable[[], None]], None]) -> None:
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # the command prints its own lines
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        h11_max_incomplete_event_size=MOST_HEADER_BYTES,
        timeout_graceful_shutdown=_CLOSING_S,
    )
    _Server(config, ready).run(sockets=[listening])


class _Server(uvicorn.Server):
    """uvicorn's server, which tells when it is ready."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        if self.started:
            self._ready(self._stop)

    def _stop(self) -> None:
        self.should_exit = True


def open_browser(address: str) -> None:
    """Open the page in the user's browser, where there is one, without waiting for it."""
    Thread(target=lambda: webbrowser.open(address), daemon=True).start()

"""The guard in front of the app: refuse requests without the token, of other sites, and under other names.

The token is the first part of every address. Another site's page can't know it, so it can neither read nor
change anything, even where it reaches the server (DNS rebinding, cross-site requests).
"""

import hmac
import ipaddress
import socket
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stemsplit.web.answers import error_response

# No inline script, no other host, no frame around the page
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Mapping[bytes, bytes] = {
    b"content-security-policy": POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI app that passes on the requests that may be answered, with the token taken off their path.

    Args:
        app: the app behind it.
        token: the first part of every path; programs may send it as `Authorization: Bearer` instead.
        host: the address that the server listens on.
        port: its port.
    """

    def __init__(self, app: ASGIApp, token: str, host: str, port: int) -> None:
        self._app, self._token, self._port = app, token, port
        self._open = not is_loopback(host)
        own = (host, socket.gethostname()) if self._open else (host,)
        self._names = {name.lower() for name in (*LOOPBACK, *own)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message["headers"] if pair[0].lower() not in HEADERS]
                message["headers"] = [*kept, *HEADERS.items()]
            await send(message)

        headers = _headers(scope["headers"])
        refusal = self._refusal(headers)
        path = self._path(scope["path"], headers)
        if refusal is not None:
            await error_response(*refusal)(scope, receive, guarded)
        elif path is None:
            message, hint = "no valid token", "open the address that stemsplit printed"
            await error_response(403, message, hint)(scope, receive, guarded)
        else:
            await self._app({**scope, "path": path, "root_path": ""}, receive, guarded)

    def _refusal(self, headers: Mapping[str, list[str]]) -> tuple[int, str] | None:
        """Return status and message if Host or Origin aren't the server's own."""
        hosts, origins = headers.get("host", []), headers.get("origin", [])
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return 421, "this server has another name"
        if len(origins) > 1:
            return 403, "two origins"
        if origins:
            scheme, _, host = origins[0].partition("://")
            if scheme not in ("http", "https") or not self._is_own(host):
                return 403, "requests of other sites are refused"
        return None

    def _is_own(self, host: str) -> bool:
        """Return whether a Host (name and port) is this server's.

        DNS rebinding needs a name, so a server for other machines also goes by any numeric address.
        """
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if host != parts.netloc or "@" in host or (port or 80) != self._port:
            return False
        return name in self._names or (self._open and _is_address(name))

    def _path(self, path: str, headers: Mapping[str, list[str]]) -> str | None:
        """Return the path behind the token, None without a valid token."""
        sent = headers.get("authorization", [])
        if sent:
            scheme, _, key = sent[0].partition(" ")
            known = len(sent) == 1 and scheme.lower() == "bearer" and self._is_token(key.strip())
            return path if known else None
        first, slash, rest = path.removeprefix("/").partition("/")
        return f"/{rest}" if slash and self._is_token(first) else None

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(errors="replace"), self._token.encode())


def _headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

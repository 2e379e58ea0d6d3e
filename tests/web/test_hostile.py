"""Hostile requests over real sockets: each gets the right status, and nothing outside is read."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from stemsplit.web import answers, server
from tests.web.conftest import KEY, Client, served, write
from tests.web.processes import running

SECRET = b"the-content-of-a-file-outside"


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server whose folder has links out of it, beside a secret file."""
    base = tmp_path_factory.mktemp("hostile")
    os.environ["STEMSPLIT_CACHE"] = str(base / "cache")
    write(base / "stems/song/vocals.wav", np.zeros((1, 100)))
    (base / "outside").mkdir()
    (base / "outside/secret.wav").write_bytes(SECRET * 100)
    (base / "stems/song/bass.wav").symlink_to(base / "outside/secret.wav")
    (base / "stems/linked").symlink_to(base / "outside", target_is_directory=True)
    with served(base) as client:
        yield client
    del os.environ["STEMSPLIT_CACHE"]


def sent(client: Client, data: bytes, *, ends: bool = False) -> tuple[int, bytes]:
    """Send bytes; return the status of the answer (0 if there is none) and all that came."""
    with socket.create_connection(("127.0.0.1", client.port), timeout=60) as connection:
        connection.sendall(data)
        if ends:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        try:
            while piece := connection.recv(1 << 16):
                found += piece
        except ConnectionResetError:
            pass
    return (int(found.split(b" ")[1]) if found.startswith(b"HTTP/1.1 ") else 0), found


def request(
    client: Client, path: str, method: str = "GET", host: str | None = None, *more: str, body: bytes = b""
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{client.port}'}", *more]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + body


UP = ("..", "%2e%2e", "%2E%2e", ".%2e", "%252e%252e", "..%00", "%c0%ae%c0%ae", "..;", "....", "%uff0e%uff0e")
SLASHES = ("/", "%2f", "%5c", "\\", "%252f")
TRAVERSALS = [
    *(f"/{KEY}/{slash.join([up] * 3)}{slash}outside{slash}secret.wav" for up in UP for slash in SLASHES),
    *(f"/{KEY}/api/files/{up}{slash}secret.wav" for up in UP[:4] for slash in SLASHES),
    *(f"/{KEY}/api/files/{up}{slash}outside/pcm?start=0&frames=9" for up in UP[:3] for slash in SLASHES[:3]),
]
WITHOUT_TOKEN = [
    *(
        "/",
        "/api",
        "/api/songs",
        "/index.html",
        "//",
        f"/{KEY[:-1]}/api",
        f"/{KEY}x/api",
        f"/{KEY.upper()}/api",
    ),
    *(f"//{KEY}/api", f"/./{KEY}/api", f"/x/../{KEY}/api", f"/{KEY}", f"/{KEY}%00/api", f"/%20{KEY}/api"),
    *(f"/api?key={KEY}", f"/api/{KEY}", f"/?{KEY}", f"/{KEY};/api"),
]
WRONG_HOSTS = [
    *("evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}.evil.example"),
    *(
        "localhost:{port}@evil.example",
        "evil.example@127.0.0.1:{port}",
        "127.0.0.1:{port}/evil",
        "10.0.0.1:{port}",
    ),
    *(
        "[::1]",
        "localhost.:{port}",
        "127.0.0.1.nip.io:{port}",
        "0.0.0.0:{port}",
        "127.1:{port}",
        "2130706433:{port}",
    ),
    *("127.0.0.1:{port}, evil.example", "127.0.0.1:0{port}x", "", "[::1", "127.0.0.1:-1"),
]
WRONG_ORIGINS = [
    *("http://evil.example", "https://evil.example:{port}", "null", "http://127.0.0.1", "http://127.0.0.1:1"),
    *("http://localhost.evil.example:{port}", "file://", "http://127.0.0.1:{port}.evil.example", "evil", "*"),
    *(
        "chrome-extension://127.0.0.1:{port}",
        "http://127.0.0.1:{port}@evil.example",
        "http://10.0.0.1:{port}",
    ),
]
NUMBERS = (
    "",
    "x",
    "-1",
    "1.5",
    "1e400",
    "nan",
    "inf",
    "99999999999999999999",
    "0x10",
    "1;2",
    "%00",
    "²",
    "1_0" + "0" * 99,
)
QUERIES = [
    *(f"api/files/{{id}}/pcm?start={value}&frames=10" for value in NUMBERS),
    *(f"api/files/{{id}}/pcm?start=0&frames={value}" for value in (*NUMBERS, "0", "1048577")),
    *(f"api/files/{{id}}/peaks?start=0&frames=100&width={value}" for value in (*NUMBERS, "0", "99999")),
    *(f"api/files/{{id}}/spectrogram?start=0&frames=100&width=9&height={value}" for value in (*NUMBERS, "0")),
]
# an empty value of a number that has a default stands for no value in no case: all of these are refused
METHODS = [
    *(
        (method, path)
        for method in ("PUT", "PATCH", "DELETE", "POST", "TRACE")
        for path in ("", "api", "api/songs")
    ),
    *(("GET", path) for path in ("api/exports", "api/uploads")),
    *(("CONNECT", "api"), ("OPTIONS", "api/jobs"), ("FOO", "api")),
]
RANGES = [
    *(
        "bytes=9999999-",
        "bytes=5-1",
        "bytes=-",
        "bytes=a-b",
        "bytes=0-0,2-3,5-6",
        "bytes=" + ",".join(["0-"] * 500),
    ),
    *(
        "bytes=0-" + "9" * 90,
        "bytes=--1",
        "bytes=99999999999999999999999-",
        "lines=1-2",
        "bytes 0-1",
        "bytes=",
    ),
]
BODIES = [
    *(
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"[" * 60000,
        b'{"a":' * 20000,
        b"\xff\xfe",
        b'{"lanes": 1}',
        b'{"lanes": []}',
    ),
    *(
        b'{"lanes": [1]}',
        b'{"lanes": [{}]}',
        b'{"lanes": [{"id": 5}]}',
        b'{"lanes": [{"id": "x"}]}',
        b'{"x": 1}',
    ),
    *(b'{"lanes": [{"id": "../../outside/secret.wav"}]}', b'{"lanes": [{"id": "x"}], "name": 5}'),
]
MALFORMED = [
    *(b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"\x00" * 100),
    *(
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\n: x\r\n\r\n",
        b"GET / HTTP/1.1\nHost\n\n",
    ),
    *(
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    ),
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\nhello",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70000 + b"\r\n\r\n",
    b"GET /" + b"a" * 70000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(9000)) + b"\r\n",
]


def test_there_are_two_hundred() -> None:
    groups = (
        TRAVERSALS,
        WITHOUT_TOKEN,
        WRONG_HOSTS,
        WRONG_ORIGINS,
        QUERIES,
        METHODS,
        RANGES,
        BODIES,
        MALFORMED,
    )
    assert sum(map(len, groups)) >= 200


@pytest.mark.parametrize("path", TRAVERSALS)
def test_traversal(target: Client, path: str) -> None:
    status, found = sent(target, request(target, path))
    assert status == 404 and SECRET not in found


@pytest.mark.parametrize("path", WITHOUT_TOKEN)
def test_no_token(target: Client, path: str) -> None:
    status, found = sent(target, request(target, path))
    assert status == 403 and b"no valid token" in found


@pytest.mark.parametrize(
    "header", ["Basic x", "Bearer", "Bearer ", "Bearer wrong", f"Bearer {KEY}x", f"Basic {KEY}"]
)
def test_a_wrong_bearer(target: Client, header: str) -> None:
    assert sent(target, request(target, "/api", "GET", None, f"Authorization: {header}"))[0] == 403
    assert sent(target, request(target, "/api", "GET", None, f"Authorization: Bearer {KEY}"))[0] == 200


@pytest.mark.parametrize("host", WRONG_HOSTS)
def test_another_host(target: Client, host: str) -> None:
    raw = request(target, f"/{KEY}/api").replace(
        f"Host: 127.0.0.1:{target.port}".encode(), f"Host: {host.format(port=target.port)}".encode()
    )
    assert sent(target, raw)[0] == 421


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_its_own_hosts(target: Client, host: str) -> None:
    assert sent(target, request(target, f"/{KEY}/api", "GET", host.format(port=target.port)))[0] == 200


@pytest.mark.parametrize("origin", WRONG_ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_another_origin(target: Client, origin: str, method: str) -> None:
    raw = request(target, f"/{KEY}/api/jobs", method, None, f"Origin: {origin.format(port=target.port)}")
    assert sent(target, raw)[0] == 403


def test_its_own_origin(target: Client) -> None:
    raw = request(target, f"/{KEY}/api/jobs", "GET", None, f"Origin: http://localhost:{target.port}")
    assert sent(target, raw)[0] == 200


@pytest.mark.parametrize("query", QUERIES)
def test_numbers_out_of_range(target: Client, query: str) -> None:
    path = query.format(id=target.stem("song", "vocals")["id"]).encode().decode("latin-1")
    status, found = sent(target, request(target, f"/{KEY}/{path}"))
    assert status == 400, found


@pytest.mark.parametrize(("method", "path"), METHODS)
def test_other_methods(target: Client, method: str, path: str) -> None:
    status, _ = sent(target, request(target, f"/{KEY}/{path}", method))
    assert status in ((405, 400) if method == "CONNECT" else (405,))


@pytest.mark.parametrize("value", RANGES)
def test_ranges(target: Client, value: str) -> None:
    id = target.stem("song", "vocals")["id"]
    whole = (target.folder / "stems/song/vocals.wav").read_bytes()
    status, found = sent(target, request(target, f"/{KEY}/api/files/{id}", "GET", None, f"Range: {value}"))
    assert status in (200, 206, 400, 416)
    if status in (200, 206):  # a range that ends far behind the file, or that isn't one of bytes
        assert found.endswith(whole)


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("path", ["api/exports", "api/jobs"])
def test_bodies(target: Client, body: bytes, path: str) -> None:
    more = ("Content-Type: application/json", f"Content-Length: {len(body)}")
    status, found = sent(target, request(target, f"/{KEY}/{path}", "POST", None, *more, body=body))
    assert status in (400, 404, 413) and SECRET not in found, found
    plain = request(target, f"/{KEY}/{path}", "POST", None, more[1], body=body)
    assert sent(target, plain)[0] == 415  # the type that a form of another site could send


@pytest.mark.parametrize("data", MALFORMED, ids=lambda data: repr(data[:30]))
def test_what_is_no_request(target: Client, data: bytes) -> None:
    status, found = sent(target, data, ends=True)
    assert status in (0, 400, 421) and SECRET not in found, found
    assert target("GET", "api").status == 200


def test_links_out_of_the_folder_are_not_there(target: Client) -> None:
    song = target.song("song")
    assert [stem["name"] for result in song["results"] for stem in result["stems"]] == ["vocals"]
    assert [one["name"] for one in target.get("api/songs")["songs"]] == ["song"]
    for path in (
        "stems/song/bass.wav",
        "stems/linked/secret.wav",
        "outside/secret.wav",
        "stems/../outside/secret.wav",
    ):
        answer = target("POST", "api/jobs", {"path": str(target.folder / path)})
        assert answer.status == 403 and SECRET not in answer.body, path


def test_a_file_that_becomes_a_link_later_is_not_read(tmp_path: Path) -> None:
    stem = write(tmp_path / "stems/song/vocals.wav", np.zeros((1, 100)))
    outside = write(tmp_path / "outside.wav", np.zeros((1, 100)))
    with served(tmp_path) as client:
        id = client.stem("song", "vocals")["id"]
        stem.unlink()
        stem.symlink_to(outside)
        for path in (f"api/files/{id}", f"api/files/{id}/pcm?start=0&frames=9"):
            assert client("GET", path).status == 403


# ---------------------------------------------------------------- slow and greedy clients


def test_headers_that_drip_are_given_up(target: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_TIMEOUT_S", 0.5)
    with socket.create_connection(("127.0.0.1", target.port), timeout=60) as connection:
        with pytest.raises(OSError):
            for _ in range(1000):
                connection.sendall(b"X")
                time.sleep(0.05)


def test_a_body_that_drips_is_given_up(target: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "BODY_TIMEOUT_S", 0.3)
    head = request(target, f"/{KEY}/api/uploads?name=a.wav", "POST", None, "Content-Length: 100000")
    with socket.create_connection(("127.0.0.1", target.port), timeout=60) as connection:
        connection.sendall(head + b"RIFF")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_many_connections_are_turned_away_and_the_server_lives(target: Client) -> None:
    held = [socket.create_connection(("127.0.0.1", target.port)) for _ in range(server.MOST_CONNECTIONS + 5)]
    try:
        assert sent(target, request(target, f"/{KEY}/api"))[0] == 503
    finally:
        for connection in held:
            connection.close()
    for _ in range(50):
        if target("GET", "api").status == 200:
            return
        time.sleep(0.1)
    raise AssertionError("the server stays busy")


@pytest.mark.slow
def test_readers_that_stop_reading_hold_little_memory(folder: Path) -> None:
    write(folder / "stems/long/vocals.wav", np.zeros((2, 44100 * 60)), subtype="PCM_16")
    with running(folder) as (client, resident):
        id = client.stem("long", "vocals")["id"]
        ask = request(client, f"/{KEY}/api/files/{id}/pcm?start=0&frames={1 << 20}")
        with _held(client, ask):  # starts the worker threads, each with a heap of its own
            time.sleep(1)
        time.sleep(1)
        before = resident()
        with _held(client, ask):
            time.sleep(1)
            grown = resident() - before
        assert grown < 40e6, f"{grown / 1e6:.0f} MB"  # of 168 MB that were asked for
        assert client("GET", "api").status == 200


@contextmanager
def _held(client: Client, ask: bytes) -> Iterator[None]:
    """Hold twenty connections open that sent a request and read no answer."""
    with ExitStack() as held:
        for _ in range(20):
            connection = held.enter_context(socket.create_connection(("127.0.0.1", client.port)))
            connection.sendall(ask)
        yield

"""Addresses: their text, reading and writing through fsspec, listings, broken connections, and no secrets."""

import io
import os
import socket
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from stemsplit import urls
from stemsplit.errors import InputError, OutputError, SettingsError, StemsplitError
from stemsplit.urls import Url, is_url, name_of, place_of, shown

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "PAUSE_S", 0.0)


@pytest.fixture
def store() -> Iterator[str]:
    """Address of a folder in memory."""
    root = f"memory://store{time.time_ns()}"
    yield root
    fsspec.filesystem("memory").rm(root.removeprefix("memory:/"), recursive=True)


def write(address: str, content: bytes = b"x") -> None:
    with fsspec.open(address, "wb") as file:
        file.write(content)


@pytest.mark.parametrize("text", ["s3://b", "s3://b/a.wav", "gs://b/x/é {y}.wav", "https://host/a b"])
def test_texts(text: str) -> None:
    assert is_url(text) and str(place_of(text)) == text
    assert str(place_of(text) / "c") == f"{text}/c"
    assert os.fspath(place_of(text)) == text


@pytest.mark.parametrize("text", ["a.wav", "/a/b", "C:/x", "./s3:/x", "", "://x", "file:///a/b"])
def test_paths(text: str) -> None:
    assert not is_url(text) and isinstance(place_of(text), Path)


@pytest.mark.parametrize(
    "url",
    [
        "https://me:secret@host/a.wav",
        "https://host/a.wav?X-Amz-Signature=secret",
        "ftp://me:secret@host/a.wav",
        "s3://secret:secret@bucket/a.wav",
    ],
)
def test_no_secret_is_shown(url: str) -> None:
    assert "secret" not in shown(url) and shown(url).endswith("a.wav")
    assert "secret" not in urls._line(ValueError(f"cannot open '{url}': no"))


def test_names() -> None:
    assert name_of("https://host/My%20song.mp3?x=/y.wav") == "My song.mp3"
    assert name_of("s3://b/My%20song?.mp3") == "My%20song?.mp3"  # keys aren't quoted


def test_a_file_there_and_back(store: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(os.urandom(100_000))
    target = Url(f"{store}/deep/a.wav")
    assert not urls.exists(target)
    urls.put(tmp_path / "a", target)
    assert urls.exists(target)
    assert urls.copy_to(str(target), lambda file: file.read()) == (tmp_path / "a").read_bytes()
    with urls.open_file(target) as file:
        file.seek(500)
        assert file.read(10) == (tmp_path / "a").read_bytes()[500:510]
    urls.delete(target)
    urls.delete(target)
    assert not urls.exists(target)


def test_stores_that_show_parts_get_them_under_another_name(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls, "_ATOMIC", set())
    (tmp_path / "a").write_bytes(b"content")
    system, written = fsspec.filesystem("memory"), list[str]()
    put = type(system).put_file
    monkeypatch.setattr(
        type(system), "put_file", lambda self, *names: (written.append(names[1]), put(self, *names))[1]
    )
    urls.put(tmp_path / "a", Url(f"{store}/out/b.wav"))
    assert written[0].endswith("/out/.b.wav.part")
    assert list(urls.walk(store)) == [f"{store}/out/b.wav"]
    monkeypatch.setattr(type(system), "mv", lambda *_: 1 / 0)
    with pytest.raises(OutputError, match="ZeroDivisionError"):
        urls.put(tmp_path / "a", Url(f"{store}/out/c.wav"))
    assert list(urls.walk(store)) == [f"{store}/out/b.wav"]


def test_only_the_first_writes_a_new_file(store: str) -> None:
    target = Url(f"{store}/claim")
    assert urls.put_new(target, b"one") and not urls.put_new(target, b"two")
    assert urls.read_small(target) == b"one"
    urls.put_small(target, b"three")
    assert urls.read_small(target) == b"three"
    assert urls.read_small(Url(f"{store}/none")) is None


def test_listings(store: str) -> None:
    for name in ("b.wav", "x/a.wav", "x/y/c.wav", "a.wav"):
        write(f"{store}/{name}")
    found = [address.removeprefix(store) for address in urls.walk(store)]
    assert sorted(found) == ["/a.wav", "/b.wav", "/x/a.wav", "/x/y/c.wav"]
    assert urls.is_folder(store) and not urls.is_folder(f"{store}/a.wav")
    assert not urls.is_folder("https://host/folder/")


class Breaking(io.BytesIO):
    """File whose connection breaks."""

    size = 1000
    failures: list[Exception]

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() and self.failures:
            raise self.failures.pop()
        return super().read(min(size or 1, 300) if size != -1 else 300)


def opened(monkeypatch: pytest.MonkeyPatch, *failures: Exception, content: bytes = b"c" * 1000) -> None:
    left = list(failures)

    class System:
        def open(self, *_: Any, **__: Any) -> Breaking:
            file = Breaking(content)
            file.failures = left
            return file

    monkeypatch.setattr(urls, "_system", lambda url: (System(), url))


def read_all(file: Any) -> bytes:
    return b"".join(iter(lambda: file.read(300), b""))


def test_a_broken_connection_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, OSError(5, "reset"), RuntimeError("payload"))
    assert urls.copy_to("x://a", read_all) == b"c" * 1000


def test_a_connection_that_keeps_breaking_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, *[OSError(104, "Connection reset by peer")] * 9)
    with pytest.raises(InputError, match=r"x://a: Connection reset by peer"):
        urls.copy_to("x://a", read_all)


def test_half_a_file_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch, content=b"c" * 700)
    with pytest.raises(InputError, match="broke off after 700 of 1000 bytes"):
        urls.copy_to("x://a", read_all)


def test_the_reader_s_own_errors_aren_t_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opened(monkeypatch)
    calls = list[int]()

    def refuse(file: Any) -> None:
        calls.append(1)
        raise InputError("a", "not audio")

    with pytest.raises(InputError, match="not audio"):
        urls.copy_to("x://a", refuse)
    assert len(calls) == 1


@pytest.fixture
def web() -> Iterator[tuple[str, list[int]]]:
    """Address of a web server, and the statuses that it answers with before it gives the file."""
    pytest.importorskip("aiohttp")
    statuses = list[int]()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = statuses.pop(0) if statuses else 200
            self.send_response(status)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"song")

        def do_HEAD(self) -> None:
            self.send_error(405)  # as servers do that know GET only

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}/a.wav?token=secret", statuses
        server.shutdown()


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ([404], "no such file"),
        ([410], "no such file"),
        ([403], r"the server answers 403 \(Forbidden\)"),
        ([503] * 3, r"the server answers 503 \(Service Unavailable\)"),
    ],
)
def test_a_web_server_that_gives_no_file(web: tuple[str, list[int]], answers: list[int], reason: str) -> None:
    address, statuses = web
    statuses += answers
    with pytest.raises(InputError, match=reason) as error:
        urls.copy_to(address, read_all)
    assert "secret" not in str(error.value)
    assert statuses == []


def test_a_busy_web_server_is_asked_again(web: tuple[str, list[int]]) -> None:
    address, statuses = web
    statuses += [503, 500]
    assert urls.copy_to(address, read_all) == b"song"


def test_another_store_may_say_why_there_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bucket:
        asked = 0

        def open(self, *_: Any, **__: Any) -> None:
            self.asked += 1
            raise FileNotFoundError("a") from RuntimeError("NoSuchBucket")  # as s3fs does

    bucket = Bucket()
    monkeypatch.setattr(urls, "_system", lambda url: (bucket, url))
    with pytest.raises(InputError, match="no such file"):
        urls.copy_to("x://a", read_all)
    assert bucket.asked == 1


def test_a_web_server_that_is_not_there() -> None:
    pytest.importorskip("aiohttp")
    with socket.socket() as taken:  # bound, and refuses connections
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/a.wav"
        with pytest.raises(InputError, match=r"the server can't be reached \(.*127\.0\.0\.1"):
            urls.copy_to(address, read_all)


def test_what_nothing_opens() -> None:
    with pytest.raises(SettingsError, match="nothing here opens"):
        urls.copy_to("nonsense://a", read_all)
    with pytest.raises(InputError, match="no such file"):
        urls.copy_to("memory://none/a.wav", read_all)
    with pytest.raises(SettingsError, match="can't be written"):
        urls.check_writable(Url("https://host/x"))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: object, **__: object) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("fsspec.core.url_to_fs", lacking)
    with pytest.raises(StemsplitError) as error:
        urls.exists(Url("s3://b/a"))
    assert str(error.value) == "s3:// needs s3fs"
    assert error.value.hint == "pip install 'stemsplit-cli[s3]'" and not isinstance(error.value, OutputError)

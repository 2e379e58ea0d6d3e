"""Every error is `{"error": {"message", "hint"}}` with its status and headers, and nothing is printed."""

import gc
import json
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from stemsplit.errors import Cancelled, OutputError
from stemsplit.web import exports, handlers
from stemsplit.web import jobs as queue
from tests.web.conftest import KEY, Client, served


@pytest.mark.parametrize(
    ("range", "status", "words"),
    [
        ("bytes=10-5", 400, "bytes=FIRST-LAST"),
        ("bytes=", 400, "bytes=FIRST-LAST"),
        ("foo=0-1", 400, "bytes=FIRST-LAST"),
        ("bytes=999999999-", 416, "behind the end"),
        ("bytes=0-1,5-6", 416, "one range"),
    ],
)
def test_ranges_that_are_refused(client: Client, range: str, status: int, words: str) -> None:
    id = client.stem("song", "bass")["id"]
    answer = client("GET", f"api/files/{id}", headers={"Range": range})
    assert answer.status == status and words in answer.json["error"]["message"]
    if words == "behind the end":
        size = (client.folder / "stems/song/bass.wav").stat().st_size
        assert answer.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "api/jobs", "GET, HEAD, POST"),
        ("POST", "api/songs", "GET, HEAD"),
        ("GET", "api/exports", "POST"),
        ("POST", "api/jobs/x", "DELETE, GET, HEAD"),
    ],
)
def test_other_methods_are_told_which_there_are(client: Client, method: str, path: str, allowed: str) -> None:
    answer = client(method, path)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert answer.json["error"]["message"]


@pytest.mark.parametrize("path", ["api/", "api/songs/", "api/jobs/", "index.html/"])
def test_a_slash_at_the_end_leads_to_no_address_without_the_key(client: Client, path: str) -> None:
    answer = client("GET", path)
    assert answer.status == 404 and "location" not in answer.headers and answer.json["error"]["message"]


def test_limits_are_told_in_full(client: Client) -> None:
    id = client.stem("song", "bass")["id"]
    answer = client("GET", f"api/files/{id}/pcm?frames=1048577")
    assert answer.json["error"]["message"] == "frames must be from 1 to 1048576"


def test_a_file_that_is_no_audio_is_refused_at_once(folder: Path) -> None:
    path = folder / "readme.txt"
    path.write_text("no audio")
    with served(folder, path) as client:
        answer = client("POST", "api/jobs", {"path": str(path)})
        assert answer.status == 422 and "not an audio file" in answer.json["error"]["message"]
        assert client.get("api/jobs")["jobs"] == []


@pytest.mark.parametrize("form", ["stem.m4a", "stem.mp4", "mka"])
def test_formats_that_hold_all_stems_are_refused_at_once(client: Client, form: str) -> None:
    assert form not in [one["name"] for one in client.get("api")["formats"]]
    answer = client("POST", "api/jobs", {"song": client.song("song")["id"], "format": form})
    error = answer.json["error"]
    assert answer.status == 400 and form in error["message"] and form not in error["hint"]
    assert client.get("api/jobs")["jobs"] == []


def test_an_output_that_can_t_be_written(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def prepare(*_: object, **__: object) -> Any:
        raise OutputError("stems", "is a file, not a folder", hint="choose another folder with -o")

    monkeypatch.setattr(queue, "prepare", prepare)
    answer = client("POST", "api/jobs", {"song": client.song("song")["id"]})
    error = {"message": "stems: is a file, not a folder", "hint": "choose another folder with -o"}
    assert (answer.status, answer.json["error"]) == (409, error)
    assert caplog.records == []


def test_an_error_that_nobody_expects_is_json(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Any:
        raise LookupError("unexpected")

    monkeypatch.setattr(handlers.songs, "in_short", fail)
    answer = client("GET", "api/songs")
    assert answer.status == 500 and "unexpected" in answer.json["error"]["message"]


def test_an_export_whose_client_is_gone_prints_nothing(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended = Event(), Event()

    def render(lanes: Any, target: Path, settings: Any, stopped: Callable[[], bool]) -> float:
        begun.set()
        while not stopped():
            time.sleep(0.01)
        ended.set()
        raise Cancelled

    monkeypatch.setattr(exports, "render", render)
    body = json.dumps({"lanes": [{"id": client.stem("song", "bass")["id"]}]}).encode()
    head = f"POST /{KEY}/api/exports HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with caplog.at_level(logging.WARNING), socket.create_connection(("127.0.0.1", client.port)) as gone:
        gone.sendall(head.encode() + body)
        assert begun.wait(10)
        gone.close()
        assert ended.wait(10)
        time.sleep(0.5)  # the task is looked at four times a second
        gc.collect()  # asyncio logs an exception when its task is removed
    assert caplog.records == []

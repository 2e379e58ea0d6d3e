"""A server on a real socket in a thread of the tests, and stems for it."""

import http.client
import importlib.util
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from tests.web.browsing import Open, Page, check, hear

Audio = NDArray[np.float32]
KEY = "a-key-for-tests"
RATE = 44100


class Absent(pytest.Module):
    """A module of tests that can't be imported here."""

    def collect(self) -> Any:
        pytest.skip("needs the extra web: starlette and uvicorn", allow_module_level=True)


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    """Skip all tests of this folder without the extra."""
    here = all(importlib.util.find_spec(name) for name in ("starlette", "uvicorn"))
    return None if here else Absent.from_parent(parent, path=module_path)


@dataclass(frozen=True)
class Answer:
    """Status, headers by lower-case name, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Client:
    """A program that talks to a server."""

    port: int
    folder: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/{KEY}/"

    def __call__(
        self, method: str, path: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request to a path behind the key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("Content-Type", "application/json")
        try:
            connection.request(method, f"/{KEY}/{path}", body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the JSON at a path that must be there."""
        answer = self("GET", path)
        assert answer.status == 200, answer.body
        return answer.json

    def song(self, name: str) -> Any:
        """Return a song in full."""
        (found,) = [one for one in self.get("api/songs")["songs"] if one["name"] == name]
        return self.get(f"api/songs/{found['id']}")

    def stem(self, song: str, stem: str) -> Any:
        """Return a stem of the first result of a song."""
        (found,) = [one for one in self.song(song)["results"][0]["stems"] if one["name"] == stem]
        return found

    def wait(self, job: Mapping[str, Any], *states: str) -> Any:
        """Wait until a job has one of some states, and return it."""
        import time

        for _ in range(600):
            found = self.get(f"api/jobs/{job['id']}")
            if found["state"] in (states or ("done", "failed", "cancelled")):
                return found
            time.sleep(0.1)
        raise AssertionError(found)


@contextmanager
def served(folder: Path, *paths: Path, host: str = "127.0.0.1", **options: Any) -> Iterator[Client]:
    """Run a server for the block."""
    from stemsplit.web import server as serving

    ready: Queue[Any] = Queue()
    base = {"model": "classic", "offline": True, **options}

    def work() -> None:
        try:
            serving.serve(
                paths,
                folder / "stems",
                base,
                host=host,
                port=0,
                key=KEY,
                ready=lambda address, stop: ready.put((address, stop)),
            )
        except BaseException as error:
            ready.put(error)

    thread = Thread(target=work)
    thread.start()
    found = ready.get(timeout=60)
    if isinstance(found, BaseException):
        raise found
    address, stop = found
    try:
        yield Client(int(address.split(":")[2].split("/")[0]), folder)
    finally:
        stop()
        thread.join(60)
        assert not thread.is_alive(), "the server doesn't end"


Write = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the stems of a song of two seconds and the song; and its own caches."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("STEMSPLIT_REGISTRY", "/dev/null")
    write_song(tmp_path)
    return tmp_path


def write_song(folder: Path, seconds: float = 2.0, name: str = "song") -> dict[str, Audio]:
    """Write four stems of sines, noise and clicks, and their sum; return the stems [C, T]."""
    generator = np.random.default_rng(1)
    time = np.arange(round(seconds * RATE)) / RATE
    rows = {
        "drums": 0.08 * generator.standard_normal((2, len(time))) * np.exp(-12 * (4 * time % 1)),
        "bass": 0.2 * np.sin(2 * np.pi * 82 * time) * np.ones((2, 1)),
        "vocals": 0.2 * np.sin(2 * np.pi * np.array([[440], [550]]) * time),
        "other": 0.1 * np.sin(2 * np.pi * np.array([[1200], [900]]) * time),
    }
    stems = {stem: np.round(audio * 2**22) / 2**22 for stem, audio in rows.items()}
    for stem, audio in stems.items():
        write(folder / "stems" / name / f"{stem}.wav", audio)
    write(folder / f"{name}.wav", sum(stems.values()))
    return {stem: audio.astype(np.float32) for stem, audio in stems.items()}


def write(path: Path, audio: Any, subtype: str = "PCM_24", rate: int = RATE) -> Path:
    """Write samples [C, T] into a WAV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.asarray(audio).T, rate, subtype=subtype)
    return path


@pytest.fixture
def client(folder: Path) -> Iterator[Client]:
    """A client of a server for the folder's stems and song."""
    with served(folder, folder / "song.wav") as found:
        yield found


# ---------------------------------------------------------------- in a browser


CHROMIUM = (
    os.environ.get("STEMSPLIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
)
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--autoplay-policy=no-user-gesture-required"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()


@pytest.fixture
def show(browser: Any) -> Iterator[Open]:
    """Open the page of a server. At the end: it asked nobody else for anything, and had no errors."""
    faults: list[str] = []
    contexts = []

    def opened(client: Client, errors: bool = False, **options: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: check(request.url, faults))
        if not errors:
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("console", lambda line: hear(line, faults))
        page.goto(client.address)
        page.wait_for_selector("#song:not([hidden]), #empty:not([hidden])")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []

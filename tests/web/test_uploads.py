"""How many uploads are kept, and which ones make room."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import soundfile

from stemsplit.web import jobs as queue
from stemsplit.web import uploads
from tests.web.conftest import RATE, Client, served


def sent(client: Client, name: str) -> Any:
    content = io.BytesIO()
    soundfile.write(content, np.zeros((1000, 2)), RATE, format="WAV")
    return client("POST", f"api/uploads?name={name}.wav", content.getvalue())


def names(client: Client) -> list[str]:
    return [song["name"] for song in client.get("api/songs")["songs"] if song["name"] != "song"]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Jobs wait in their beginning until the event is set."""
    go = Event()
    run = queue.Jobs._run

    def wait(self: queue.Jobs, job: queue.Job) -> None:
        while not go.wait(0.01):
            if job.cancelled:
                raise queue.Cancelled
        run(self, job)

    monkeypatch.setattr(queue.Jobs, "_run", wait)
    return go


def test_the_upload_unused_for_longest_makes_room(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_FILES", 3)
    with served(folder) as client:
        ids = {name: sent(client, name).json["id"] for name in "abc"}
        job = client("POST", "api/jobs", {"upload": ids["a"]}).json
        assert client.wait(job)["state"] == "done"
        assert sent(client, "d").status == 201
        assert names(client) == ["a", "c", "d"]
        assert client("POST", "api/jobs", {"upload": ids["b"]}).status == 404
        assert client("POST", "api/uploads?name=e.wav", b"not audio").status == 422
        assert names(client) == ["a", "c", "d"], "what isn't kept takes no room"
        (place,) = Path(uploads.tempfile.gettempdir()).glob("stemsplit-web-*")
        assert len(list(place.iterdir())) == 3
        again = client("POST", "api/jobs", {"upload": ids["a"], "quality": "best"}).json
        assert client.wait(again)["state"] == "done"


def test_an_upload_that_a_job_needs_is_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch, held: Event
) -> None:
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    with served(folder) as client:
        jobs = [client("POST", "api/jobs", {"upload": sent(client, name).json["id"]}).json for name in "ab"]
        client.wait(jobs[0], "running")
        answer = sent(client, "c")
        assert answer.status == 429 and answer.json["error"]["hint"] == "try again when one is done"
        assert "jobs need all of the 2 uploads" in answer.json["error"]["message"]
        client("DELETE", f"api/jobs/{jobs[1]['id']}")
        assert sent(client, "c").status == 201 and names(client) == ["a", "c"]
        held.set()
        assert client.wait(jobs[0])["state"] == "done"
        assert sent(client, "d").status == 201 and names(client) == ["a", "c", "d"]
        assert not client.song("a")["has_original"]


def test_a_temporary_folder_that_is_a_link(
    folder: Path, monkeypatch: pytest.MonkeyPatch, held: Event
) -> None:
    (folder / "link").symlink_to(folder / "tmp", target_is_directory=True)
    monkeypatch.setattr(uploads.tempfile, "tempdir", str(folder / "link"))
    with served(folder) as client:
        upload = sent(client, "a").json["id"]
        job = client("POST", "api/jobs", {"song": client.song("a")["id"]}).json
        assert job["name"] == "a.wav"
        assert client("DELETE", f"api/uploads/{upload}").status == 409
        held.set()
        assert client.wait(job)["state"] == "done"


def test_submissions_at_once_never_queue_more_than_allowed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, held: Event
) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 3)
    prepare = queue.prepare

    def slow(*given: Any, **named: Any) -> Any:
        time.sleep(0.3)
        return prepare(*given, **named)

    monkeypatch.setattr(queue, "prepare", slow)
    with served(folder, folder / "song.wav") as client:
        song = client.song("song")["id"]
        client.wait(client("POST", "api/jobs", {"song": song}).json, "running")
        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(lambda _: client("POST", "api/jobs", {"song": song}).status, range(10)))
        assert sorted(found) == [201] * 3 + [429] * 7
        assert [job["state"] for job in client.get("api/jobs")["jobs"]] == ["running"] + ["waiting"] * 3

"""Separations through the HTTP API: queue, events, cancellation, uploads."""

import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stemsplit.events import Download, Progress, TrackDone
from stemsplit.hub.access import Access
from stemsplit.separation.inputs import Input
from stemsplit.settings import Request
from stemsplit.web import jobs as queue
from stemsplit.web import uploads
from tests.cli.conftest import COMMAND, Shell, environment
from tests.web.conftest import KEY, RATE, Client, served, write_song


def submitted(client: Client, **body: Any) -> Any:
    answer = client("POST", "api/jobs", body)
    assert answer.status == 201, answer.body
    return answer.json


def events(client: Client, job: Any, after: int | None = None) -> list[tuple[int, Any]]:
    """Return number and data of a job's events until the server ends the stream."""
    headers = {} if after is None else {"Last-Event-ID": str(after)}
    answer = client("GET", f"api/jobs/{job['id']}/events", headers=headers)
    if answer.status == 204:
        return []
    assert answer.headers["content-type"].startswith("text/event-stream")
    blocks = [block.split("\n") for block in answer.body.decode().split("\n\n") if block.startswith("id: ")]
    return [(int(id[4:]), json.loads(data.removeprefix("data: "))) for id, data in blocks]


def visible(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_song_of_the_server_becomes_stems(folder: Path) -> None:
    with served(folder, folder / "song.wav") as client:
        job = submitted(client, song=client.song("song")["id"], stems=["bass"], format="flac")
        assert job["state"] in ("waiting", "running") and job["settings"]["model"] == "classic"
        found = client.wait(job)
        assert found["state"] == "done" and list(found["outputs"]) == ["bass"]
        song = client.song("song")
    old, new = song["results"]
    assert (old["folder"], len(old["stems"])) == ("song", 4) and new["folder"] == "song (2)"
    assert new["made"] == {"model": "classic", "version": new["made"]["version"], "settings": {}}
    assert new["stems"][0]["frames"] == 2 * RATE and new["stems"][0]["file"] == "bass.flac"


def test_another_result_of_a_song_gets_a_folder_of_its_own(folder: Path) -> None:
    for path in (folder / "stems/song").iterdir():
        path.unlink()
    with served(folder, folder / "song.wav") as client:
        song = client.song("song")["id"]
        jobs = [submitted(client, song=song, quality=quality) for quality in ("balanced", "best", "balanced")]
        assert [client.wait(job)["state"] for job in jobs] == ["done"] * 3
        last = [data["event"] for _, data in events(client, jobs[2])]
        results = client.song("song")["results"]
    assert [result["folder"] for result in results] == ["song", "song (2)"]
    assert results[1]["made"]["settings"] == {"overlap": 0.5, "shifts": 4}
    assert "progress" not in last, "the third is the first again and is skipped"


def test_events_are_those_of_the_command(
    folder: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with served(folder) as client:
        job = submitted_upload(client, folder / "song.wav")
        client.wait(job)
        found = events(client, job)
        assert events(client, job, after=found[-1][0]) == []
        assert events(client, job, after=found[-2][0]) == found[-1:]
    shell = Shell(folder, capfdbinary, monkeypatch)
    ran = shell("song.wav", "-m", "classic", "-o", "other", "--progress", "json")
    wanted = [json.loads(line) for line in ran.err.splitlines() if line.startswith("{")]
    names = [data["event"] for _, data in found]
    assert names == ["start", "track_start", "progress", "track_done", "end"]  # of progress, the last
    assert list(dict.fromkeys(one["event"] for one in wanted)) == names
    for name, (_, data) in zip(names, found, strict=True):
        assert data.keys() == [one for one in wanted if one["event"] == name][-1].keys()


def submitted_upload(client: Client, path: Path, **body: Any) -> Any:
    sent = client("POST", f"api/uploads?name={path.name}", path.read_bytes())
    assert sent.status == 201, sent.body
    return submitted(client, upload=sent.json["id"], **body)


def test_an_upload_becomes_stems_and_is_their_original(folder: Path) -> None:
    with served(folder) as client:
        sent = client("POST", "api/uploads?name=my%20song.wav", (folder / "song.wav").read_bytes())
        job = submitted(client, upload=sent.json["id"])
        assert client.wait(job)["state"] == "done"
        song = client.song("my song")
        assert song["original"]["frames"] == 2 * RATE
        again = submitted(client, song=song["id"], quality="best")
        assert client.wait(again)["name"] == "my song.wav"
        assert len(client.song("my song")["results"]) == 2
        (place,) = [p.parent for p in Path(uploads.tempfile.gettempdir()).glob("stemsplit-web-*/*/song.wav")]
        assert client("DELETE", f"api/uploads/{sent.json['id']}").status == 204
        assert not place.exists() and not client.song("my song")["has_original"]
    assert not place.parent.exists()


def test_another_song_of_the_same_name_replaces_nothing(folder: Path) -> None:
    write_song(folder / "elsewhere", seconds=1.0)
    with served(folder) as client:
        first = submitted_upload(client, folder / "song.wav")
        assert client.wait(first)["outputs"]["bass"].endswith("stems/song (2)/bass.wav")
        second = submitted_upload(client, folder / "elsewhere/song.wav")
        assert client.wait(second)["outputs"]["bass"].endswith("stems/song (3)/bass.wav")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "path, song and upload"),
        ({"path": "song.wav", "upload": "x"}, 400, "one of"),
        ({"upload": "none"}, 404, "no such upload"),
        ({"song": "none"}, 404, "no such song"),
        ({"path": "/etc/passwd"}, 403, "outside"),
        ({"path": 7}, 400, "one of"),
        ({"model": "nonsense"}, 400, "no model named 'nonsense'"),
        ({"model": "/etc/passwd"}, 400, "no model named"),
        ({"model": 3}, 400, "model must be text"),
        ({"stems": ["voice"]}, 400, "no stem named 'voice'"),
        ({"stems": "bass"}, 400, "list"),
        ({"quality": "superb"}, 400, "fast, balanced, best"),
        ({"format": "wma"}, 400, "wma"),
        ({"format": "flac", "bit_depth": "32f"}, 400, "flac holds 16 or 24"),
        ({"rest": "yes"}, 400, "rest must be"),
        ({"output": "/tmp"}, 400, "no setting named 'output'"),
        ({"shifts": 4}, 400, "no setting named"),
    ],
)
def test_a_job_that_makes_no_sense_is_refused(client: Client, body: Any, status: int, words: str) -> None:
    named = {"path", "song", "upload"} & body.keys()
    song = {} if named or not body else {"song": client.song("song")["id"]}
    answer = client("POST", "api/jobs", {**song, **body})
    assert (answer.status, words in answer.json["error"]["message"]) == (status, True), answer.body
    assert client.get("api/jobs")["jobs"] == []


def test_a_download_is_told_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, access: Access, *, callback: Any) -> None:
        assert (name, access) == ("classic", Access(offline=True))
        for done in (0, 40, 84):
            callback(Download("weights.th", done, 84))

    monkeypatch.setattr(queue, "download_model", download)
    with served(folder) as client:
        job = submitted_upload(client, folder / "song.wav")
        client.wait(job)
        first = events(client, job)[0][1]
    assert first == {"event": "download", "name": "weights.th", "done": 84, "total": 84}


def test_the_model_stays_loaded_for_the_same_settings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stemsplit.separation import batch

    loaded = []
    load = batch.load_runner
    monkeypatch.setattr(batch, "load_runner", lambda *given: loaded.append(given) or load(*given))
    with served(folder) as client:
        for name, settings in (("one", {}), ("two", {}), ("three", {"quality": "best"}), ("four", {})):
            shutil.copy(folder / "song.wav", folder / f"{name}.wav")
            job = submitted_upload(client, folder / f"{name}.wav", **settings)
            assert client.wait(job)["state"] == "done"
    assert len(loaded) == 3


class Hold:
    """A model that waits in the middle of a song until it is let go."""

    def __init__(self) -> None:
        self.running = self.go = False

    def __call__(self, job: queue.Job) -> None:
        self.running = True
        while not self.go:
            job.take(Progress("song.wav", 1.0, 2.0, 1.0)) or _stop()
            time.sleep(0.01)


def _stop() -> None:
    raise queue.Cancelled


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hold]:
    """Jobs of a server that wait in their middle."""
    found = Hold()
    run = queue.Jobs._run

    def held(self: queue.Jobs, job: queue.Job) -> None:
        found(job)
        run(self, job)

    monkeypatch.setattr(queue.Jobs, "_run", held)
    yield found
    found.go = True


def test_jobs_wait_for_each_other_and_can_be_cancelled(folder: Path, hold: Hold) -> None:
    before = visible(folder / "stems")
    with served(folder, folder / "song.wav") as client:
        song = client.song("song")["id"]
        first, second, third = (submitted(client, song=song) for _ in range(3))
        client.wait(first, "running")
        assert client.wait(second, "waiting")
        assert client("DELETE", f"api/jobs/{second['id']}").json["state"] == "cancelled"
        assert client("DELETE", f"api/jobs/{first['id']}").status == 200
        assert client.wait(first)["state"] == "cancelled"
        assert visible(folder / "stems") == before
        client.wait(third, "running")
        hold.go = True
        assert client.wait(third)["state"] == "done"
        assert client("DELETE", f"api/jobs/{third['id']}").json["state"] == "done"
        assert [job["id"] for job in client.get("api/jobs")["jobs"]] == [first["id"], second["id"]]


def test_the_queue_is_bounded(client: Client, hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "MOST_WAITING", 2)
    song = client.song("song")["id"]
    client.wait(submitted(client, song=song), "running")
    for _ in range(2):
        submitted(client, song=song)
    answer = client("POST", "api/jobs", {"song": song})
    assert answer.status == 429 and len(client.get("api/jobs")["jobs"]) == 3


def test_a_reader_that_is_gone_changes_nothing(client: Client, hold: Hold) -> None:
    job = submitted(client, song=client.song("song")["id"])
    client.wait(job, "running")
    for _ in range(3):  # tabs that are closed in the middle of the events
        with socket.create_connection(("127.0.0.1", client.port)) as tab:
            tab.sendall(f"GET /{KEY}/api/jobs/{job['id']}/events HTTP/1.1\r\n".encode())
            tab.sendall(f"Host: 127.0.0.1:{client.port}\r\n\r\n".encode())
            assert b"200 OK" in tab.recv(100)
    assert client.get(f"api/jobs/{job['id']}")["progress"]["done_s"] == 1
    hold.go = True
    assert client.wait(job)["state"] == "done"


def test_events_take_no_memory_that_grows_with_the_song() -> None:
    job = queue.Job(Input(Path("song.wav")), Request(), {})
    for second in range(10_000):
        job.take(Progress("song.wav", second, 10_000, None))
    job.take(TrackDone("song.wav", "done", {}, 1.0))
    assert [number for number, _ in job.events] == [10_000, 10_001]


def test_a_server_that_ends_cancels_and_leaves_nothing(folder: Path, hold: Hold) -> None:
    before = visible(folder / "stems")
    with served(folder, folder / "song.wav") as client:
        client.wait(submitted(client, song=client.song("song")["id"]), "running")
    assert visible(folder / "stems") == before


# ---------------------------------------------------------------- uploads


def test_uploads_that_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from stemsplit.web import jobs_api

    monkeypatch.setattr(jobs_api, "MOST_BYTES", 1000)
    monkeypatch.setattr(uploads, "MOST_FILES", 1)
    with served(folder) as client:
        small = (folder / "song.wav").read_bytes()[:900]
        for name, body, status in (
            ("", small, 400),
            ("..", small, 400),
            (".hidden", small, 400),
            ("a%00b.wav", small, 400),
            ("x" * 300, small, 400),
            ("a.wav", b"", 400),
            ("a.wav", b"not audio", 422),
            ("a.wav", bytes(1001), 413),
        ):
            answer = client("POST", f"api/uploads?name={name}", body)
            assert (name, answer.status) == (name, status), answer.body
        chunked = http.client.HTTPConnection("127.0.0.1", client.port)
        chunked.request("POST", f"/{KEY}/api/uploads?name=a.wav", iter([bytes(600)] * 2))
        assert chunked.getresponse().status == 413  # without a declared length, too
        chunked.close()
        assert [song["name"] for song in client.get("api/songs")["songs"]] == ["song"]


@pytest.mark.parametrize("sent", [0, 100, 50_000])
def test_an_upload_that_is_cut_leaves_nothing(client: Client, sent: int) -> None:
    content = (client.folder / "song.wav").read_bytes()
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        head = f"POST /{KEY}/api/uploads?name=cut.wav HTTP/1.1\r\nHost: 127.0.0.1:{client.port}\r\n"
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content[:sent])
        time.sleep(0.1)
    for _ in range(50):
        left = [p for p in Path(uploads.tempfile.gettempdir()).glob("stemsplit-web-*/*/*")]
        if not left:
            break
        time.sleep(0.1)
    assert left == []
    assert [song["name"] for song in client.get("api/songs")["songs"]] == ["song"]


# ---------------------------------------------------------------- the process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_killed_server_leaves_no_half_file_under_a_final_name(folder: Path) -> None:
    write_song(folder, seconds=60, name="long")
    command = [*COMMAND, "serve", "long.wav", "-o", "new", "--port", "0", "--key", KEY, "-m", "tiny"]
    server = subprocess.Popen(
        command, cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert server.stdout is not None
        client = Client(int(server.stdout.readline().decode().split(":")[2].split("/")[0]), folder)
        job = submitted(client, path=str(folder / "long.wav"))
        for _ in range(600):
            found = client.get(f"api/jobs/{job['id']}")
            if (found["progress"] or {}).get("done_s"):
                break
            time.sleep(0.05)
        assert found["state"] == "running", found
    finally:
        server.send_signal(signal.SIGKILL)
        server.communicate()
    names = [path.name for path in (folder / "new").rglob("*") if path.is_file()]
    assert names and all(name.startswith(".") and name.endswith(".part") for name in names), names


def test_the_program_in_the_documentation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tests.docs.pages import DOCS, blocks

    (program,) = [block.code for block in blocks(DOCS / "play.md") if block.language == "python"]
    with served(folder, folder / "song.wav") as client:
        program = program.replace("http://127.0.0.1:8000/correct-horse-battery/", client.address)
        exec(program.replace('"path": "song.wav"', f'"path": {str(folder / "song.wav")!r}'), {})
    lines = capsys.readouterr().out.splitlines()
    assert "'event': 'start'" in lines[0] and lines[-1].endswith("vocals.flac'}")

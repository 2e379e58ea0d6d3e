"""Libraries beyond the number of inputs that are planned at once, and inputs and outputs at addresses."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import soundfile

from stemsplit import Request, claims, separate_files
from stemsplit.errors import Cancelled, SettingsError
from stemsplit.events import Event, Notice, Start, TrackStart
from stemsplit.separation import inputs, plan
from stemsplit.separation.inputs import Input, collect
from stemsplit.separation.joining import join_reports
from stemsplit.separation.plan import Layout, plan_jobs, stream_jobs
from stemsplit.separation.report import ReportStream
from stemsplit.settings import BatchSettings, ModelSettings, OutputSettings, StemSettings

LAYOUT = Layout(("a", "b"), Path("out"), "{dir}/{name}/{stem}.{ext}", "wav", "m")
MOST = 4


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let four inputs be many."""
    monkeypatch.setattr(inputs, "MOST_PLANNED", MOST)
    monkeypatch.setattr(plan, "MOST_PLANNED", MOST)


@pytest.fixture
def store() -> Iterator[str]:
    fsspec = pytest.importorskip("fsspec")
    root = f"memory://library{time.time_ns()}"
    yield root
    with suppress(FileNotFoundError):
        fsspec.filesystem("memory").rm(root.removeprefix("memory:/"), recursive=True)


def songs(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(len(name)).standard_normal((9000, 2)), 44100)
    return folder / "in"


def request(output: str | Path, **batch: object) -> Request:
    return Request(
        model=ModelSettings("classic"),
        stems=StemSettings(stems=("bass", "drums")),
        output=OutputSettings(bit_depth="32f"),
        batch=BatchSettings(output=str(output), **batch),  # type: ignore[arg-type]
    )


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


NAMES = [f"{folder}/{number}.wav" for folder in "ab" for number in range(4)]


# ---------------------------------------------------------------- plans


@pytest.mark.parametrize("count", range(MOST - 1, MOST + 3))
def test_the_first_inputs_are_listed_and_the_others_follow(few: None, tmp_path: Path, count: int) -> None:
    names = [f"{number}.wav" for number in range(count)]
    for name in (*names, "note.txt"):
        (tmp_path / name).touch()
    found = collect([tmp_path, tmp_path / "0.wav"])
    assert len(found.inputs) == min(count, MOST) and (found.more is None) == (count <= MOST)
    assert [entry.path.name for entry in [*found.inputs, *(found.more or ())]] == names
    assert "left out 1 file" in found.notices()[0]


@pytest.mark.parametrize("run", [1, 3, 100])
def test_a_stream_of_jobs_is_the_plan_folder_by_folder(monkeypatch: pytest.MonkeyPatch, run: int) -> None:
    monkeypatch.setattr(plan, "MOST_PLANNED", run)
    paths = [
        "x/a.wav",
        "x/a.flac",
        "x/A.mp3",
        "x/b.wav",
        "x/a_wav.wav",
        "y/a.wav",
        "y/é.wav",
        "y/e\u0301.wav",
    ]
    entries = [Input(Path(path), PurePosixPath(path).parent) for path in paths]
    streamed = list(stream_jobs(entries, LAYOUT, lambda notice: None))
    outputs = [path for job in streamed for path in job.files.values()]
    assert len({plan._comparable(path) for path in outputs}) == 2 * len(paths)
    if run == 100:
        assert tuple(streamed) == plan_jobs(entries, LAYOUT).jobs


def test_colliding_outputs_fail_their_track(few: None) -> None:
    entries = [Input(Path(f"{folder}/a.wav"), PurePosixPath(folder)) for folder in ("x", "y")]
    flat = Layout(("s",), Path("out"), "{name}/{stem}.{ext}", "wav", "m")
    first, second = stream_jobs(entries, flat, lambda notice: None)
    assert first.files and not second.files
    assert second.input.failure is not None and "have the same path" in str(second.input.failure)


# ---------------------------------------------------------------- runs


def test_a_long_listing_gives_the_same_files(few: None, tmp_path: Path) -> None:
    folder, events = songs(tmp_path, *NAMES), list[Event]()
    (folder / "a/2.wav").write_bytes(b"no audio")
    (folder / "notes.txt").touch()
    report = separate_files(folder, request(tmp_path / "out"), callback=events.append)
    assert [track.status for track in report.tracks] == ["done"] * 2 + ["failed"] + ["done"] * 5
    assert [track.input for track in report.tracks] == [str(folder / name) for name in NAMES]
    assert {event.count for event in events if isinstance(event, TrackStart)} == {None}
    assert [event.tracks for event in events if isinstance(event, Start)] == [None]
    assert any(isinstance(event, Notice) and "left out 1 file" in event.message for event in events)
    again = separate_files(folder, request(tmp_path / "out"))
    assert [track.status for track in again.tracks] == ["skipped"] * 2 + ["failed"] + ["skipped"] * 5
    singly = tmp_path / "singly"
    separate_files([folder / "a"], request(singly / "a"))
    separate_files([folder / "b"], request(singly / "b"))
    assert files(tmp_path / "out") == files(singly)


def test_shards_of_a_long_listing(few: None, tmp_path: Path) -> None:
    folder = songs(tmp_path, *NAMES)
    reports = [separate_files(folder, request(tmp_path / "out", shard=(i, 3))) for i in (1, 2, 3)]
    assert sorted(track.input for one in reports for track in one.tracks) == sorted(
        str(folder / name) for name in NAMES
    )


def test_a_long_listing_overwrites_only_its_own_files(few: None, tmp_path: Path) -> None:
    folder = songs(tmp_path, *NAMES)
    target = tmp_path / "out/a/1/bass.wav"
    target.parent.mkdir(parents=True)
    target.write_bytes((folder / "a/0.wav").read_bytes())
    before = target.read_bytes()
    report = separate_files(folder, request(tmp_path / "out", if_exists="overwrite"))
    assert [track.status for track in report.tracks] == ["done", "failed", *["done"] * 6]
    assert report.tracks[1].error and "not made by stemsplit" in report.tracks[1].error.message
    assert target.read_bytes() == before
    target.unlink()
    assert separate_files(folder, request(tmp_path / "out", if_exists="overwrite")).count("done") == 8


def test_fail_fast_ends_a_long_listing(few: None, tmp_path: Path) -> None:
    folder = songs(tmp_path, *NAMES)
    (folder / "a/0.wav").write_bytes(b"no audio")
    report = separate_files(folder, request(tmp_path / "out", fail_fast=True))
    assert [track.status for track in report.tracks] == ["failed"]


# ---------------------------------------------------------------- addresses


def upload(folder: Path, store: str) -> None:
    import fsspec

    for name, content in files(folder).items():
        with fsspec.open(f"{store}/{name}", "wb") as file:
            file.write(content)


def download(store: str) -> dict[str, bytes]:
    import fsspec

    found = fsspec.filesystem("memory").find(store.removeprefix("memory:/"))
    return {name.removeprefix(store.removeprefix("memory:/") + "/"): _content(name) for name in found}


def _content(name: str) -> bytes:
    import fsspec

    content: bytes = fsspec.filesystem("memory").cat_file(name)
    return content


def test_there_and_back(store: str, tmp_path: Path) -> None:
    folder = songs(tmp_path, "x/a.wav", "b.wav", "x/.hidden.wav", "out/no.wav")
    separate_files([folder / "x", folder / "b.wav"], request(tmp_path / "local"))
    upload(folder, store)
    report = separate_files(f"{store}/", request(f"{store}/out"))
    assert {track.input: track.status for track in report.tracks} == {
        f"{store}/b.wav": "done",
        f"{store}/x/a.wav": "done",
    }
    made = {name: data for name, data in download(store).items() if name.startswith("out/")}
    del made["out/no.wav"]
    local = files(tmp_path / "local")
    assert made == {
        **{f"out/b/{stem}.wav": local[f"b/{stem}.wav"] for stem in ("bass", "drums")},
        **{f"out/x/a/{stem}.wav": local[f"a/{stem}.wav"] for stem in ("bass", "drums")},
    }
    again = separate_files(store, request(f"{store}/out"))
    assert [track.status for track in again.tracks] == ["skipped", "skipped"]
    other = separate_files(store, request(f"{store}/out", start_s=0.1))
    assert [track.status for track in other.tracks] == ["failed", "failed"]
    error = other.tracks[0].error
    assert error is not None and "start_s was the default and is now 0.1" in error.message
    half = next(name for name in download(store) if name.endswith("b/bass.wav"))
    import fsspec

    fsspec.filesystem("memory").rm_file(f"{store.removeprefix('memory:/')}/{half}")
    mended = separate_files(store, request(f"{store}/out"))
    assert sorted(track.status for track in mended.tracks) == ["done", "skipped"]


def test_failures_are_recorded_and_leave_nothing(store: str, tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav")
    (folder / "bad.wav").write_bytes(b"no audio at all")
    (folder / "empty.wav").touch()
    upload(folder, store)
    given = [f"{store}/{name}.wav" for name in ("a", "bad", "empty", "missing")]
    report = separate_files(given, request(f"{store}/out"))
    assert [track.status for track in report.tracks] == ["done", "failed", "failed", "failed"]
    assert report.exit_code == 3
    messages = [track.error.message for track in report.tracks if track.error]
    assert "not an audio file" in messages[0] and "empty" in messages[1] and "no such file" in messages[2]
    assert sorted(name for name in download(store) if name.startswith("out/")) == [
        "out/a/bass.wav",
        "out/a/drums.wav",
    ]


def test_a_run_that_is_cancelled_leaves_no_claim(store: str, tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav")

    def callback(event: Event) -> bool:
        return not isinstance(event, TrackStart)

    with pytest.raises(Cancelled):
        separate_files(folder, request(f"{store}/out"), callback=callback)
    assert download(store) == {}
    separate_files(folder, request(f"{store}/out"))


@pytest.mark.filterwarnings("ignore")  # aiohttp leaves its session to the interpreter's end
def test_a_song_on_a_web_server(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("aiohttp")
    folder = songs(tmp_path, "My song.wav")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        root = f"http://127.0.0.1:{server.server_port}"
        given = [f"{root}/My%20song.wav?token=secret", f"{root}/none.wav?token=secret"]
        report = separate_files(given, request(tmp_path / "out"))
        server.shutdown()
    assert [track.status for track in report.tracks] == ["done", "failed"]
    assert report.tracks[0].input == f"{root}/My%20song.wav"
    assert sorted(files(tmp_path / "out")) == ["My song/bass.wav", "My song/drums.wav"]
    assert report.tracks[1].error and report.tracks[1].error.message == "no such file"
    assert "secret" not in json.dumps(report.as_dict())


def test_what_nothing_opens_ends_the_run(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(SettingsError, match="nothing here opens nonsense://"):
        separate_files("nonsense://a/b.wav", request(tmp_path / "out"))


def test_a_long_listing_at_an_address(few: None, store: str, tmp_path: Path) -> None:
    upload(songs(tmp_path, *NAMES), store)
    report = separate_files(store, request(tmp_path / "out"))
    assert [track.status for track in report.tracks] == ["done"] * 8


def test_what_a_process_left_that_was_killed_after_publishing_is_removed(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav")
    separate_files(folder, request(tmp_path / "out"))
    before = files(tmp_path / "out")
    for name in (".bass.wav.f32.part", ".drums.wav.part"):
        (tmp_path / "out/a" / name).write_bytes(b"half")
    dead = {"run": "x", "machine": claims.Owner.here("x").machine, "process": "0:0", "token": "y"}
    (tmp_path / "out/a/.bass.wav.claim").write_text(json.dumps(dead))
    assert separate_files(folder, request(tmp_path / "out")).tracks[0].status == "skipped"
    assert files(tmp_path / "out") == before


# ---------------------------------------------------------------- reports


def test_a_report_is_written_while_the_run_goes_on(tmp_path: Path) -> None:
    folder, lines = songs(tmp_path, "a.wav", "b.wav"), tmp_path / "r.jsonl"
    counts = list[int]()

    def callback(event: Event) -> None:
        if isinstance(event, TrackStart):
            counts.append(len(lines.read_text().splitlines()) if lines.exists() else 0)

    report = separate_files(folder, request(tmp_path / "out"), stream=ReportStream(lines), callback=callback)
    assert join_reports([lines]) == json.loads(json.dumps(report.as_dict()))
    with open(lines, "ab") as file:
        file.write(b'{"input": "half')
    (tmp_path / "out/a/bass.wav").unlink()
    second = separate_files(folder, request(tmp_path / "out"), stream=ReportStream(lines))
    assert sorted(track.status for track in second.tracks) == ["done", "skipped"]
    joined = join_reports([lines])
    assert joined["summary"]["done"] == 2 and joined["summary"]["skipped"] == 0
    assert joined["summary"]["wall_s"] == pytest.approx(report.wall_s + second.wall_s)


def test_reports_of_shards_are_joined(tmp_path: Path) -> None:
    folder = songs(tmp_path, "a.wav", "b.wav", "c.wav")
    (folder / "c.wav").write_bytes(b"no audio")
    paths = [tmp_path / f"{i}.json" for i in (1, 2)]
    walls = list[float]()
    for i, path in enumerate(paths, 1):
        report = separate_files(folder, request(tmp_path / "out", shard=(i, 2)))
        path.write_text(json.dumps(report.as_dict()))
        walls.append(report.wall_s)
    joined = join_reports(paths)
    assert [joined["summary"][status] for status in ("done", "skipped", "failed")] == [2, 0, 1]
    assert joined["summary"]["wall_s"] == max(walls)
    assert {track["input"][-5:] for track in joined["tracks"]} == {"a.wav", "b.wav", "c.wav"}

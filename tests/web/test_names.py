"""Names that aren't UTF-8, lone surrogates in requests, and long names."""

import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import Client, served

NAME = os.fsdecode(b"caf\xe9")  # in Latin-1


@pytest.fixture
def named(folder: Path) -> Path:
    """The folder with a song and stems whose names have a byte that isn't UTF-8."""
    try:
        shutil.copy(folder / "song.wav", folder / f"{NAME}.wav")
    except OSError:
        pytest.skip("this file system refuses such names")
    stems = shutil.copytree(folder / "stems/song", folder / "stems" / NAME)
    (stems / "drums.wav").rename(stems / os.fsdecode(b"drum\xe8.wav"))
    return folder


def test_stems_in_a_folder_that_is_not_utf_8(named: Path) -> None:
    with served(named) as client:
        assert [one["name"] for one in client.get("api/songs")["songs"]] == [NAME, "song"]
        (result,) = client.song(NAME)["results"]
        sent = client("GET", f"api/results/{result['id']}/zip")
        assert sent.headers["content-disposition"] == "attachment; filename*=utf-8''caf%25E9.zip"
        with zipfile.ZipFile(io.BytesIO(sent.body)) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["bass.wav", "drum%E8.wav", "other.wav", "vocals.wav"]
        stem = next(one for one in result["stems"] if one["file"].startswith("drum"))
        sent = client("GET", f"api/files/{stem['id']}")
        assert sent.headers["content-disposition"] == "attachment; filename*=utf-8''drum%25E8.wav"
        assert sent.body == (named / "stems" / NAME / stem["file"]).read_bytes()
        mixed = client("POST", "api/exports", {"lanes": [{"id": stem["id"]}], "name": f"{NAME} (mix)"})
        assert (mixed.status, mixed.json["name"]) == (201, "caf_ (mix).wav")


def test_a_song_whose_name_is_not_utf_8(named: Path) -> None:
    with served(named, named / f"{NAME}.wav") as client:
        asked = client("POST", "api/jobs", {"path": str(named / f"{NAME}.wav"), "quality": "best"})
        assert (asked.status, asked.json["name"]) == (201, f"{NAME}.wav")
        assert client.wait(asked.json)["state"] == "done"
        (job,) = client.get("api/jobs")["jobs"]
        assert Path(job["outputs"]["bass"]) == named / "stems" / f"{NAME} (2)" / "bass.wav"
        assert client("GET", f"api/jobs/{job['id']}/events").body.count(b"caf\\udce9") > 1


def test_an_upload_whose_name_is_not_utf_8(folder: Path) -> None:
    with served(folder) as client:
        sent = client("POST", "api/uploads?name=caf%E9.wav", (folder / "song.wav").read_bytes())
        assert (sent.status, sent.json["name"]) == (201, "caf\ufffd.wav")


@pytest.mark.parametrize(
    "body",
    [
        *({key: "\ud800"} for key in ("path", "song", "upload", "model", "quality", "format", "bit_depth")),
        *({"stems": ["\ud800"]}, {"\ud800": 1}, {"rest": "\ud800"}),
    ],
    ids=ascii,
)
def test_a_lone_surrogate_in_a_job(client: Client, body: Any) -> None:
    song = {} if {"path", "song", "upload"} & body.keys() else {"song": client.song("song")["id"]}
    answer = client("POST", "api/jobs", {**song, **body})
    assert answer.status in (400, 404) and answer.json["error"]["message"]


@pytest.mark.parametrize("key", ["format", "bit_depth", "clip", "bitrate", "\ud800"], ids=ascii)
def test_a_lone_surrogate_in_an_export(client: Client, key: str) -> None:
    lanes = [{"id": client.stem("song", "bass")["id"]}]
    answer = client("POST", "api/exports", {"lanes": lanes, key: "\ud800"})
    assert answer.status == 400 and answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("name", "start", "longest"),
    [("絆" * 85 + " (mix)", "絆" * 66, 204), ("x" * 300, "x" * 200, 204), ("a." * 150, "a.a.", 204)],
)
def test_the_name_of_an_export_is_cut_to_what_file_systems_hold(
    client: Client, name: str, start: str, longest: int
) -> None:
    lanes = [{"id": client.stem("song", "bass")["id"]}]
    made = client("POST", "api/exports", {"lanes": lanes, "name": name})
    assert made.status == 201, made.body
    found = made.json["name"]
    assert found.startswith(start) and found.endswith(".wav") and len(found.encode()) <= longest
    assert client("GET", f"api/exports/{made.json['id']}").status == 200

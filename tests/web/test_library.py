"""Which files and results the page shows as one song, and which file is the song's original."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stemsplit.audio.content import content_of
from stemsplit.audio.tags import Tags
from stemsplit.audio.writer import open_writer
from stemsplit.settings import OutputSettings
from stemsplit.web import matching
from stemsplit.web.answers import ApiError
from stemsplit.web.library import Library
from stemsplit.web.results import Song
from tests.web.conftest import RATE, Client, served, write


def recording(path: Path, seed: int) -> Path:
    """Write a short recording that differs from those of other seeds."""
    return write(path, np.random.default_rng(seed).normal(0, 0.1, (2, 5000)), subtype="PCM_16")


def stem(path: Path, source: Path | None = None, total: str | None = None) -> Path:
    """Write a stem, with stemsplit's tag if the recording or the sum that it was made from is given."""
    line: dict[str, Any] = {"model": "tiny", "version": "1", "settings": {}}
    line |= {} if source is None else {"input": content_of(source)}
    line |= {} if total is None else {"output": total}
    tags = Tags(settings=json.dumps(line)) if source or total else None
    path.parent.mkdir(parents=True, exist_ok=True)
    form = OutputSettings(format=path.suffix.removeprefix("."))
    with open_writer(path, RATE, 1, form, tags=tags) as writer:
        writer.write(np.zeros((1, 2000), np.float32))
    return path


def listed(folder: Path, *paths: Path) -> dict[str, tuple[str | None, list[str]]]:
    """Return original and results of all songs by name."""
    songs = Library(paths, folder / "stems").songs()
    assert len({song.id for song in songs}) == len(songs) == len({song.name for song in songs})
    return {song.name: shown(song, folder) for song in songs}


def shown(song: Song, folder: Path) -> tuple[str | None, list[str]]:
    source = None if song.source is None else song.source.relative_to(folder).as_posix()
    return source, [result.label for result in song.results]


# ---------------------------------------------------------------- results of one recording


def test_results_of_different_recordings_are_different_songs(tmp_path: Path) -> None:
    one, other = recording(tmp_path / "a/x.wav", 1), recording(tmp_path / "b/x.wav", 2)
    for name, source in (("x", one), ("x (2)", other), ("x (3)", one), ("x (10)", other)):
        stem(tmp_path / f"stems/{name}/vocals.flac", source)
    assert listed(tmp_path, one, other) == {
        "x": ("a/x.wav", ["x", "x (3)"]),
        "x (2)": ("b/x.wav", ["x (2)", "x (10)"]),
    }


def test_a_number_in_a_songs_own_name_is_kept(tmp_path: Path) -> None:
    for number in (1, 2):
        take = recording(tmp_path / f"take ({number}).wav", number)
        stem(tmp_path / f"stems/take ({number})/vocals.flac")
        stem(tmp_path / f"stems/tagged ({number})/vocals.flac", take)
    stem(tmp_path / "stems/take (1) (2)/vocals.flac")
    assert listed(tmp_path, tmp_path / "take (1).wav", tmp_path / "take (2).wav") == {
        "take (1)": ("take (1).wav", ["take (1)", "take (1) (2)"]),
        "take (2)": ("take (2).wav", ["take (2)"]),
        "tagged (1)": (None, ["tagged (1)"]),
        "tagged (2)": (None, ["tagged (2)"]),
    }


def test_results_of_which_nothing_is_known_belong_to_an_unnumbered_one(tmp_path: Path) -> None:
    for name in ("x", "x (2)", "alone (2)"):
        stem(tmp_path / f"stems/{name}/vocals.flac")
    assert listed(tmp_path) == {"alone (2)": (None, ["alone (2)"]), "x": (None, ["x", "x (2)"])}


def test_the_file_that_a_job_separated_tells_the_song(tmp_path: Path) -> None:
    files = [recording(tmp_path / f"{name}/x.wav", seed) for seed, name in enumerate("ab")]
    library = Library(files, tmp_path / "stems")
    for name, source in (("x", files[0]), ("x (2)", files[1]), ("x (3)", files[0])):
        stem(tmp_path / f"stems/{name}/vocals.flac")
        library.link(tmp_path / "stems" / name, source)
    stem(tmp_path / "stems/x (4)/vocals.flac", files[1])  # of another run, with a digest and no link
    assert [shown(song, tmp_path) for song in library.songs()] == [
        ("a/x.wav", ["x", "x (3)"]),
        ("b/x.wav", ["x (2)", "x (4)"]),
    ]


# ---------------------------------------------------------------- originals


def test_an_original_of_the_same_name_is_another_song(tmp_path: Path) -> None:
    right, wrong = recording(tmp_path / "b/x.wav", 1), recording(tmp_path / "a/x.wav", 2)
    stem(tmp_path / "stems/x/vocals.flac", right)
    assert listed(tmp_path, wrong) == {"x": (None, ["x"]), "x.wav": ("a/x.wav", [])}
    assert listed(tmp_path, wrong, right)["x"] == ("b/x.wav", ["x"])
    assert listed(tmp_path, tmp_path / "a", tmp_path / "b")["x (2)"] == ("a/x.wav", [])


def test_an_original_is_taken_by_its_name_only_if_it_is_the_only_one(tmp_path: Path) -> None:
    files = [recording(tmp_path / f"{name}/x.wav", seed) for seed, name in enumerate("ab")]
    stem(tmp_path / "stems/x/vocals.flac")
    assert listed(tmp_path, files[0]) == {"x": ("a/x.wav", ["x"])}
    assert listed(tmp_path, *files)["x"] == (None, ["x"])


def test_a_numbered_result_finds_its_original(tmp_path: Path) -> None:
    source = recording(tmp_path / "x.wav", 1)
    stem(tmp_path / "stems/x (2)/vocals.flac", source)
    assert listed(tmp_path, source) == {"x (2)": ("x.wav", ["x (2)"])}


def test_a_long_list_is_there_before_all_recordings_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "COMPARING_S", -1)
    right, wrong = recording(tmp_path / "a/x.wav", 1), recording(tmp_path / "b/x.wav", 2)
    stem(tmp_path / "stems/x/vocals.flac", right)
    library = Library([wrong], tmp_path / "stems")
    (song,) = library.songs()
    assert song.source == wrong and not song.sure
    assert library.song(song.id).source is None, "one that is opened is compared"
    assert [song.source for song in library.songs()] == [None, wrong], "and then the list knows it, too"


def test_the_right_file_is_separated(folder: Path) -> None:
    shutil.rmtree(folder / "stems")
    (folder / "song.wav").unlink()
    files = [recording(folder / f"{name}/song.wav", seed) for seed, name in enumerate("ab")]
    with served(folder, *files) as client:
        for name in ("song", "song (2)"):
            id = client.song(name)["id"]
            job = client("POST", "api/jobs", {"song": id, "stems": ["bass"], "format": "flac"}).json
            assert client.wait(job)["state"] == "done"
    with served(folder, *files) as client:  # which knows nothing but the files
        for name, path in (("song", files[0]), ("song (2)", files[1])):
            original = client.song(name)["original"]
            assert client("GET", f"api/files/{original['id']}").body == path.read_bytes()


def test_files_of_one_name_are_all_there(tmp_path: Path) -> None:
    for number, path in enumerate(("a/x.wav", "b/x.wav", "b/x.flac", "c/x.wav")):
        recording(tmp_path / path, number)
    found = listed(tmp_path, *(tmp_path / name for name in "abc"), tmp_path / "b/x.flac")
    assert {name: source for name, (source, _) in found.items()} == {
        "x": "a/x.wav",
        "x.flac": "b/x.flac",
        "x (2)": "b/x.wav",
        "x (3)": "c/x.wav",
    }


def test_uploads_of_one_name_are_all_there(folder: Path) -> None:
    shutil.rmtree(folder / "stems")
    sent = [recording(folder / f"{number}.wav", number).read_bytes() for number in range(3)]
    with served(folder) as client:
        for content in sent:
            assert client("POST", "api/uploads?name=my%20song.wav", content).status == 201
        songs = client.get("api/songs")["songs"]
        assert [song["name"] for song in songs] == ["my song", "my song (2)", "my song (3)"]
        ids = [client.song(song["name"])["original"]["id"] for song in songs]
        assert [client("GET", f"api/files/{id}").body for id in ids] == sent


def test_a_folder_that_is_named_twice_is_shown_once(tmp_path: Path) -> None:
    recording(tmp_path / "x.wav", 1)
    stem(tmp_path / "stems/y/vocals.flac")
    assert listed(tmp_path, tmp_path, tmp_path / "x.wav") == {"x": ("x.wav", []), "y": (None, ["y"])}


# ---------------------------------------------------------------- results in a folder


def test_each_format_in_a_folder_is_a_result(folder: Path) -> None:
    for name in ("vocals.flac", "drums.flac", "bass.flac", "vocals.mp3", "drums.mp3", "mixture.mp3"):
        stem(folder / "stems/two" / name)
    with served(folder) as client:
        first, second = client.song("two")["results"]
        assert [stem["file"] for stem in first["stems"]] == ["bass.flac", "drums.flac", "vocals.flac"]
        assert [stem["file"] for stem in second["stems"]] == ["drums.mp3", "vocals.mp3"]
        assert (first["folder"], second["folder"]) == ("two (flac)", "two (mp3)")
        assert second["id"] == f"{first['id']}-mp3"
        packed = client("GET", f"api/results/{second['id']}/zip")
        assert packed.status == 200 and packed.headers["content-disposition"].endswith("two%20%28mp3%29.zip")
        assert [one["folder"] for one in client.get("api/songs")["songs"][1]["results"]] == [
            "two (flac)",
            "two (mp3)",
        ]


def test_stems_have_different_names(folder: Path) -> None:
    for name in ("Lead Vocals.flac", "lead_vocals.flac", "drums.flac"):
        stem(folder / "stems/same" / name)
    with served(folder) as client:
        (result,) = client.song("same")["results"]
    assert [stem["name"] for stem in result["stems"]] == ["lead_vocals", "drums", "lead_vocals.flac"]


@pytest.mark.parametrize(
    ("names", "together"),
    [
        (["Airbag", "Crash", "Karma Police", "No Surprises"], False),
        (["Drums", "Airbag", "Bass", "Lucky", "Let Down"], False),
        (["No Surprises"], False),
        (["crash"], True),
        (["vocals", "rhythm section", "drums"], True),
        (["no_drums"], True),
        (["vocals", "mixture"], True),
        (["mixture"], False),
        (["vocals.lead", "vocals.backing"], True),
    ],
)
def test_a_folder_of_songs_is_no_result(tmp_path: Path, names: list[str], together: bool) -> None:
    for name in names:
        stem(tmp_path / f"stems/album/{name}.wav")
    songs = Library([], tmp_path / "stems").songs()
    assert [song.name for song in songs] == (["album"] if together else sorted(names))


def test_a_folder_is_a_result_if_stemsplit_made_one_of_its_files(tmp_path: Path) -> None:
    stem(tmp_path / "stems/x/a note.wav")
    stem(tmp_path / "stems/x/hum.flac", total="hum")
    assert listed(tmp_path) == {"x": (None, ["x"])}


# ---------------------------------------------------------------- ids


def test_an_id_names_the_present_song(tmp_path: Path) -> None:
    source = recording(tmp_path / "album/x.wav", 1)
    library = Library([tmp_path / "album"], tmp_path / "stems")
    (song,) = library.songs()
    stem(tmp_path / "stems/x/vocals.flac", source)
    assert [result.label for result in library.song(song.id).results] == ["x"]
    (later,) = library.songs()
    assert library.song(song.id) == library.song(later.id) == later
    stem(tmp_path / "stems/x/drums.flac", source)
    assert len(library.result(later.results[0].id).stems) == 2
    (tmp_path / "stems/x").rename(tmp_path / "stems/y")
    assert library.song(later.id).source == source, "the result is gone, the file is there"
    with pytest.raises(ApiError):
        library.song("none")


def test_an_id_is_kept_behind_a_link(tmp_path: Path) -> None:
    real = recording(tmp_path / "real/x.wav", 1)
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    library = Library([tmp_path / "linked"], tmp_path / "stems")
    (song,) = library.songs()
    stem(tmp_path / "stems/other name/vocals.flac")
    library.link(tmp_path / "stems/other name", library.inside(song.source or real))
    assert [one.name for one in library.songs()] == ["other name"]
    assert library.song(song.id).results


def test_a_song_that_was_separated_keeps_its_id(folder: Path) -> None:
    recording(folder / "album/fresh.wav", 1)
    with served(folder, folder / "album") as client:
        id = client.song("fresh")["id"]
        job = client("POST", "api/jobs", {"song": id, "stems": ["bass"]}).json
        assert client.wait(job)["state"] == "done"
        for _ in range(2):
            assert [len(result["stems"]) for result in client.get(f"api/songs/{id}")["results"]] == [1]
            client.get("api/songs")


# ---------------------------------------------------------------- sums


def muted(client: Client, song: str) -> list[str]:
    return [stem["name"] for stem in client.song(song)["results"][0]["stems"] if stem["derived"]]


def test_sums_are_told_by_the_tags(folder: Path) -> None:
    for song, names in (
        ("all", ("drums", "bass", "other", "vocals")),
        ("some", ("other", "vocals")),
    ):
        for name in names:
            stem(folder / f"stems/{song}/{name}.flac", total=name)
        stem(folder / f"stems/{song}/rhythm.flac", total="drums+bass")
    with served(folder) as client:
        assert muted(client, "all") == ["rhythm"] and muted(client, "some") == []
        voices = [stem["name"] for stem in client.song("all")["results"][0]["stems"] if stem["voice"]]
    assert voices == ["vocals"]


def test_a_stem_that_cannot_be_read_mutes_no_other(folder: Path) -> None:
    for name in ("no_vocals", "vocals"):
        stem(folder / f"stems/torn/{name}.wav")
    (folder / "stems/torn/drums.wav").write_bytes(b"not audio")
    with served(folder) as client:
        assert muted(client, "torn") == []

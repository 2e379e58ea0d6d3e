import json
import sys
from pathlib import Path

import pytest

from stemsplit.datasets.layouts import Layout, Location, find_layouts, find_single_stems
from stemsplit.errors import InputError

FOUR = ("drums", "bass", "other", "vocals")


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def brief(layout: Layout) -> tuple[str, dict[str, list[str]], list[str] | None]:
    stems = {stem: [where.path.name for where in places] for stem, places in layout.stems.items()}
    return layout.name, stems, layout.mixture and [where.path.name for where in layout.mixture]


def test_folders_of_stems_at_any_depth(tmp_path: Path) -> None:
    for track in ("test/B", "train/A"):
        touch(tmp_path, *(f"{track}/{stem}.wav" for stem in (*FOUR, "mixture")))
    first, second = find_layouts(tmp_path)
    stems = {stem: [f"{stem}.wav"] for stem in sorted(FOUR)}
    assert brief(first) == ("test/B", stems, ["mixture.wav"])
    assert second.name == "train/A"
    assert first.stems["bass"][0] == Location(tmp_path / "test/B/bass.wav")


def test_one_track_is_a_data_set_too(tmp_path: Path) -> None:
    touch(tmp_path / "Song", "Vocals.FLAC", "Kick drum.m4a", "notes.txt", "._Vocals.flac")
    (layout,) = find_layouts(tmp_path / "Song")
    assert brief(layout) == ("Song", {"kick_drum": ["Kick drum.m4a"], "vocals": ["Vocals.FLAC"]}, None)


def test_hidden_files_and_system_folders_are_ignored(tmp_path: Path) -> None:
    touch(tmp_path, "A/vocals.wav", "A/._vocals.wav", ".Trashes/B/vocals.wav", "__MACOSX/A/vocals.wav")
    touch(tmp_path, "$RECYCLE.BIN/C/vocals.wav", "@eaDir/A/vocals.wav")
    assert [brief(layout) for layout in find_layouts(tmp_path)] == [("A", {"vocals": ["vocals.wav"]}, None)]


def test_stem_folders_are_summed(tmp_path: Path) -> None:
    touch(tmp_path, "1/vocals/b.wav", "1/vocals/a.wav", "1/bass/c.wav", "1/mix.wav", "1/guitar/readme.txt")
    (layout,) = find_layouts(tmp_path)
    assert brief(layout) == ("1", {"bass": ["c.wav"], "vocals": ["a.wav", "b.wav"]}, ["mix.wav"])


def test_data_json_makes_any_folder_a_stem(tmp_path: Path) -> None:
    touch(tmp_path, "id/data.json", "id/tuba/x.wav", "id/vocals/y.wav")
    (layout,) = find_layouts(tmp_path)
    assert brief(layout) == ("id", {"tuba": ["x.wav"], "vocals": ["y.wav"]}, None)


def test_unknown_stem_names_in_two_tracks_are_no_stem_folders(tmp_path: Path) -> None:
    touch(tmp_path, "one/tuba.wav", "one/harp.wav", "two/tuba.wav")
    assert [layout.name for layout in find_layouts(tmp_path)] == ["one", "two"]


def test_a_stray_file_hides_no_tracks(tmp_path: Path) -> None:
    touch(tmp_path, "intro.mp3", "A/vocals.wav", "B/vocals.wav")
    assert [layout.name for layout in find_layouts(tmp_path)] == ["A", "B"]


def test_containers_have_five_streams(tmp_path: Path) -> None:
    touch(tmp_path, "test/A - B.stem.mp4")
    (layout,) = find_layouts(tmp_path)
    path = tmp_path / "test/A - B.stem.mp4"
    assert layout.name == "test/A - B"
    assert layout.mixture == (Location(path, 0),)
    assert layout.stems == {stem: (Location(path, i + 1),) for i, stem in enumerate(FOUR)}
    assert find_layouts(path)[0].stems == layout.stems


def test_json_manifest(tmp_path: Path) -> None:
    touch(tmp_path, "A/k.wav", "A/s.wav", "far/v.wav", "m.wav")
    tracks = {"A": {"Drums": ["k.wav", "s.wav"], "bass": [], "vocals": ["far/v.wav"], "mixture": ["m.wav"]}}
    (tmp_path / "stems.json").write_text(json.dumps(tracks))
    (layout,) = find_layouts(tmp_path)
    stems = {"bass": [], "drums": ["k.wav", "s.wav"], "vocals": ["v.wav"]}
    assert brief(layout) == ("A", stems, ["m.wav"])
    assert find_layouts(tmp_path / "stems.json") == [layout]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_manifests_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    touch(tmp_path, "Ä/v.wav")
    (tmp_path / "m.json").write_text('{"Ä": {"vocals": ["v.wav"]}}', encoding=encoding)
    (tmp_path / "m.csv").write_text("track,stem,path\nÄ,vocals,v.wav\n", encoding=encoding)
    for name in ("m.json", "m.csv"):
        assert [brief(layout) for layout in find_layouts(tmp_path / name)] == [
            ("Ä", {"vocals": ["v.wav"]}, None)
        ]


def test_csv_manifest(tmp_path: Path) -> None:
    touch(tmp_path, "x.wav", "y.wav", "m.wav")
    text = f"track,stem,path\nB,vocals,x.wav\nB,vocals,{tmp_path / 'y.wav'}\nB,mix,m.wav\nA,bass,x.wav\n"
    (tmp_path / "all.csv").write_text(text)
    first, second = find_layouts(tmp_path / "all.csv")
    assert brief(first) == ("A", {"bass": ["x.wav"]}, None)
    assert brief(second) == ("B", {"vocals": ["x.wav", "y.wav"]}, ["m.wav"])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("m.json", "{", "not JSON"),
        ("m.json", "[1]", "a manifest is"),
        ("m.json", '{"A": {"vocals": "x.wav"}}', "a manifest is"),
        ("m.json", '{"A": {"vocals": ["gone.wav"]}}', "A: no file gone.wav"),
        ("m.json", "{}", "no multitrack"),
        ("m.csv", "a,b\n1,2\n", "columns track, stem and path"),
        ("m.csv", "track,stem,path\nA,vocals\n", "line 2"),
        ("m.txt", "", "neither a manifest"),
    ],
)
def test_bad_manifests_say_so(tmp_path: Path, name: str, text: str, reason: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=reason):
        find_layouts(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.csv", "track,stem,path\nÄ,vocals,x.wav\n".encode("latin-1"), "not a CSV in UTF-8"),
        ("m.csv", "track,stem,path\n".encode("utf-16"), "not a CSV in UTF-8"),
        ("m.csv", b"track,stem,path\n" + b"A" * 200_000, "not a CSV in UTF-8"),
        ("m.json", b"[" * 100_000, "not JSON"),
    ],
    ids=["latin-1", "utf-16", "long", "deep"],
)
def test_manifests_that_cannot_be_parsed(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        find_layouts(tmp_path / name)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_to_folders_above_are_not_followed(tmp_path: Path) -> None:
    touch(tmp_path, "set/A/vocals.wav", "far/B/vocals.wav")
    for link, target in {"set/self": ".", "set/up": "..", "set/again": "../far"}.items():
        (tmp_path / link).symlink_to(target)
    assert [layout.name for layout in find_layouts(tmp_path / "set")] == ["A", "again/B", "up/far/B"]
    (tmp_path / "itself").symlink_to("itself")
    with pytest.raises(InputError, match="no such file"):
        find_layouts(tmp_path / "itself")


def test_no_track_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no multitrack"):
        find_layouts(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        find_layouts(tmp_path / "gone")


def test_two_files_for_one_stem(tmp_path: Path) -> None:
    touch(tmp_path, "A/vocals.wav", "A/Vocals.flac")
    with pytest.raises(InputError, match="Vocals.flac and vocals.wav are both vocals"):
        find_layouts(tmp_path)


def test_the_album(shared_data: Path) -> None:
    layouts = find_layouts(shared_data / "everything-is-free-cc0")
    assert [layout.name[0] for layout in layouts] == list("1234567")
    assert sum(len(places) for layout in layouts for places in layout.stems.values()) == 148
    assert layouts[0].stems["bass"] == ()


def test_single_stems_in_folders_of_their_names(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "Vocals/b.wav",
        "Vocals/a.flac",
        "bass/live/c.wav",
        "bass/cover.jpg",
        "lyrics/d.txt",
        "e.wav",
    )
    assert [brief(layout) for layout in find_single_stems(tmp_path)] == [
        ("Vocals/a.flac", {"vocals": ["a.flac"]}, None),
        ("Vocals/b.wav", {"vocals": ["b.wav"]}, None),
        ("bass/live/c.wav", {"bass": ["c.wav"]}, None),
    ]


def test_single_stems_in_a_table(tmp_path: Path) -> None:
    touch(tmp_path, "x/a.wav", "elsewhere/b.wav")
    table = tmp_path / "x/stems.csv"
    table.write_text(f"instrum,path\nvocals,a.wav\ndrums,{tmp_path}/elsewhere/b.wav\n")
    names = [f"{tmp_path.as_posix()}/elsewhere/b.wav", "a.wav"]
    assert [brief(layout)[:2] for layout in find_single_stems(table)] == [
        (names[0], {"drums": ["b.wav"]}),
        (names[1], {"vocals": ["a.wav"]}),
    ]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("track,stem,path\n", "the first line must name the columns instrum and path"),
        ("instrum,path\nvocals,\n", "line 2: instrum and path must be given"),
        ("instrum,path\nvocals,a.wav\nbass,no.wav\n", "line 3: no file no.wav"),
        ("instrum,path\n", "no stem found"),
    ],
)
def test_tables_of_single_stems_that_are_wrong(tmp_path: Path, text: str, rule: str) -> None:
    touch(tmp_path, "a.wav")
    (tmp_path / "stems.csv").write_text(text)
    with pytest.raises(InputError) as caught:
        find_single_stems(tmp_path / "stems.csv")
    assert caught.value.reason == rule

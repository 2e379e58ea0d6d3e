"""--project: a session for Reaper or for programs that read DAWproject."""

import io
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import soundfile

from stemsplit.formats import color_of
from tests.cli.conftest import Shell

CLASSIC = ("-m", "classic")
WORD = re.compile(r"""\"[^\"]*\"|'[^']*'|`[^`]*`|\S+""")  # Reaper's three kinds of quotes, without escapes
STEMS = ["drums", "bass", "other", "vocals"]


@dataclass(frozen=True)
class Track:
    """A track of a project as a DAW would show it."""

    name: str
    color: str
    start_s: float
    length_s: float
    file: str


def read_rpp(path: Path) -> list[Track]:
    """Return the tracks of a Reaper project: blocks open with <, close with >, and hold lines of words."""
    root: list[object] = []
    open_blocks = [root]
    for line in path.read_text().splitlines():
        text = line.strip()
        if text == ">":
            open_blocks.pop()
            continue
        words = [word.strip("\"'`") for word in WORD.findall(text.removeprefix("<"))]
        if text.startswith("<"):
            block: list[object] = [words]
            open_blocks[-1].append(block)
            open_blocks.append(block)
        else:
            open_blocks[-1].append(words)
    assert len(open_blocks) == 1
    return [_rpp_track(block) for block in root[0][1:] if block[0] == ["TRACK"]]  # type: ignore[index]


def _rpp_track(block: list[object]) -> Track:
    def value(inner: list[object], key: str) -> str:
        (found,) = [words[1] for words in inner if words[0] == key]  # type: ignore[index]
        return found

    def part(inner: list[object], key: str) -> list[object]:
        (found,) = [one for one in inner[1:] if one[0][0] == key]  # type: ignore[index]
        return found  # type: ignore[return-value]

    item = part(block, "ITEM")
    number = int(value(block, "PEAKCOL"))
    assert number >> 24 == 1
    color = f"#{number & 255:02X}{number >> 8 & 255:02X}{number >> 16 & 255:02X}"
    place = float(value(item, "POSITION")), float(value(item, "LENGTH"))
    return Track(value(block, "NAME"), color, *place, value(part(item, "SOURCE"), "FILE"))


def read_dawproject(path: Path) -> list[Track]:
    """Return the tracks of a DAWproject, with the clips that lie on them."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        assert archive.testzip() is None and archive.namelist() == ["project.xml", "metadata.xml"]
        root = ElementTree.fromstring(archive.read("project.xml"))
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert root.find("Transport") is None  # no tempo
    found = []
    for lanes in root.findall("Arrangement/Lanes[@timeUnit='seconds']/Lanes"):
        (track,) = root.findall(f"Structure/Track[@id='{lanes.get('track')}']")
        channel = track.find("Channel")
        assert channel is not None and channel.get("destination") in ids
        (clip,) = lanes.findall("Clips/Clip")
        (file,) = clip.findall("Audio/File")
        assert file.get("external") == "true"
        shown = track.get("name", ""), track.get("color", "")
        place = float(clip.get("time", "nan")), float(clip.get("duration", "nan"))
        found.append(Track(*shown, *place, file.get("path", "")))
    return found


READERS = {"rpp": read_rpp, "dawproject": read_dawproject}


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("form", ["wav", "flac", "aiff", "mp3", "ogg"])
def test_one_track_for_each_stem(shell: Shell, kind: str, form: str) -> None:
    shell.write("album/my song.wav", seconds=0.7)
    ran = shell("album", *CLASSIC, "--project", kind, "-f", form)
    assert ran.code == 0, ran.err
    folder = shell.folder / "stems/my song"
    tracks = READERS[kind](folder / f"my song.{kind}")
    assert [track.name for track in tracks] == STEMS
    assert [track.color for track in tracks] == [color_of(stem) for stem in STEMS]
    assert {track.start_s for track in tracks} == {0.0}
    for track in tracks:
        assert track.length_s == pytest.approx(soundfile.info(folder / track.file).duration, abs=1e-9)
    assert len(list(folder.iterdir())) == 5


@pytest.mark.parametrize("kind", READERS)
def test_files_in_several_folders_and_odd_names(shell: Shell, kind: str) -> None:
    shell.write('in/so\'ng "x" & <y>.wav', seconds=0.3)
    template = ("--template", "{dir}/{stem}/{name}.{ext}")
    assert shell("in", *CLASSIC, "--project", kind, *template, "-s", "bass,drums").code == 0
    (path,) = (shell.folder / "stems").glob(f"*.{kind}")
    tracks = READERS[kind](path)
    assert [track.name for track in tracks] == ["drums", "bass"]
    assert all((path.parent / track.file).is_file() for track in tracks)


def test_finished_stems_get_their_project_without_being_computed_again(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    assert shell("a.wav", *CLASSIC).code == 0
    before = {name: (shell.folder / name).stat().st_mtime_ns for name in shell.files()}
    shown = shell("a.wav", *CLASSIC, "--project", "rpp", "-n")
    assert shown.code == 0 and shell.files() == [*before]
    ran = shell("a.wav", *CLASSIC, "--project", "rpp")
    assert ran.code == 0 and "skipped" in ran.err
    assert len(read_rpp(shell.folder / "stems/a/a.rpp")) == 4
    assert before == {name: (shell.folder / name).stat().st_mtime_ns for name in before}
    (shell.folder / "stems/a/a.rpp").write_text("edited")
    assert shell("a.wav", *CLASSIC, "--project", "rpp").code == 0
    assert (shell.folder / "stems/a/a.rpp").read_text() == "edited"


def test_a_project_that_is_there_is_left_alone_also_beside_new_stems(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    project = shell.folder / "stems/a/a.rpp"
    project.parent.mkdir(parents=True)
    project.write_text("mine")
    for stems in ("drums", "drums,bass"):
        ran = shell("a.wav", *CLASSIC, "-s", stems, "--project", "rpp")
        assert ran.code == 0 and project.read_text() == "mine"
        assert "stems/a/a.rpp is there already and stays as it is; -y writes it anew" in ran.err
    assert shell("a.wav", *CLASSIC, "-s", "drums", "--project", "rpp", "-y").code == 0
    assert len(read_rpp(project)) == 1


@pytest.mark.parametrize("template", ["{dir}/{name}/{stem}.{ext}", "{name}-{stem}.{ext}"])
def test_renamed_with_its_stems(shell: Shell, template: str) -> None:
    shell.write("a.wav", seconds=0.3)
    for _ in range(2):
        arguments = ("--if-exists", "rename", "--template", template, "-s", "bass", "--project", "rpp")
        assert shell("a.wav", *CLASSIC, *arguments).code == 0
    found = [path for path in shell.files() if path.endswith(".rpp")]
    assert len(found) == 2
    for path in found:
        (track,) = read_rpp(shell.folder / path)
        assert (shell.folder / path).parent.joinpath(track.file).is_file()
        assert ("(2)" in path) == ("(2)" in path + track.file)
    assert len([path for path in shell.files() if path.startswith("stems/")]) == 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-f", "stem.m4a"), r"--project rpp: takes a file for each stem, as wav, flac, mp3, ogg or aiff"),
        (("-f", "opus"), "--project rpp: takes a file for each stem"),
        (("-o", "-", "-s", "bass"), "--project rpp: needs a folder"),
        (("--template", "same-{stem}.{ext}", "b.wav"), "would be the same file"),
    ],
)
def test_what_a_project_cannot_have(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", *CLASSIC, "--project", "rpp", *arguments)
    assert ran.code == 2 and re.search(said, ran.err)
    assert shell.files() == ["a.wav"]


def test_two_tracks_without_a_folder_of_their_own(shell: Shell) -> None:
    for name in ("a.wav", "b.wav"):
        shell.write(name, seconds=0.2)
    arguments = ("--template", "{name}-{stem}.{ext}", "-s", "bass", "--project", "dawproject")
    assert shell("a.wav", "b.wav", *CLASSIC, *arguments).code == 0
    assert [path for path in shell.files() if "dawproject" in path] == [
        "stems/a.dawproject",
        "stems/b.dawproject",
    ]

"""Plans give each output a path of its own below the output folder, whatever the inputs are called."""

import os
import sys
import unicodedata
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stemsplit.errors import SettingsError
from stemsplit.separation.inputs import Input, collect
from stemsplit.separation.plan import Layout, Plan, check_template, expand, plan_jobs, take_shard

posix = pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
DEFAULT = "{dir}/{name}/{stem}.{ext}"
ROOT = Path("out")


def plan(inputs: list[Input], outputs: tuple[str, ...] = ("a", "b"), template: str = DEFAULT) -> Plan:
    return plan_jobs(inputs, Layout(outputs, ROOT, template, "wav", "m"))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def names(root: Path, inputs: list[Input]) -> list[str]:
    return [entry.path.relative_to(root).as_posix() for entry in inputs]


def test_folders_are_searched_recursively_and_in_order(tmp_path: Path) -> None:
    touch(tmp_path, "b.mp3", "a.wav", "x/z.flac", "x/y/c.M4A", "notes.txt", ".hidden.wav", ".git/d.wav")
    found = collect([tmp_path]).inputs
    assert names(tmp_path, found) == ["a.wav", "b.mp3", "x/z.flac", "x/y/c.M4A"]
    assert [entry.folder.as_posix() for entry in found] == [".", ".", "x", "x/y"]


def test_a_named_file_is_taken_whatever_its_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "track.bin")
    assert names(tmp_path, collect([tmp_path / "track.bin"]).inputs) == ["track.bin"]


def test_a_file_given_twice_is_done_once(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav")
    assert len(collect([tmp_path, tmp_path / "a.wav", tmp_path / "." / "a.wav"]).inputs) == 1


def test_the_output_folder_is_not_separated_again(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "stems/a/vocals.wav")
    assert names(tmp_path, collect([tmp_path], output=tmp_path / "stems").inputs) == ["a.wav"]
    assert len(collect([tmp_path / "stems"], output=tmp_path / "stems").inputs) == 1


def test_include_and_exclude(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "b.mp3", "live/c.wav", "odd.xyz")
    assert names(tmp_path, collect([tmp_path], include=["*.wav"]).inputs) == ["a.wav", "live/c.wav"]
    assert names(tmp_path, collect([tmp_path], exclude=["live/*"]).inputs) == ["a.wav", "b.mp3"]
    assert names(tmp_path, collect([tmp_path], include=["*.xyz"]).inputs) == ["odd.xyz"]


def test_folders_are_excluded_too(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "live/c.wav", "live/more/d.wav")
    assert names(tmp_path, collect([tmp_path], exclude=["live"]).inputs) == ["a.wav"]


def test_left_out_files_are_counted_in_one_notice(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "cover.JPG", "x/back.jpg", "x/notes", ".DS_Store", "__MACOSX/b.jpg", "x/._a.wav")
    found = collect([tmp_path])
    assert names(tmp_path, found.inputs) == ["a.wav"]
    (notice,) = found.notices()
    assert notice.startswith("left out 3 files without an audio suffix (.jpg, no suffix)")
    assert collect([tmp_path], include=["*.wav"]).notices() == []  # a person's own choice
    assert collect([tmp_path], exclude=["*.jpg", "*.JPG", "notes"]).notices() == []


def test_many_suffixes_do_not_make_a_long_notice(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{name}.x{name}" for name in "abcdefgh"))
    assert ", …)" in collect([tmp_path]).notices()[0]


@posix
def test_broken_links_are_inputs_that_fail(tmp_path: Path) -> None:
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "gone.wav").symlink_to("nothing.wav")
    touch(tmp_path, "good.wav")
    found = collect([tmp_path]).inputs
    assert names(tmp_path, found) == ["gone.wav", "good.wav", "loop.wav"]
    assert len(plan(found, template="{parent}/{name}/{stem}.{ext}").jobs) == 3
    assert len(plan(collect([tmp_path / "loop.wav"]).inputs).jobs) == 1


@posix
def test_an_output_folder_that_is_a_link_loop_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("out")
    touch(tmp_path, "a.wav")
    assert names(tmp_path, collect([tmp_path], output=tmp_path / "out").inputs) == ["a.wav"]


@posix
def test_linked_folders_are_not_followed_and_give_a_notice(tmp_path: Path) -> None:
    touch(tmp_path, "a.wav", "x/b.wav")
    (tmp_path / "x/up").symlink_to("..", target_is_directory=True)
    found = collect([tmp_path])
    assert names(tmp_path, found.inputs) == ["a.wav", "x/b.wav"]
    assert f"1 linked folder, such as {tmp_path}/x/up" in found.notices()[0]
    assert names(tmp_path, collect([tmp_path / "x/up"]).inputs) == ["x/up/a.wav", "x/up/x/b.wav"]


def test_a_path_that_cannot_be_examined_is_an_input_that_fails() -> None:
    assert [str(entry) for entry in collect([Path("a" * 300 + ".wav")]).inputs] == ["a" * 300 + ".wav"]


def test_a_folder_that_cannot_be_listed_fails_and_takes_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a/b.wav", "locked.wav", "locked/c.wav", "gone/d.wav")
    errors = {
        "locked": PermissionError(13, "Permission denied"),
        "gone": FileNotFoundError(2, "No such file"),
    }
    scandir = os.scandir

    def refusing(path: str) -> object:
        if error := errors.get(Path(path).name):
            error.filename = path
            raise error
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = collect([tmp_path]).inputs
    failed = {entry.path.name: entry.failure.reason for entry in found if entry.failure}
    assert failed == {"locked": "no permission to read this folder", "gone": "No such file"}
    made = plan(found)
    assert made.notices == ()
    assert {str(job.files.get("a")) for job in made.jobs} == {"None", "out/a/b/a.wav", "out/locked/a.wav"}


def test_shards_are_a_partition() -> None:
    inputs = [Input(Path(f"{i}.wav")) for i in range(10)]
    shards = [list(take_shard(inputs, (i, 3))) for i in (1, 2, 3)]
    assert [len(shard) for shard in shards] == [4, 3, 3]
    assert sorted(str(e.path) for shard in shards for e in shard) == sorted(str(e.path) for e in inputs)


def test_the_default_layout() -> None:
    jobs = plan([Input(Path("x/song.mp3"), PurePosixPath("live"))]).jobs
    assert jobs[0].files == {"a": ROOT / "live/song/a.wav", "b": ROOT / "live/song/b.wav"}


@pytest.mark.parametrize("pair", [("a.wav", "a.flac"), ("A.wav", "a.flac"), ("é.wav", "e\u0301.flac")])
def test_equal_names_get_folders_of_their_own_and_a_notice(pair: tuple[str, str]) -> None:
    made = plan([Input(Path(name)) for name in pair])
    folders = {unicodedata.normalize("NFC", str(j.files["a"].parent)).casefold() for j in made.jobs}
    assert len(folders) == 2
    assert len(made.notices) == 2


def test_an_invented_name_does_not_meet_a_real_one() -> None:
    made = plan([Input(Path(n)) for n in ("a.wav", "a.flac", "a_wav.mp3")])
    assert len({job.files["a"] for job in made.jobs}) == 3


@pytest.mark.parametrize(
    "template",
    [
        "{bogus}",
        "{stem",
        "{stem!r}",
        "{stem:>9}",
        "{0}",
        "{name.upper}",
        "/abs/{stem}",
        "../{stem}",
        "a/../../{stem}",
        "",
        "{stem}/",
    ],
)
def test_templates_that_are_refused(template: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check_template(template)
    assert caught.value.code == 2


@pytest.mark.parametrize("template", ["{name}.{ext}", "{stem}.{ext}", "all.wav"])
def test_templates_that_make_outputs_meet(template: str) -> None:
    with pytest.raises(SettingsError, match="same file"):
        plan([Input(Path("a.wav")), Input(Path("b.wav"))], template=template)


def test_a_template_may_not_make_a_file_of_a_folder() -> None:
    with pytest.raises(SettingsError, match="both a file and a folder"):
        plan(
            [Input(Path("b"), PurePosixPath("a")), Input(Path("a"))], outputs=("x",), template="{dir}/{name}"
        )


def test_names_are_never_expanded_twice() -> None:
    job = plan([Input(Path("Björk – 絆 {x} [é].wav"))]).jobs[0]
    assert job.files["a"] == ROOT / "Björk – 絆 {x} [é]/a.wav"


@pytest.mark.parametrize("letter", ["é", "絆", "\U0001f3b5", os.fsdecode(b"\xff"), "\x85"])
def test_long_names_are_cut_between_letters(letter: str) -> None:
    job = plan([Input(Path(f"a{letter * 120}.wav"))]).jobs[0]
    cut = job.files["a"].parent.name
    assert cut == "a" + letter * min(120, 199 // len(os.fsencode(letter)))


anything = st.text(min_size=1, max_size=300).filter(lambda s: "/" not in s and "\0" not in s)
places = st.lists(anything.filter(lambda s: s not in (".", "..")), max_size=2)


@given(st.lists(st.tuples(places, anything), max_size=6, unique_by=lambda p: ("/".join(p[0]), p[1])))
def test_no_two_outputs_meet_and_none_leaves_the_folder(entries: list[tuple[list[str], str]]) -> None:
    inputs = [Input(Path(*folder, name), PurePosixPath(*folder)) for folder, name in entries]
    try:
        made = plan(inputs)
    except SettingsError as error:
        assert "--template" in error.reason  # folder names that differ in case only, and the like
        return
    paths = [path for job in made.jobs for path in job.files.values()]
    keys = {unicodedata.normalize("NFC", str(path)).casefold() for path in paths}
    assert len(keys) == len(paths) == 2 * len(inputs)
    for path in paths:
        assert Path(os.path.normpath(path)).is_relative_to(ROOT)
        assert all(len(os.fsencode(part)) <= 255 - len(".part.") for part in path.parts)


@given(
    template=st.lists(
        st.sampled_from(["{dir}", "{name}", "{stem}", "{ext}", "{parent}", "/", "x", ".", "..", "-"]),
        min_size=1,
    ),
    name=anything,
)
def test_expanded_templates_stay_below_the_folder(template: list[str], name: str) -> None:
    text = "".join(template)
    try:
        check_template(text)
        made = plan([Input(Path(name))], outputs=("a",), template=text)
    except SettingsError:
        return
    for path in made.jobs[0].files.values():
        assert Path(os.path.normpath(path)).is_relative_to(ROOT)
        assert path != ROOT


def test_expand_drops_empty_folders() -> None:
    assert expand(DEFAULT, {"dir": "", "name": "n", "stem": "s", "ext": "e"}) == PurePosixPath("n/s.e")

"""-f stem.m4a and -f mka: one file per track."""

import json

import pytest

from tests.cli.conftest import Shell

CLASSIC = ("-m", "classic")


@pytest.mark.parametrize("form", ["stem.m4a", "stem.mp4", "mka"])
def test_one_file_per_track_is_skipped_or_kept_apart(shell: Shell, form: str) -> None:
    shell.write("album/one.wav", seconds=0.4)
    ran = shell("album", *CLASSIC, "-f", form, "--json")
    (track,) = json.loads(ran.out)["tracks"]
    path = f"stems/one.{form}"
    assert ran.code == 0 and track["outputs"]["mixture"] == track["outputs"]["vocals"] == path
    assert shell.files() == ["album/one.wav", path]
    again = shell("album", *CLASSIC, "-f", form)
    assert again.code == 0 and "skipped" in again.err
    other = shell("album", *CLASSIC, "-f", form, "--bit-depth", "16")
    assert other.code == 1 and "bit_depth was 24 and is now 16" in other.err
    renamed = shell("album", *CLASSIC, "-f", form, "--if-exists", "rename", "-P")
    assert renamed.out.decode() == f"stems/one (2).{form}\n"
    assert shell("album", *CLASSIC, "-f", form, "-n").err.startswith("album/one.wav: done already")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--template", "{name}/{stem}.{ext}"), "a stem.m4a file holds all stems of a track"),
        (("--template", "{dir}/{name}/{stem}.{ext}"), "a stem.m4a file holds all stems of a track"),
        (("--channels", "each"), "stem.m4a holds at most stereo"),
        (("--channels", "1"), "stem.m4a holds stereo"),
        (("--karaoke",), "holds drums, bass, other, vocals; other outputs can't be chosen"),
        (("--bit-depth", "32f"), "stem.m4a holds 16 or 24"),
        (("-o", "-"), "choose -f wav: stem.m4a holds the mix, too"),
    ],
)
def test_what_such_a_file_cannot_be(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", *CLASSIC, "-f", "stem.m4a", *arguments)
    assert ran.code == 2 and said in ran.err
    assert shell.files() == ["a.wav"]


def test_a_template_without_a_stem(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    shell.write("b.wav", seconds=0.2)
    ran = shell("a.wav", "b.wav", *CLASSIC, "-f", "mka", "--template", "{model}/{name}.{ext}")
    assert ran.code == 0 and shell.files() == ["a.wav", "b.wav", "stems/classic/a.mka", "stems/classic/b.mka"]
    ran = shell("a.wav", "b.wav", *CLASSIC, "-f", "mka", "--template", "same.{ext}")
    assert ran.code == 2 and "a.wav and b.wav would be the same file" in ran.err


def test_a_failure_leaves_no_half_file(shell: Shell) -> None:
    (shell.folder / "cut.mp3").write_bytes(b"no audio")
    ran = shell("cut.mp3", *CLASSIC, "-f", "stem.m4a")
    assert ran.code == 1 and shell.files() == ["cut.mp3"]

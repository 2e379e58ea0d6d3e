"""`stemsplit blend`, run as a command."""

import pytest
import soundfile

from tests.cli.conftest import Shell


def test_two_files_become_one(shell: Shell) -> None:
    shell.write("a.wav", seconds=1.0)
    shell.write("b.wav", seconds=0.5)
    ran = shell("blend", "a.wav", "b.wav", "-o", "new/c.flac", "--blend", "max_wave")
    assert (ran.code, ran.out) == (0, b"")
    assert ran.err == "note: b.wav: 0.500 s shorter than the longest: silence there\n"
    assert soundfile.info(shell.folder / "new/c.flac").frames == 44100
    assert shell.files() == ["a.wav", "b.wav", "new/c.flac"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("a.wav", "b.wav"), 2, "-o is missing"),
        (("a.wav", "-o", "c.wav"), 2, "a blend needs two files or more"),
        (("a.wav", "b.wav", "-o", "c.txt"), 2, "-o c.txt: no format has this suffix"),
        (
            ("a.wav", "b.wav", "-o", "c.wav", "--weights", "1,x"),
            2,
            "must be numbers with commas between them",
        ),
        (("a.wav", "b.wav", "-o", "c.wav", "--weights", "1"), 2, "--weights 1: 2 files need 2 weights"),
        (("a.wav", "b.wav", "-o", "c.wav", "--blend", "avg"), 2, "no blend named 'avg'"),
        (
            ("a.wav", "b.wav", "-o", "c.wav", "--blend", "ensemble_wav"),
            2,
            "--blend ensemble_wav: needs the whole track in memory",
        ),
        (("a.wav", "gone.wav", "-o", "c.wav"), 1, "gone.wav: no such file"),
        (("a.wav", "b.wav", "-o", "a.wav", "-y"), 1, "a.wav: is an input"),
    ],
)
def test_wrong_use_is_one_line(shell: Shell, arguments: tuple[str, ...], code: int, said: str) -> None:
    shell.write("a.wav", seconds=0.2)
    shell.write("b.wav", seconds=0.2)
    ran = shell("blend", *arguments)
    assert ran.code == code
    first, *hint = ran.err.splitlines()
    assert said in first and len(hint) < 2
    assert shell.files() == ["a.wav", "b.wav"]

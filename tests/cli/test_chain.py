"""--then separates stems further; --sequential and --tta."""

import json

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import Shell

CHAIN = ("-m", "tiny", "--then", "vocals=classic")


def read(shell: Shell, path: str) -> np.ndarray:
    return soundfile.read(shell.folder / path)[0]


def test_a_chain_is_written_by_path_and_skipped_the_next_time(shell: Shell) -> None:
    shell.write("a.wav", seconds=1.0)
    ran = shell("a.wav", *CHAIN, "--bit-depth", "32f", "--json")
    assert ran.code == 0, ran.err
    report = json.loads(ran.out)
    assert report["model"]["name"] == "tiny+classic"
    assert list(report["tracks"][0]["outputs"]) == [
        *("drums", "bass", "other"),
        *("vocals.drums", "vocals.bass", "vocals.other", "vocals.vocals"),
    ]
    assert shell.files()[1:] == sorted(f"stems/a/{name}.wav" for name in report["tracks"][0]["outputs"])
    # the same by hand: the vocals of one model through the other
    shell("a.wav", "-m", "tiny", "-s", "vocals", "-o", "one", "--bit-depth", "32f")
    shell("one/a/vocals.wav", "-m", "classic", "-s", "bass", "-o", "two", "--bit-depth", "32f")
    assert np.abs(read(shell, "two/vocals/bass.wav") - read(shell, "stems/a/vocals.bass.wav")).max() < 1e-6
    again = shell("a.wav", *CHAIN, "--bit-depth", "32f")
    assert again.code == 0 and "0 done, 1 skipped" in again.err
    for change in (("--then", "bass=classic"), ("-m", "tiny"), ("--tta",)):
        assert shell("a.wav", *CHAIN, *change, "--bit-depth", "32f").code == 1, change


def test_parts_are_selected_by_the_stem_and_by_their_path(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    shell("a.wav", *CHAIN, "-s", "Vocals.Bass", "-o", "part", "--rest")
    assert shell.files()[1:] == ["part/a/no_vocals.bass.wav", "part/a/vocals.bass.wav"]
    planned = json.loads(shell("a.wav", *CHAIN, "-s", "vocals", "-n", "--json").out)["jobs"]
    assert list(planned[0]["outputs"]) == ["vocals.drums", "vocals.bass", "vocals.other", "vocals.vocals"]
    ran = shell("a.wav", *CHAIN, "--karaoke", "-o", "k")
    assert ran.code == 0 and shell.files()[-1] == "part/a/vocals.bass.wav"
    told = shell("a.wav", *CHAIN, "-m", "classic", "-s", "vocals.bass", "-n").err.splitlines()
    assert told[:2] == [
        "note: vocals: from tiny and classic, blended by avg_wave",
        "note: vocals.bass: from classic",
    ]
    assert "note: drums, bass, other: from tiny\n" in ran.err


def test_one_model_at_a_time_gives_the_same_files(shell: Shell) -> None:
    shell.write("a.wav", seconds=1.0)
    for how in ("--sequential", "--lockstep"):
        ran = shell("a.wav", *CHAIN, "-m", "classic", "--blend", "max_fft", how, "-o", how[2:])
        assert ran.code == 0, ran.err
    names = [name for name in shell.files() if name.startswith("sequential/")]
    assert len(names) == 7
    for name in names:
        other = (shell.folder / name.replace("sequential", "lockstep")).read_bytes()
        assert (shell.folder / name).read_bytes() == other, name


def test_the_spool_counts_in_the_check_of_free_disk(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.write("a.wav", seconds=1.0)
    usage = type("usage", (), {"total": 10**9, "free": 3_000_000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    assert shell("a.wav", *CHAIN, "-s", "bass", "-o", "one").code == 0
    ran = shell("a.wav", *CHAIN, "--sequential")
    assert ran.code == 5 and "are needed and 3.0 MB are free" in ran.err
    assert "stems" not in str(shell.files())


def test_an_unavailable_model_is_reported_before_the_work(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.5)
    for how in ("--sequential", "--lockstep"):
        ran = shell("a.wav", *CHAIN, "--then", "bass=htdemucs", how, "--offline")
        assert ran.code == 4 and "not downloaded yet, and offline" in ran.err
        assert shell.files() == ["a.wav"]


def test_into_a_pipe(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.5)
    ran = shell("a.wav", *CHAIN, "-s", "vocals.bass", "-o", "-", "--sequential")
    assert ran.code == 0 and len(ran.out) == 58 + 22050 * 2 * 4


def test_augmentation_changes_the_stems(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.5)
    shell("a.wav", "-m", "tiny", "-s", "bass", "-o", "plain", "--bit-depth", "32f")
    ran = shell("a.wav", "-m", "tiny", "-s", "bass", "--tta", "-o", "three", "--bit-depth", "32f")
    assert ran.code == 0
    plain, three = read(shell, "plain/a/bass.wav"), read(shell, "three/a/bass.wav")
    assert 0 < np.abs(plain - three).max() < 0.3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--then", "vocals"), "'vocals' is not a stem and a model; write STEM=NAME"),
        (("--then", "piano=classic"), "no stem named 'piano'"),
        (("--then", "vocals=clasic"), "no model named 'clasic'"),
        (
            ("--then", "vocals=classic", "--then", "vocals=classic"),
            "two stems would be called vocals.drums",
        ),
        ((*CHAIN[2:], "-s", "vocals.lead"), "no stem named 'vocals.lead'"),
    ],
)
def test_wrong_use_is_one_line_before_the_work(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", "-m", "tiny", *arguments)
    assert ran.code == 2
    first, *hint = ran.err.splitlines()
    assert said in first and len(hint) < 2
    assert shell.files() == ["a.wav"]


def test_the_environment_has_one_step_per_line(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    steps = {"STEMSPLIT_MODEL": "tiny", "STEMSPLIT_THEN": "vocals=classic\nbass=classic"}
    ran = shell("a.wav", "-n", "-s", "bass", env=steps)
    assert ran.code == 0 and "bass.drums.wav" in ran.err

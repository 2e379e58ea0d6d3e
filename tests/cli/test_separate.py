"""`stemsplit separate` from outside: files, folders, formats, existing outputs, failures."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

CLASSIC = ("-m", "classic")
STEMS = ["bass", "drums", "other", "vocals"]
Shell = Any


def stems_of(*names: str, ext: str = "wav", root: str = "stems") -> list[str]:
    return sorted(f"{root}/{name}/{stem}.{ext}" for name in names for stem in STEMS)


def test_a_song_becomes_stems(shell: Shell) -> None:
    shell.write("song.wav", seconds=1.5)
    ran = shell.process("song.wav", *CLASSIC)
    assert ran.code == 0
    assert ran.out == b""
    assert shell.files() == ["song.wav", *stems_of("song")]
    assert ran.err.splitlines()[-1].startswith("1 done, 0 skipped, 0 failed in ")
    mix, rate = shell.read("song.wav")
    parts = [shell.read(name) for name in stems_of("song")]
    assert {(audio.shape, r) for audio, r in parts} == {(mix.shape, rate)}
    error = sum(audio for audio, _ in parts) - mix
    assert 10 * np.log10(np.square(mix).sum() / np.square(error).sum()) > 60


def test_mono_48_khz_stays_mono_48_khz(shell: Shell) -> None:
    shell.write("song.flac", channels=1, rate=48000, seconds=0.7)
    assert shell("song.flac", *CLASSIC, "-s", "vocals").code == 0
    audio, rate = shell.read("stems/song/vocals.wav")
    assert (audio.shape, rate) == ((1, 33600), 48000)


def test_six_channels_are_mixed_down_with_a_notice(shell: Shell) -> None:
    shell.write("song.wav", channels=6, seconds=0.5)
    ran = shell("song.wav", *CLASSIC, "-s", "vocals")
    assert ran.code == 0
    assert "BS.775" in ran.err
    assert shell.read("stems/song/vocals.wav")[0].shape == (2, 22050)


def test_missing_files(shell: Shell) -> None:
    shell.write("good.wav", seconds=0.3)
    ran = shell("missing.wav", "-m", "htdemucs")  # nothing to do, so no model is asked for
    assert ran.code == 1
    assert "stemsplit: error: missing.wav: no such file" in ran.err
    ran = shell("good.wav", "missing.wav", *CLASSIC)
    assert ran.code == 3
    assert "1 done, 0 skipped, 1 failed" in ran.err
    assert set(stems_of("good")) < set(shell.files())


def test_a_corrupt_file_does_not_stop_the_others(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    shell.write("c.wav", seconds=0.3)
    (shell.folder / "b.wav").write_bytes(b"RIFF not really a wave file" * 50)
    ran = shell("a.wav", "b.wav", "c.wav", *CLASSIC)
    assert ran.code == 3
    assert ran.err.count("error:") == 1
    assert set(shell.files()) == {"a.wav", "b.wav", "c.wav", *stems_of("a", "c")}


def test_fail_fast_stops(shell: Shell) -> None:
    (shell.folder / "a.wav").write_bytes(b"no audio")
    shell.write("b.wav", seconds=0.3)
    ran = shell("a.wav", "b.wav", *CLASSIC, "--fail-fast")
    assert ran.code == 1
    assert not (shell.folder / "stems").exists()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"hello, this is a text and no audio at all\n" * 20, "not an audio file"),
    ],
)
def test_files_without_audio(shell: Shell, content: bytes, what: str) -> None:
    (shell.folder / "x.wav").write_bytes(content)
    ran = shell("x.wav", *CLASSIC)
    assert ran.code == 1
    assert what in ran.err
    assert shell.files() == ["x.wav"]


def test_silence_gives_silent_stems(shell: Shell) -> None:
    shell.write("song.wav", gain=0.0, seconds=0.5)
    assert shell("song.wav", *CLASSIC).code == 0
    assert not any(shell.read(name)[0].any() for name in stems_of("song"))


def test_nan_samples(shell: Shell) -> None:
    audio = np.zeros((2000, 2), np.float32)
    audio[1000] = np.nan
    soundfile.write(shell.folder / "x.wav", audio, 44100, subtype="FLOAT")
    ran = shell("x.wav", *CLASSIC)
    assert ran.code == 1
    assert "NaN" in ran.err
    assert shell.files() == ["x.wav"]


def test_equal_names_get_folders_of_their_own(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    shell.write("a.flac", seconds=0.3)
    ran = shell("a.wav", "a.flac", *CLASSIC)
    assert ran.code == 0
    assert "same name" in ran.err
    assert set(stems_of("a_wav", "a_flac")) < set(shell.files())


def test_a_folder_keeps_its_tree(shell: Shell) -> None:
    shell.write("album/one.wav", seconds=0.3)
    shell.write("album/live/two.flac", subtype="PCM_16", seconds=0.3)
    (shell.folder / "album/cover.jpg").write_bytes(b"x")
    assert shell("album", *CLASSIC, "-o", "out").code == 0
    assert set(stems_of("one", "live/two", root="out")) < set(shell.files())


def test_a_folder_without_audio(shell: Shell) -> None:
    (shell.folder / "empty").mkdir()
    ran = shell("empty", *CLASSIC)
    assert ran.code == 2
    assert "no audio file" in ran.err


@pytest.mark.parametrize(
    "name", ["Björk – 絆 {x} [é].wav", "two words.wav", "ä" * 100 + ".wav", "-dash.wav", "...wav"]
)
def test_awkward_names(shell: Shell, name: str) -> None:
    shell.write(name, seconds=0.2)
    argument = f"./{name}" if name.startswith("-") else name
    assert shell(argument, *CLASSIC, "-s", "bass").code == 0
    stem = Path(name).stem
    assert f"stems/{stem if stem.strip('.') else '_'}/bass.wav" in shell.files()


def test_the_second_run_skips(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.3)
    shell("song.wav", *CLASSIC)
    before = {name: (shell.folder / name).stat().st_mtime_ns for name in stems_of("song")}
    ran = shell("song.wav", *CLASSIC)
    assert ran.code == 0
    assert "0 done, 1 skipped, 0 failed" in ran.err
    assert {name: (shell.folder / name).stat().st_mtime_ns for name in before} == before


def test_other_settings_are_told_apart(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.3)
    shell("song.wav", *CLASSIC)
    ran = shell("song.wav", *CLASSIC, "--overlap", "0.5")
    assert ran.code == 1
    assert "overlap" in ran.err
    assert "-y" in ran.err
    assert shell("song.wav", *CLASSIC, "--overlap", "0.5", "-y").code == 0
    assert shell("song.wav", *CLASSIC, "--overlap", "0.5").code == 0


def test_somebody_elses_file_is_not_overwritten(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.3)
    (shell.folder / "stems/song").mkdir(parents=True)
    (shell.folder / "stems/song/bass.wav").write_text("mine")
    ran = shell("song.wav", *CLASSIC)
    assert ran.code == 1
    assert "not made by stemsplit" in ran.err
    assert (shell.folder / "stems/song/bass.wav").read_text() == "mine"
    assert shell("song.wav", *CLASSIC, "--if-exists", "rename").code == 0
    assert set(stems_of("song (2)")) < set(shell.files())
    assert shell("song.wav", *CLASSIC, "--if-exists", "error").code == 1


def test_one_stem_missing_is_made_again(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.3)
    shell("song.wav", *CLASSIC)
    (shell.folder / "stems/song/drums.wav").unlink()
    assert "1 done" in shell("song.wav", *CLASSIC).err
    assert shell.files() == ["song.wav", *stems_of("song")]


def test_complement_and_stem_sum_to_the_mix(shell: Shell) -> None:
    shell.write("song.wav", subtype="FLOAT", gain=8.0, seconds=0.5)  # peaks far above full scale
    ran = shell("song.wav", *CLASSIC, "-s", "vocals", "--rest", "--json")
    track = json.loads(ran.out)["tracks"][0]
    assert track["gain_db"] < -3
    gain = 10 ** (track["gain_db"] / 20)
    mix = shell.read("song.wav")[0]
    total = shell.read("stems/song/vocals.wav")[0] + shell.read("stems/song/no_vocals.wav")[0]
    assert np.abs(total - gain * mix).max() < 2**-23 + 4e-7  # one step of 24 bits, and float32's rounding


def test_float_output_keeps_hot_peaks(shell: Shell) -> None:
    shell.write("song.wav", subtype="FLOAT", gain=8.0, seconds=0.5)
    shell("song.wav", *CLASSIC, "-s", "vocals", "--rest", "--bit-depth", "32f")
    total = shell.read("stems/song/vocals.wav")[0] + shell.read("stems/song/no_vocals.wav")[0]
    mix = shell.read("song.wav")[0]
    assert np.abs(mix).max() > 2
    assert np.abs(total - mix).max() < 1e-6


@pytest.mark.parametrize("fmt", ["wav", "flac", "mp3", "ogg", "opus", "m4a", "alac", "aiff"])
def test_every_format_has_the_length_of_the_input(shell: Shell, fmt: str) -> None:
    rate = 48000 if fmt == "opus" else 44100
    shell.write("song.wav", rate=rate, seconds=0.7)
    assert shell("song.wav", *CLASSIC, "-s", "bass", "-f", fmt, env={"PATH": ""}).code == 0
    from stemsplit.audio.reader import read_audio

    ext = "m4a" if fmt == "alac" else fmt
    audio, found = read_audio(shell.folder / f"stems/song/bass.{ext}")
    assert (audio.shape, found) == ((2, round(0.7 * rate)), rate)


def test_a_format_gets_a_rate_that_it_supports(shell: Shell) -> None:
    shell.write("song.wav", rate=44100, seconds=0.5)
    assert shell("song.wav", *CLASSIC, "-s", "bass", "-f", "opus").code == 0
    from stemsplit.audio.reader import read_audio

    audio, rate = read_audio(shell.folder / "stems/song/bass.opus")
    assert (audio.shape, rate) == ((2, 24000), 48000)


def test_karaoke_and_mixes(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.4)
    assert shell("song.wav", *CLASSIC, "--karaoke").code == 0
    assert shell.files() == ["song.wav", "stems/song/instrumental.wav"]
    assert shell("song.wav", *CLASSIC, "-s", "bass", "--mix", "band=drums+bass", "-o", "b").code == 0
    assert shell.files()[:2] == ["b/song/band.wav", "b/song/bass.wav"]


def test_a_stretch_is_exact_to_the_sample(shell: Shell) -> None:
    audio = shell.tones(seconds=2.0)
    soundfile.write(shell.folder / "song.wav", audio.T, 44100, subtype="FLOAT")
    options = ("-s", "vocals", "--rest", "--bit-depth", "32f")
    assert shell("song.wav", *CLASSIC, *options, "--start", "0:00.5", "--duration", "1").code == 0
    total = shell.read("stems/song/vocals.wav")[0] + shell.read("stems/song/no_vocals.wav")[0]
    assert total.shape == (2, 44100)
    assert np.abs(total - audio[:, 22050:66150]).max() < 1e-6


def test_a_template(shell: Shell) -> None:
    shell.write("in/song.wav", seconds=0.3)
    template = "{parent}-{name}-{model}-{stem}.{ext}"
    assert shell("in/song.wav", *CLASSIC, "-s", "bass", "--template", template).code == 0
    assert "stems/in-song-classic-bass.wav" in shell.files()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--template", "{bogus}"), "{stem}"),
        (("--device", "cuda:9"), "--device cpu"),
        (("--device", "cpu", "--compile"), "not on a CPU"),
        (("-m", "htdemuks"), "htdemucs"),
        (("-s", "vocal"), "vocals"),
        (("-f", "wave"), ""),
        (("--overlap", "1"), ""),
        (("--mix", "x"), ""),
        (("--start", "abc"), ""),
        (("--shard", "3/2"), ""),
        (("--nonsense",), "--help"),
        (("--karaoke", "--rest"), ""),
        (("-o", "-"), "-s"),
        (("-o", "-", "--json"), ""),
    ],
)
def test_wrong_usage(shell: Shell, arguments: tuple[str, ...], hint: str) -> None:
    shell.write("song.wav", seconds=0.2)
    model = () if "-m" in arguments else CLASSIC
    ran = shell("song.wav", *model, *arguments)
    assert ran.code == 2
    assert ran.out == b""
    lines = ran.err.splitlines()
    assert lines[0].startswith("stemsplit: error: ")
    assert len(lines) <= 2
    assert hint in ran.err
    assert shell.files() == ["song.wav"]


def test_an_output_folder_that_is_a_file(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.2)
    (shell.folder / "out").write_text("")
    ran = shell("song.wav", *CLASSIC, "-o", "out")
    assert ran.code == 1
    assert "not a folder" in ran.err


def test_the_default_model_names_its_url_when_offline(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.2)
    ran = shell("song.wav", "--offline")
    assert ran.code == 4
    assert "https://huggingface.co/adefossez/HTDemucs" in ran.err
    assert "d9fa14133cfcc034" in ran.err
    assert "-m tiny" in ran.err
    assert not (shell.folder / "stems").exists()


def test_the_json_report(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    ran = shell("a.wav", "b.wav", *CLASSIC, "--json", "--report", "report.json")
    report = json.loads(ran.out)
    assert report == json.loads((shell.folder / "report.json").read_text())
    assert [t["status"] for t in report["tracks"]] == ["done", "failed"]
    assert report["tracks"][1]["error"]["code"] == 1
    assert report["summary"]["failed"] == 1


def test_print_paths(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    ran = shell("a.wav", *CLASSIC, "--print0")
    paths = ran.out.decode().split("\0")
    assert sorted(filter(None, paths)) == stems_of("a")
    assert shell("a.wav", *CLASSIC, "-P").out.decode().count("\n") == 4


def test_the_plan(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    ran = shell("a.wav", *CLASSIC, "-n", "--json")
    assert json.loads(ran.out)["jobs"][0]["outputs"]["bass"] == "stems/a/bass.wav"
    assert shell.files() == ["a.wav"]


def test_progress_as_json(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    ran = shell("a.wav", *CLASSIC, "--progress", "json")
    events = [json.loads(line) for line in ran.err.splitlines()[:-1]]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "start"
    assert {"track_start", "progress", "track_done"} <= set(kinds)
    assert kinds[-1] == "end"
    done = [event["done_s"] for event in events if event["event"] == "progress"]
    assert done[0] == 0 and done == sorted(done) and done[-1] == pytest.approx(0.3)


def test_nothing_but_text_off_a_terminal(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    ran = shell("a.wav", "b.wav", *CLASSIC)
    assert "\x1b" not in ran.err
    assert "\r" not in ran.err


def test_lists_of_inputs(shell: Shell) -> None:
    shell.write("a b.wav", seconds=0.2)
    shell.write("c.wav", seconds=0.2)
    assert shell(*CLASSIC, "--from-file", "-", "-0", "-s", "bass", input=b"a b.wav\0c.wav\0").code == 0
    assert {"stems/a b/bass.wav", "stems/c/bass.wav"} < set(shell.files())


def test_comments_in_lists_of_inputs(shell: Shell) -> None:
    shell.write("#1.wav", seconds=0.2)
    shell.write("b.wav", seconds=0.2)
    lines = "#EXTM3U\n# the best\n#1.wav\n#EXTINF:123,b\nb.wav\n"
    listed = ("--from-file", "-", *CLASSIC, "-s", "bass")
    ran = shell(*listed, input=b"\xef\xbb\xbf" + lines.encode())
    assert ran.code == 0 and "2 done" in ran.err
    assert {"stems/#1/bass.wav", "stems/b/bass.wav"} < set(shell.files())
    ran = shell(*listed, "-0", input=b"#2.wav\0b.wav\0")
    assert ran.code == 3 and "#2.wav: " in ran.err
    ran = shell(*listed, input=b"# nothing\n")
    assert ran.code == 2


def test_shards_of_a_batch(shell: Shell) -> None:
    for name in "abc":
        shell.write(f"in/{name}.wav", seconds=0.2)
    assert shell("in", *CLASSIC, "--shard", "2/2", "-s", "bass").code == 0
    assert [n for n in shell.files() if n.startswith("stems")] == ["stems/b/bass.wav"]


def test_no_arguments_show_the_help(shell: Shell) -> None:
    ran = shell()
    assert ran.code == 2
    assert "Usage: stemsplit" in ran.err


def test_help_is_quick_and_imports_nothing_heavy(shell: Shell) -> None:
    script = (
        "import sys\nfrom stemsplit.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'numpy', 'soundfile', 'av', 'rich'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def wait_for(condition: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
def test_signals_remove_the_parts(shell: Shell, name: str, code: int) -> None:
    shell.write("song.wav", seconds=60)
    with shell.start("song.wav", *CLASSIC) as running:
        wait_for(lambda: any(name.endswith(".part") for name in shell.files()))
        running.send_signal(getattr(signal, name))
        err = running.stderr.read().decode()
    assert running.returncode == code, err
    assert "Traceback" not in err
    assert shell.files() == ["song.wav"]


@pytest.mark.slow
def test_kill_leaves_no_final_name_and_the_next_run_completes(shell: Shell) -> None:
    shell.write("song.wav", seconds=20)
    with shell.start("song.wav", *CLASSIC) as running:
        wait_for(lambda: any(name.endswith(".part") for name in shell.files()))
        running.kill()
    assert [name for name in shell.files() if not name.endswith(".part")] == ["song.wav"]
    assert shell("song.wav", *CLASSIC).code == 0
    assert shell.files() == ["song.wav", *stems_of("song")]


def test_the_same_bytes_again(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.5)
    for folder in ("one", "two"):
        shell("song.wav", *CLASSIC, "-o", folder, "--shifts", "2")
    one, two = ((shell.folder / f"{f}/song/vocals.wav").read_bytes() for f in ("one", "two"))
    assert one == two


def test_a_folder_without_permission(shell: Shell) -> None:
    shell.write("song.wav", seconds=0.2)
    (shell.folder / "locked").mkdir(mode=0o500)
    if os.access(shell.folder / "locked", os.W_OK):
        pytest.skip("this user may write anywhere")
    ran = shell("song.wav", *CLASSIC, "-o", "locked")
    assert ran.code == 1
    assert "permission" in ran.err

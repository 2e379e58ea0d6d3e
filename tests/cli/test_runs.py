"""Whole runs: the plan, streams beside files, existing outputs, checks before the work."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

import stemsplit
from stemsplit.audio.content import content_of
from stemsplit.separation.runner import Runner

Shell = Any
MODEL = Path(stemsplit.__file__).parent / "hub/bundled/tiny.safetensors"
BASS = ("-m", "classic", "-s", "bass")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("",), "an INPUT is empty"),
        (("a.wav", "-s", ""), "no name is given"),
        (("a.wav", "--report", "no/such/folder.json"), "--report no/such/folder.json: no such folder"),
        (("a.wav", "--report", "."), "--report .: is a folder"),
        (("--from-file", "a.wav"), "--from-file a.wav: is no list of lines"),
        (("a.wav", "--duration", "0"), "--duration 0: must be positive"),
        (("a.wav", "-o", ""), "--output: is empty"),
        (("a.wav", "-m", ""), "--model: is empty"),
        (("a.wav", "--segment", "inf"), "--segment inf: must be at most 3600"),
        (("a.wav", "--threads", "99999999999"), "--threads 99999999999: must be at most 4096"),
        (("a.wav", "--report", "./a.wav"), "--report ./a.wav: is the name of an audio file"),
        (("a.wav", "--report", "-", "-o", "-"), "-o - and --report - write to stdout"),
        (("a.wav", "--report", "-", "-P"), "--report - and --print-paths write to stdout"),
        (("a.wav", "-f", "mp3", "--sample-rate", "12345"), "--format mp3: can't hold 12345 Hz"),
        (("a.wav", "--karaoke", "--rest"), "--karaoke and --rest exclude each other"),
        (("a.wav", "-j", "0"), "not a whole number of at least 1"),
        (("a.wav", "--audio-stream", "x"), "not a whole number of at least 0"),
        (("completion",), "Choose from: bash, zsh, fish"),
        (("models", "info", "nothing like it"), "stemsplit models list shows all"),
    ],
)
def test_wrong_usage_is_one_line_before_any_work(shell: Shell, arguments: tuple[str, ...], what: str) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell(*arguments, env={"STEMSPLIT_MODEL": "classic"})
    assert ran.code == 2
    assert what in ran.err
    first, *hints = ran.err.splitlines()
    assert first.startswith("stemsplit: error: ")
    assert all(line.startswith("  hint: ") for line in hints)
    assert shell.files() == ["a.wav"]


def test_another_song_of_the_same_name_is_not_taken_for_done(shell: Shell) -> None:
    for seed, folder in enumerate(("one", "two")):
        (shell.folder / folder).mkdir()
        noise = 0.1 * np.random.default_rng(seed).standard_normal((8000, 2))
        soundfile.write(shell.folder / folder / "01.wav", noise, 8000)
    assert shell("one/01.wav", *BASS).code == 0
    before = (shell.folder / "stems/01/bass.wav").read_bytes()
    ran = shell("two/01.wav", *BASS)
    assert ran.code == 1 and "exists, and it was made from another recording" in ran.err
    assert "--if-exists rename keeps both" in ran.err
    assert (shell.folder / "stems/01/bass.wav").read_bytes() == before
    assert "1 skipped" in shell("one/01.wav", *BASS).err
    songs = [(shell.folder / f"{folder}/01.wav").read_bytes() for folder in ("one", "two")]
    assert shell("-", *BASS, input=songs[0]).code == 0
    assert "1 skipped" in shell("-", *BASS, input=songs[0]).err
    assert shell("-", *BASS, input=songs[1]).code == 1
    assert shell("two/01.wav", *BASS, "-y").code == 0 and "1 skipped" in shell("two/01.wav", *BASS).err


def test_new_tags_and_another_container_are_the_same_recording(tmp_path: Path) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((30_000, 2))
    soundfile.write(tmp_path / "a.mp3", noise, 44100)
    first = content_of(tmp_path / "a.mp3")
    for name, tag in (("b.mp3", {"title": "new", "comment": "x" * 5000}), ("b.mka", {})):
        with av.open(tmp_path / "a.mp3") as given, av.open(tmp_path / name, "w") as made:
            made.metadata.update(tag)
            stream = made.add_stream_from_template(given.streams.audio[0])
            for packet in given.demux(audio=0):
                if packet.dts is not None:
                    packet.stream = stream
                    made.mux(packet)
        assert content_of(tmp_path / name) == first
    soundfile.write(tmp_path / "c.mp3", noise[::-1], 44100)
    assert content_of(tmp_path / "c.mp3") not in (first, None)
    (tmp_path / "d.txt").write_text("no audio")
    assert content_of(tmp_path / "d.txt") is None


def test_stems_beside_the_songs_are_no_new_songs(shell: Shell) -> None:
    shell.write("songs/a.wav", seconds=0.3)
    shell.write("songs/b/vocals.wav", seconds=0.3)  # not made by this program
    command = ("songs", "-m", "classic", "-o", "songs")
    assert "2 done" in shell(*command).err
    for _ in range(2):
        ran = shell(*command)
        assert ran.code == 0 and "0 done, 2 skipped" in ran.err
        assert (
            "left out 8 files that an earlier run made of these inputs, such as songs/a/bass.wav" in ran.err
        )
    assert shell("songs/a/bass.wav", *BASS, "-o", "songs").code == 0  # a file that is given is separated


def test_a_template_does_not_name_another_format(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    for template, form in (("{name}-{stem}.mp3", "wav"), ("{stem}.WAV", "flac")):
        ran = shell("a.wav", *BASS, "--template", template, "-f", form)
        suffix = template.rpartition(".")[2]
        assert ran.code == 2 and f"ends in .{suffix}, but the files are {form}" in ran.err
    assert shell("a.wav", *BASS, "--template", "{name}-{stem}.mp3", "-f", "mp3").code == 0
    assert shell("a.wav", *BASS, "--template", "{name}.v2").code == 0


def test_an_empty_stream_is_a_failed_track_of_the_batch(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", "-", *BASS, "--json")
    assert ran.code == 3
    done, failed = json.loads(ran.out)["tracks"]
    assert (done["input"], done["status"]) == ("a.wav", "done")
    assert (failed["input"], failed["error"]["message"]) == ("stdin", "is empty (0 bytes)")
    assert "Traceback" not in ran.err
    assert shell("-", *BASS, "-o", "-").code == 1


def test_tracks_come_in_the_order_of_the_command(shell: Shell) -> None:
    data = shell.write("x/a.wav", seconds=0.2).read_bytes()
    shell.write("b.wav", seconds=0.2)
    ran = shell("b.wav", "-", "x", *BASS, "--json", input=data)
    assert [track["input"] for track in json.loads(ran.out)["tracks"]] == ["b.wav", "stdin", "x/a.wav"]


def test_another_stem_under_the_same_name_is_not_taken_for_it(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    template = ("-m", "classic", "--template", "{name}.{ext}")
    assert shell("a.wav", *template, "-s", "bass").code == 0
    assert "skipped" in shell("a.wav", *template, "-s", "bass").err
    ran = shell("a.wav", *template, "-s", "drums")
    assert ran.code == 1
    assert "stems/a.wav: exists, and content was bass and is now drums" in ran.err


def test_another_sum_under_the_same_name_is_not_taken_for_it(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    assert shell("a.wav", *BASS, "--mix", "band=bass+drums").code == 0
    assert "bass+drums and is now bass+other" in shell("a.wav", *BASS, "--mix", "band=bass+other").err


def test_the_plan_shows_finished_and_failing_inputs(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    shell.write("b.wav", seconds=0.2)
    shell("a.wav", *BASS)
    before = shell.files()
    ran = shell("a.wav", "b.wav", "none.wav", *BASS, "-n")
    assert ran.code == 3  # as the run itself
    assert ran.err.splitlines() == [
        "a.wav: done already",
        "b.wav -> stems/b/bass.wav",
        "stemsplit: error: none.wav: no such file",
        "1 to do with classic; nothing was done (--dry-run)",
    ]
    planned = json.loads(shell("a.wav", "b.wav", "none.wav", *BASS, "-n", "--json").out)["jobs"]
    assert [job["status"] for job in planned] == ["skipped", "ready", "failed"]
    assert shell.files() == before


def test_the_plan_shows_the_names_of_renamed_outputs(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    shell("a.wav", *BASS)
    assert "stems/a (2)/bass.wav" in shell("a.wav", *BASS, "-n", "--if-exists", "rename").err


def test_the_name_of_a_model_after_n_is_explained(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("-n", "htdemucs", "a.wav")
    assert ran.code == 2
    assert ran.err == "stemsplit: error: -n htdemucs: -n is --dry-run\n  hint: did you mean -m htdemucs?\n"
    shell.write("htdemucs", seconds=0.2)
    assert shell("-n", "htdemucs", "-m", "classic").code == 0
    assert shell("-n", "missing.wav", "-m", "classic").code == 1


def test_the_time_of_a_track_is_its_own(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wall time of a track excludes its waiting for others."""
    run = Runner.run

    def slow(*given: Any, **named: Any) -> Iterator[Any]:
        time.sleep(0.3)  # computing takes longer than measuring and encoding, which overlap with it
        yield from run(*given, **named)

    monkeypatch.setattr(Runner, "run", slow)
    for number in range(5):
        shell.write(f"in/{number}.wav", seconds=0.2)
    report = json.loads(shell("in", *BASS, "--json").out)
    assert report["summary"]["wall_s"] > 5 * 0.3
    assert sum(track["wall_s"] for track in report["tracks"]) < 1.5 * report["summary"]["wall_s"]


# A background thread is importing, and so is the main thread when the signal comes.
IMPORTING = """
import sys, threading, signal, os
from pathlib import Path
from stemsplit.cli.failures import guarded
Path("slow.py").write_text('''
import os, signal, time
os.kill(os.getpid(), signal.SIGNAL)
for _ in range(10):
    time.sleep(0.02)
print("whole", flush=True)
''')
sys.path.insert(0, ".")
def work():
    import slow
    threading.Event().wait(60)
    return 0
sys.exit(guarded(work))
"""


@posix
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
def test_a_signal_leaves_no_import_half_done(tmp_path: Path, name: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING.replace("SIGNAL", name)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == code
    assert done.stdout == "whole\n"
    assert done.stderr in ("stemsplit: interrupted\n", "stemsplit: terminated\n")


# The signal comes while libsndfile reads from a Python object, and while an object is destroyed.
READING = """
import io, soundfile
class File(io.BytesIO):
    def tell(self):
        os.kill(os.getpid(), signal.SIGNAL)
        return super().tell()
content = io.BytesIO()
soundfile.write(content, [[0.5, 0.5]] * 9, 44100, format="WAV")
def act():
    soundfile.SoundFile(File(content.getvalue())).read()
"""
DESTROYING = """
class Object:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGNAL)
def act():
    Object()
"""
ACTING = """
import os, signal, sys, threading
from stemsplit.cli.failures import guarded
def work():
    act()
    threading.Event().wait(60)
    return 0
sys.exit(guarded(work))
"""


@posix
@pytest.mark.parametrize("place", [READING, DESTROYING], ids=["reading", "destroying"])
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
def test_a_signal_is_not_lost_in_a_callback(tmp_path: Path, place: str, name: str, code: int) -> None:
    script = "import os, signal" + place.replace("SIGNAL", name) + ACTING
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode == code
    assert done.stderr in ("stemsplit: interrupted\n", "stemsplit: terminated\n")


@posix
@pytest.mark.parametrize("delay", [0.05, 0.5, 1.0])
def test_a_signal_at_any_moment_ends_the_run(shell: Shell, delay: float) -> None:
    shell.write("a.wav", seconds=60)  # no CPU is done with it within the longest delay
    os.mkfifo(shell.folder / "list")
    with shell.start("--from-file", "list", "-m", "classic") as running:
        (shell.folder / "list").write_text("a.wav")  # waits until the command reads it
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(delay)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGINT)  # a second Ctrl-C
        err = running.communicate(timeout=60)[1].decode()
    assert (running.returncode, err) == (130, "stemsplit: interrupted\n")
    assert [name for name in shell.files() if name != "list"] == ["a.wav"]


@posix
def test_a_signal_that_the_caller_ignores_stays_ignored(tmp_path: Path) -> None:
    script = "import os, signal, sys\nfrom stemsplit.cli.failures import guarded\n"
    script += "sys.exit(guarded(lambda: os.kill(os.getpid(), signal.SIGINT) or 0))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    assert done.returncode == 0


@pytest.mark.skipif(os.name == "nt" or not Path("/proc/version").exists(), reason="no /proc here")
def test_a_folder_that_takes_no_files(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", *BASS, "-o", "/proc/stems")
    assert ran.code == 1
    assert "stemsplit: error: " in ran.err
    assert "GB" not in ran.err


def test_every_failing_input_comes_with_a_hint(shell: Shell) -> None:
    (shell.folder / "empty.wav").touch()
    (shell.folder / "text.wav").write_text("no audio at all\n" * 50)
    soundfile.write(shell.folder / "nan.wav", np.full((999, 2), np.nan), 44100, subtype="FLOAT")
    soundfile.write(shell.folder / "nothing.wav", np.zeros((0, 2)), 44100)
    whole = shell.write("cut.wav", seconds=0.3).read_bytes()
    (shell.folder / "cut.wav").write_bytes(whole[:20_000])
    with av.open(shell.folder / "film.mp4", "w") as film:
        stream = film.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 32
        film.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        film.mux(stream.encode(None))
    names = ("empty.wav", "text.wav", "nan.wav", "nothing.wav", "cut.wav", "film.mp4")
    lines = shell(*names, *BASS).err.splitlines()[1:]
    assert [line.split(": ")[2] for line in lines[::2]] == list(names)
    assert all(line.startswith("  hint: ") for line in lines[1::2])
    assert len(lines) == 2 * len(names)


@posix
def test_a_name_with_a_line_break_stays_one_line(shell: Shell) -> None:
    shell.write("two\nlines.wav", seconds=0.2)
    (shell.folder / "em\npty\x1b[2J.wav").touch()
    assert shell(".", *BASS, "-n").err.splitlines() == [
        "stemsplit: error: em\\npty\\x1b[2J.wav: is empty (0 bytes)",
        "  hint: get the file again, or export it again",
        "two\\nlines.wav -> stems/two_lines/bass.wav",
        "1 to do with classic; nothing was done (--dry-run)",
    ]
    done, summary, *failed = shell(".", *BASS).err.splitlines()
    assert done.startswith("two\\nlines.wav -> stems/two_lines/bass.wav")
    assert summary.startswith("1 done, 0 skipped, 1 failed")
    assert len(failed) == 2


@posix
@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_closed_streams(shell: Shell, closed: tuple[int, ...]) -> None:
    shell.write("a.wav", seconds=0.2)
    redirected = " ".join(f"{number}>&-" for number in closed)
    command = f"{sys.executable} -m stemsplit a.wav - -m classic -s bass {redirected}"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=shell.folder,
        env=shell.environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert 2 in closed or "stemsplit: error: stdin: is empty (0 bytes)" in done.stderr
    assert shell.files() == ["a.wav", "stems/a/bass.wav"]


@pytest.mark.parametrize(("arguments", "env"), [(("--debug",), {}), ((), {"STEMSPLIT_DEBUG": "1"})])
def test_debug_shows_where_a_track_failed(
    shell: Shell, arguments: tuple[str, ...], env: dict[str, str]
) -> None:
    shell.write("a.wav", seconds=0.2)
    script = "import stemsplit.separation.runner as s, stemsplit.cli.main as m, sys\n"
    script += "s.separate_track = lambda *_, **__: 1 / 0\nm.run(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", script, "a.wav", *BASS, *arguments],
        cwd=shell.folder,
        env={**shell.environment(), **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ZeroDivisionError: division by zero\n  hint: this is a bug" in done.stderr


def test_no_output_replaces_an_input(shell: Shell) -> None:
    shell.write("in/bass.wav", seconds=0.2)
    shell.write("in/song.wav", seconds=0.2)
    (shell.folder / "link").symlink_to("in", target_is_directory=True)
    before = {path: path.read_bytes() for path in (shell.folder / "in").iterdir()}
    for output in ("in", "link"):
        ran = shell("in/song.wav", "in/bass.wav", *BASS, "-o", output, "--template", "{name}.{ext}", "-y")
        assert ran.code == 1
        assert f"stemsplit: error: in/song.wav: {output}/song.wav: is an input" in ran.err
        ran = shell("in/song.wav", "in/bass.wav", *BASS, "-o", output, "--template", "{stem}.{ext}", "-y")
        assert ran.code == 2  # both would be bass.wav
    assert {path: path.read_bytes() for path in (shell.folder / "in").iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_a_report_on_a_full_disk(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", *BASS, "--report", "/dev/full")
    assert ran.code == 5
    _, summary, error, _ = ran.err.splitlines()
    assert summary.startswith("1 done")
    assert error == "stemsplit: error: /dev/full: no space left on the disk"


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_a_name_that_is_not_valid_text(shell: Shell) -> None:
    whole = shell.write("a.wav", seconds=0.2)
    name = os.fsdecode(b"\xff.wav")
    whole.rename(shell.folder / name)
    ran = shell.process(name, *BASS, "--json", "--report", "r.json", env={"PYTHONIOENCODING": "utf-8:strict"})
    assert ran.code == 0
    for text in (ran.out, (shell.folder / "r.json").read_bytes()):
        assert json.loads(text.decode())["tracks"][0]["input"] == name


@posix
def test_an_error_of_the_system_is_one_line(shell: Shell) -> None:
    (shell.folder / "file").touch()
    (shell.folder / "gone").mkdir()
    ran = shell(
        "models", "add", "mine", MODEL, env={"STEMSPLIT_REGISTRY": str(shell.folder / "file/registry")}
    )
    assert (ran.code, ran.err) == (1, f"stemsplit: error: {shell.folder}/file: File exists\n")
    ran = shell("models", "convert", MODEL, "none/x.safetensors")
    assert (ran.code, ran.err) == (1, "stemsplit: error: none/x.safetensors: No such file or directory\n")
    command = f"rmdir ../gone; {sys.executable} -m stemsplit a.wav -m classic"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=shell.folder / "gone",
        env=shell.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "stemsplit: error: the working folder: No such file or directory\n"


def test_a_stream_has_its_report_and_says_that_it_was_turned_down(shell: Shell) -> None:
    shell.write("hot.wav", seconds=0.4, gain=8, subtype="FLOAT")
    for name, lines in (("r.json", False), ("r.jsonl", True)):
        ran = shell("hot.wav", *BASS, "-o", "-", "-f", "flac", "--report", name)
        assert ran.code == 0 and ran.out.startswith(b"fLaC")
        text = (shell.folder / name).read_text()
        track = json.loads(text.splitlines()[1] if lines else text)
        track = track if lines else track["tracks"][0]
        assert track["status"] == "done" and track["outputs"] == {"bass": "-"}
        assert track["duration_s"] == 0.4 and track["gain_db"] < -0.1
        assert f"hot.wav: {track['gain_db']:.2f} dB, so that it doesn't clip" in ran.err
    ran = shell("hot.wav", *BASS, "-o", "-", "--progress", "json")
    kinds = [json.loads(line)["event"] for line in ran.err.splitlines()]
    assert kinds[-2:] == ["track_done", "end"]


def test_stems_that_lie_in_the_input_folder_are_never_separated(shell: Shell) -> None:
    shell.write("d/s1.wav", seconds=0.3)
    shell.write("d/more/s2.wav", seconds=0.3)
    for options in (("-s", "bass"), ("-s", "drums"), ("-s", "drums", "-f", "flac")):
        ran = shell("d", "-m", "classic", *options, "-o", "d", "--json")
        assert ran.code == 0, ran.err
        inputs = [track["input"] for track in json.loads(ran.out)["tracks"]]
        assert sorted(inputs) == ["d/more/s2.wav", "d/s1.wav"]
    inside = shell("d/s1", *BASS, "-o", "d", "--json")  # asked for by name
    assert len(json.loads(inside.out)["tracks"]) == 3


@pytest.mark.parametrize("root", [".", "deep/out"])
def test_the_output_folder_itself_is_never_renamed(shell: Shell, root: str) -> None:
    shell.write("a.wav", seconds=0.2)
    for _ in range(3):
        ran = shell("a.wav", *BASS, "-o", root, "--template", "{stem}.{ext}", "--if-exists", "rename")
        assert ran.code == 0, ran.err
    names = ["bass (2).wav", "bass (3).wav", "bass.wav"]
    assert sorted(p.name for p in (shell.folder / root).glob("bass*")) == names


@pytest.mark.parametrize("stream", [False, True])
def test_clamped_floats_have_no_peaks(shell: Shell, stream: bool) -> None:
    shell.write("hot.wav", seconds=0.3, gain=8, subtype="FLOAT")
    peaks = []
    for clip in ("none", "clamp"):
        where = ("-o", "-") if stream else ("-o", clip)
        ran = shell("hot.wav", *BASS, "--bit-depth", "32f", "--clip", clip, *where)
        file = io.BytesIO(ran.out) if stream else shell.folder / clip / "hot/bass.wav"
        peaks.append(float(np.abs(soundfile.read(file)[0]).max()))
    assert peaks[0] > 1 and peaks[1] == 1


def test_a_range_between_two_samples(shell: Shell) -> None:
    shell.write("a.wav", seconds=1)
    ran = shell("a.wav", *BASS, "--start", "0.5", "--end", "0.500001")
    assert ran.code == 1 and "--start 0.5 to --end: holds no sample" in ran.err


@pytest.mark.parametrize("output", ["stems", "-"])
def test_a_notice_says_which_bit_rate_the_files_have(shell: Shell, output: str) -> None:
    shell.write("a.wav", seconds=0.2)
    ran = shell("a.wav", *BASS, "-f", "mp3", "--bitrate", "300k", "-o", output)
    assert ran.code == 0 and "--bitrate 300k: mp3 at 44100 Hz gets 320k, the nearest" in ran.err
    assert "--bitrate" not in shell("a.wav", *BASS, "-f", "mp3", "--bitrate", "256k", "-o", output, "-y").err

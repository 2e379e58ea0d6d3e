"""Unusable folders, links, names, limits and streams: one line each, and the batch goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
import torch

from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.load import load_model

pty = pytest.importorskip("pty")
Shell = Any
BASS = ("-m", "classic", "-s", "bass")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="links, limits and locales of Linux")
POSIX = {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(
    shell: Shell, *arguments: str | bytes, env: Mapping[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with bytes in and out."""
    command = [sys.executable, "-m", "stemsplit", *arguments]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options}
    environment = {**shell.environment(), **(env or {})}
    return subprocess.run(command, cwd=shell.folder, env=environment, timeout=120, **given)


def left_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


# ---------------------------------------------------------------- folders


def test_links_that_lead_nowhere_are_failed_tracks(shell: Shell) -> None:
    shell.write("album/good.wav", seconds=0.2)
    (shell.folder / "album/loop.wav").symlink_to("loop.wav")
    (shell.folder / "album/gone.wav").symlink_to("nothing.wav")
    (shell.folder / "album/up").symlink_to("..", target_is_directory=True)
    ran = shell("album", *BASS)
    assert ran.code == 3
    assert (shell.folder / "stems/good/bass.wav").is_file()
    assert "stemsplit: error: album/loop.wav: Too many levels of symbolic links\n" in ran.err
    assert "stemsplit: error: album/gone.wav: no such file\n" in ran.err
    assert "note: left out 1 linked folder, such as album/up" in ran.err
    assert shell("album/loop.wav", *BASS).code == 1
    assert shell("album/good.wav", "album/loop.wav", *BASS).code == 3


def powerless() -> list[str]:
    """Return the start of a command line that drops root's right to read everything."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root may read everything, and there is no setpriv")
    powers = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={powers}", f"--inh-caps={powers}"]


def test_a_folder_without_permission_is_a_failed_track(shell: Shell) -> None:
    shell.write("album/open/a.wav", seconds=0.2)
    shell.write("album/locked/b.wav", seconds=0.2)
    (shell.folder / "album/locked").chmod(0)
    command = [*powerless(), sys.executable, "-m", "stemsplit"]
    try:
        for arguments, code in (
            (("album",), 3),
            (("album/locked",), 1),
            (("album", "--exclude", "locked"), 0),
        ):
            done = subprocess.run(
                [*command, *arguments, *BASS, "-y"],
                cwd=shell.folder,
                env=shell.environment(),
                capture_output=True,
                text=True,
                timeout=120,
            )
            told = "album/locked: no permission to read this folder" in done.stderr
            assert (done.returncode, told) == (code, code != 0), done.stderr
    finally:
        (shell.folder / "album/locked").chmod(0o700)
    assert (shell.folder / "stems/open/a/bass.wav").is_file()


CONTAINERS = {
    "avi": "pcm_s16le",
    "flv": "aac",
    "m4v": "aac",
    "mka": "pcm_s16le",
    "mov": "alac",
    "mpg": "mp2",
    "mts": "aac",
    "nut": "pcm_s16le",
    "ogv": "libopus",
    "ts": "aac",
    "voc": "pcm_u8",
    "wave": "pcm_s16le",
    "3gp": "aac",
}
MUXERS = {
    "mka": "matroska",
    "m4v": "mp4",
    "mpg": "mpeg",
    "mts": "mpegts",
    "ts": "mpegts",
    "ogv": "ogg",
    "wave": "wav",
}


def test_a_folder_is_searched_for_every_readable_format(shell: Shell) -> None:
    (shell.folder / "album").mkdir()
    sound = shell.tones(seconds=0.5, rate=48000)
    for suffix, codec in CONTAINERS.items():
        path = shell.folder / f"album/{suffix}.{suffix}"
        with av.open(str(path), "w", format=MUXERS.get(suffix, suffix)) as file:
            stream: Any = file.add_stream(codec, rate=48000, layout="stereo")
            frame = av.AudioFrame.from_ndarray(sound, "fltp", "stereo")
            frame.sample_rate = 48000
            resampler = av.AudioResampler(stream.format, "stereo", 48000, stream.frame_size or 0)
            for piece in (*resampler.resample(frame), *resampler.resample(None)):
                file.mux(stream.encode(piece))
            file.mux(stream.encode(None))
    for name in ("cover.jpg", "back.jpg", "notes.txt", ".hidden.txt"):
        (shell.folder / "album" / name).write_text("no audio")
    ran = shell("album", *BASS, "-n", "--json")
    assert ran.code == 0, ran.err
    inputs = [job["input"] for job in json.loads(ran.out)["jobs"]]
    assert inputs == sorted(f"album/{suffix}.{suffix}" for suffix in CONTAINERS)
    assert ran.err == (
        "note: left out 3 files without an audio suffix (.jpg, .txt); --include GLOB takes them\n"
    )


def test_a_folder_without_audio_names_its_files(shell: Shell) -> None:
    (shell.folder / "album").mkdir()
    (shell.folder / "album/cover.jpg").touch()
    ran = shell("album", *BASS)
    assert ran.code == 2
    assert ran.err.splitlines()[1].startswith("  hint: left out 1 file without an audio suffix")


# ---------------------------------------------------------------- outputs


@pytest.mark.parametrize("output", ["dangling", "loop", "file", "dangling/new", "file/new"])
def test_an_impossible_output_folder_is_reported_before_the_work(shell: Shell, output: str) -> None:
    shell.write("a.wav", seconds=0.2)
    (shell.folder / "dangling").symlink_to("nowhere")
    (shell.folder / "loop").symlink_to("loop")
    (shell.folder / "file").touch()
    ran = shell("a.wav", "-m", "htdemucs", "-o", output)  # not a model that is here
    assert ran.code == 1
    assert ran.err.startswith(f"stemsplit: error: {output.partition('/')[0]}: ")
    assert len(ran.err.splitlines()) == 1


def test_an_impossible_output_fails_its_track(shell: Shell) -> None:
    for name in ("a", "b", "c"):
        shell.write(f"{name}.wav", seconds=0.2)
    (shell.folder / "stems/b/bass.wav").mkdir(parents=True)
    (shell.folder / "stems/c").symlink_to("nowhere")
    ran = shell("a.wav", "b.wav", "c.wav", *BASS, "-y")
    assert ran.code == 3
    assert "b.wav: stems/b/bass.wav: is a folder" in ran.err
    assert "c.wav: stems/c: is a link to something that isn't there" in ran.err
    assert (shell.folder / "stems/a/bass.wav").is_file()


@pytest.mark.parametrize("report", ["dangling", "loop", "file/report"])
def test_an_impossible_report_is_reported_before_the_work(shell: Shell, report: str) -> None:
    shell.write("a.wav", seconds=0.2)
    (shell.folder / "dangling").symlink_to("nowhere/report")
    (shell.folder / "loop").symlink_to("loop")
    (shell.folder / "file").touch()
    for arguments in (("a.wav", *BASS, "--report"), ("evaluate", ".", ".", "--csv")):
        ran = shell(*arguments, report)
        assert ran.code == 2
        assert f"{arguments[-1]} {report}: " in ran.err
    assert not (shell.folder / "stems").exists()


def test_a_failing_track_leaves_no_folder(shell: Shell) -> None:
    noise = np.random.default_rng(0).uniform(-1, 1, (40_000, 1))
    soundfile.write(shell.folder / "cut.flac", noise, 44100)
    whole = (shell.folder / "cut.flac").read_bytes()
    (shell.folder / "cut.flac").write_bytes(whole[: len(whole) // 2])
    assert shell("cut.flac", *BASS, "-o", "new/deep/er").code == 1
    assert shell.files() == ["cut.flac"] and not (shell.folder / "new").exists()


def test_an_interrupted_run_leaves_no_folder(shell: Shell) -> None:
    for name in ("a", "b", "c"):
        shell.write(f"{name}.wav", seconds=30)
    with shell.start("a.wav", "b.wav", "c.wav", "-m", "classic", "-o", "new/deep", "-j", "2") as running:
        end = time.monotonic() + 60
        while not list(shell.folder.rglob("*.part")):
            assert time.monotonic() < end
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        running.send_signal(signal.SIGINT)
        assert running.communicate(timeout=60)[1].decode() == "stemsplit: interrupted\n"
    assert shell.files() == ["a.wav", "b.wav", "c.wav"] and not (shell.folder / "new").exists()


# ---------------------------------------------------------------- names


@pytest.fixture(scope="module")
def latin(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a locale with a single-byte encoding."""
    folder = tmp_path_factory.mktemp("locales")
    name = "en_US.ISO-8859-1"
    if shutil.which("localedef") is None:
        pytest.skip("no localedef")
    made = subprocess.run(
        ["localedef", "-i", "en_US", "-f", "ISO-8859-1", folder / name], capture_output=True
    )
    if made.returncode > 1:  # 1 is a warning
        pytest.skip("the sources of locales aren't installed")
    return {"LOCPATH": str(folder), "LC_ALL": name, "PYTHONUTF8": "0"}


NAMES = (b"caf\xc3\xa9", b"caf\xe9", b"\xc3\x89t\xc3\xa9", b"a" + b"\xe9" * 190)


@pytest.mark.parametrize("locale", ["latin", "POSIX", "UTF-8"])
def test_names_keep_their_bytes_in_any_locale(shell: Shell, locale: str, request: Any) -> None:
    env = POSIX if locale == "POSIX" else {"LC_ALL": "C.UTF-8"}
    if locale == "latin":
        env = request.getfixturevalue("latin")
    for name in NAMES:
        song = shell.write("album/x.wav", seconds=0.2)
        os.rename(os.fsencode(song), os.fsencode(song.parent) + b"/" + name + b".wav")
    options = (*BASS, "--report", "r.json", "--progress", "json", "--bit-depth", "16")
    done = run(shell, b"album", *options, "-P", "-o", b"out\xe9", env=env)
    assert done.returncode == 0, done.stderr
    expected = {b"out\xe9/" + name + b"/bass.wav" for name in NAMES}
    assert set(done.stdout.splitlines()) == expected
    assert all((shell.folder / os.fsdecode(path)).is_file() for path in expected)
    encoding = "latin-1" if locale == "latin" else "utf-8"
    events = [json.loads(line) for line in done.stderr.decode(encoding).splitlines()[:-1]]
    inputs = {event["input"] for event in events if event["event"] == "track_done"}
    report = json.loads((shell.folder / "r.json").read_text("utf-8"))
    assert inputs == {track["input"] for track in report["tracks"]}
    codec = {"latin": "latin-1", "POSIX": "ascii", "UTF-8": "utf-8"}[locale]
    assert {name.encode(codec, "surrogateescape") for name in inputs} == {
        b"album/" + name + b".wav" for name in NAMES
    }
    if locale != "latin":
        return
    again = run(shell, b"album", *options, "--json", "-o", b"out\xe9", env=env)
    assert again.returncode == 0
    assert {track["status"] for track in json.loads(again.stdout)["tracks"]} == {"skipped"}


def test_bars_show_names_that_are_not_valid_text(shell: Shell) -> None:
    song = shell.write("x.wav", seconds=0.2)
    os.rename(song, os.fsencode(shell.folder) + b"/caf\xc3\xa9\xff.wav")
    main, terminal = pty.openpty()
    done = run(shell, b"caf\xc3\xa9\xff.wav", b"none\xff.wav", *BASS, env=POSIX, stderr=terminal)
    os.close(terminal)
    shown = os.read(main, 1 << 16)
    os.close(main)
    assert done.returncode == 3
    assert b"Unicode" not in shown and b"1 done, 0 skipped, 1 failed" in shown


def test_tables_print_names_that_are_not_valid_text(shell: Shell) -> None:
    for stem in ("vocals", "drums", "bass", "other"):
        shell.write(f"songs/x/{stem}.wav", seconds=1.5)
    os.rename(shell.folder / "songs/x", os.fsencode(shell.folder) + b"/songs/caf\xe9")
    done = run(shell, "evaluate", "songs", "songs", "--no-bss", env={"LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stderr
    assert b"caf\\udce9" in done.stdout


# ---------------------------------------------------------------- streams and limits


DATA = [
    ("models", "list", "--json"),
    ("--help",),
    ("doctor",),
    ("a.wav", *BASS, "-o", "-"),
    ("a.wav", *BASS, "--json"),
    ("a.wav", *BASS, "-P"),
    ("evaluate", "songs", "songs", "--no-bss"),
]


@pytest.mark.parametrize("arguments", DATA, ids=" ".join)
def test_data_for_a_closed_stdout_is_an_error_before_any_work(
    shell: Shell, arguments: tuple[str, ...]
) -> None:
    shell.write("a.wav", seconds=0.2)
    shell.write("songs/x/bass.wav", seconds=0.2)
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "stemsplit", *arguments]
    done = subprocess.run(
        command, cwd=shell.folder, env=shell.environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (1, "stemsplit: error: stdout is closed\n")
    assert shell.files() == ["a.wav", "songs/x/bass.wav"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("arguments", [DATA[0], DATA[1], DATA[-3], DATA[-4]], ids=" ".join)
def test_a_stdout_without_room_is_an_error(shell: Shell, arguments: tuple[str, ...]) -> None:
    shell.write("a.wav", seconds=0.2)
    with open("/dev/full", "wb") as full:
        done = run(
            shell, *arguments, "--progress=none"[: 99 * (arguments[0] == "a.wav")] or "--", stdout=full
        )
    assert done.returncode == 5
    assert b"stemsplit: error: no space left on the output's disk\n" in done.stderr
    assert b"Exception ignored" not in done.stderr


MAPPING = "ImportError('libtorch_cpu.so: failed to map segment from shared object')"
TOO_LARGE = {"MemoryError": "out of memory", MAPPING: "out of memory: PyTorch's libraries don't fit"}


@pytest.mark.parametrize("failing", TOO_LARGE)
def test_too_little_memory_for_torch_is_one_error(shell: Shell, failing: str) -> None:
    shell.write("a.wav", seconds=0.2)
    (shell.folder / "fake/torch").mkdir(parents=True)
    (shell.folder / "fake/torch/__init__.py").write_text(f"raise {failing}")
    path = os.pathsep.join([str(shell.folder / "fake"), *sys.path])
    ran = shell.process("a.wav", *BASS, env={"PYTHONPATH": path})
    assert ran.code == 5
    first, *hint = ran.err.splitlines()
    assert first == f"stemsplit: error: {TOO_LARGE[failing]}"
    assert all(line.startswith("  hint: ") for line in hint)


def test_streams_without_an_end_do_not_end_the_batch(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    with subprocess.Popen(["cat", "/dev/zero"], stdout=subprocess.PIPE) as zeros:
        done = run(shell, "a.wav", "-", "/dev/zero", *BASS, stdin=zeros.stdout)
        assert zeros.stdout is not None
        zeros.stdout.close()
    assert done.returncode == 3
    assert b"stemsplit: error: stdin: not an audio file" in done.stderr
    assert b"stemsplit: error: /dev/zero: is a device, neither a file nor a pipe" in done.stderr
    assert shell.files() == ["a.wav", "stems/a/bass.wav"]


# ---------------------------------------------------------------- samples


@pytest.mark.parametrize(
    "output", [("-o", "out"), ("-o", "-"), ("-o", "-", "-f", "flac"), ("--bit-depth", "32f")]
)
def test_a_model_that_gives_nan_is_named(shell: Shell, output: tuple[str, ...]) -> None:
    shell.write("song.wav", seconds=0.3)
    network = load_model("tiny")
    with torch.no_grad():
        next(network.parameters()).fill_(3e38)  # finite, but the outputs aren't
    save_package(shell.folder / "mine.safetensors", network)
    ran = shell("song.wav", "-m", "mine.safetensors", "-s", "vocals", *output)
    assert ran.code == 1
    said = "stemsplit: error: song.wav: the model mine.safetensors gave NaN or infinite samples at 0.0 s\n"
    assert said in ran.err
    assert shell.files() == ["mine.safetensors", "song.wav"]


@pytest.mark.parametrize(
    "output", [("-o", "out"), ("-o", "-"), ("--bit-depth", "32f", "--sample-rate", "48000")]
)
def test_huge_samples_are_blamed_on_the_input(shell: Shell, output: tuple[str, ...]) -> None:
    audio = shell.tones(seconds=2.0)
    audio[:, 44100 + 4410] = 3e38
    soundfile.write(shell.folder / "song.wav", audio.T, 44100, subtype="FLOAT")
    ran = shell("song.wav", *BASS, *output)
    assert ran.code == 1
    assert "song.wav: has samples too large to compute with (the first at 1.100 s" in ran.err
    assert shell.files() == ["song.wav"]


# ---------------------------------------------------------------- the plan


@pytest.mark.parametrize(
    ("inputs", "code"),
    [(("a.wav",), 0), (("none.wav",), 1), (("a.wav", "none.wav"), 3), ((".", "none.wav"), 3)],
)
def test_a_dry_run_has_the_exit_code_of_the_run(shell: Shell, inputs: tuple[str, ...], code: int) -> None:
    shell.write("a.wav", seconds=0.2)
    assert shell(*inputs, *BASS, "-n").code == code
    assert shell(*inputs, *BASS, "-n", "--json").code == code
    assert shell.files() == ["a.wav"]
    assert shell(*inputs, *BASS).code == code


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--start", "5"), 1, "a.wav: ends at 0.200 s, before --start 5.000 s"),
        (("--precision", "fp16"), 2, "--precision fp16: not on a CPU"),
        (("--precision", "bf16"), 2, "--precision bf16: Classic isn't accurate enough in it on a CPU"),
        (("--compile",), 2, "--compile: not on a CPU, where models are prepared instead"),
        (("--model-option", "aggression=1"), 2, "no model option named 'aggression'"),
    ],
)
def test_a_dry_run_refuses_what_the_run_refuses(
    shell: Shell, options: tuple[str, ...], code: int, said: str
) -> None:
    shell.write("a.wav", seconds=0.2)
    for more in (("-n",), ()):
        ran = shell("a.wav", *BASS, "-d", "cpu", *options, *more)
        assert ran.code == code and f"error: {said}" in ran.err
    assert shell.files() == ["a.wav"]


def test_a_start_behind_a_wrong_declared_end_is_found(shell: Shell) -> None:
    data = bytearray(shell.write("a.flac", seconds=1).read_bytes())
    data[22:26] = (4410).to_bytes(4, "big")  # the low bits of STREAMINFO's count of samples
    (shell.folder / "a.flac").write_bytes(data)
    for more in (("-n",), ()):
        assert shell("a.flac", *BASS, "--start", "0.5", *more).code == 0


def test_a_dry_run_reports_a_full_disk(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from stemsplit.separation import jobs as survey

    shell.write("a.wav", seconds=0.2)
    monkeypatch.setattr(survey.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    for arguments in ((), ("-n",)):
        ran = shell("a.wav", *BASS, *arguments)
        assert ran.code == 5
        assert "are needed and 0.0 MB are free" in ran.err

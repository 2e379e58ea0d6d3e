"""The command's promises, point by point, checked on the installed command as a subprocess."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import cpu_s
from tests.memory import RUN
from tests.separation.networks import save_quick

CLASSIC = ("-m", "classic")
STEMS = ["bass", "drums", "other", "vocals"]

Shell = Any

REPORT = {
    "type": "object",
    "required": ["schema", "version", "model", "device", "settings", "tracks", "summary"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": 1},
        "version": {"type": "string"},
        "model": {
            "type": "object",
            "required": ["name", "sha256", "license", "source"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string"},
                "sha256": {"type": ["string", "null"]},
                "license": {"type": "string"},
                "source": {"type": "string"},
            },
        },
        "device": {"type": "string"},
        "settings": {"type": "object"},
        "tracks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["input", "status", "outputs", "duration_s", "sample_rate", "channels", "gain_db"]
                + ["wall_s", "error"],
                "properties": {
                    "input": {"type": "string"},
                    "status": {"enum": ["done", "skipped", "failed"]},
                    "outputs": {"type": "object", "additionalProperties": {"type": "string"}},
                    "duration_s": {"type": ["number", "null"]},
                    "sample_rate": {"type": ["integer", "null"]},
                    "channels": {"type": ["integer", "null"]},
                    "gain_db": {"type": ["number", "null"]},
                    "wall_s": {"type": "number"},
                    "error": {
                        "type": ["object", "null"],
                        "required": ["code", "message"],
                        "properties": {"code": {"type": "integer"}, "message": {"type": "string"}},
                    },
                },
            },
        },
        "summary": {
            "type": "object",
            "required": ["done", "skipped", "failed", "wall_s", "realtime"],
            "properties": {"realtime": {"type": ["number", "null"]}},
        },
    },
}


def stems_of(name: str) -> list[str]:
    return [f"stems/{name}/{stem}.wav" for stem in STEMS]


def wait_for(condition: Any, seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def grown(folder: Path, part: str) -> bool:
    """Return whether a part file with that ending has content."""
    sizes = []
    for path in folder.rglob(f".*{part}"):
        with suppress(FileNotFoundError):
            sizes.append(path.stat().st_size)
    return any(size > 1000 for size in sizes)


needs_pipes = pytest.mark.skipif(
    not (shutil.which("ffmpeg") and shutil.which("sox")), reason="ffmpeg and sox are not installed"
)


def piped(shell: Shell, command: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a shell's pipeline in which `stemsplit` is the tested command."""
    script = command.replace("STEMSPLIT", f"{sys.executable} -m stemsplit")
    environment = {**shell.environment(), **env}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=shell.folder,
        env=environment,
        capture_output=True,
        timeout=120,
    )


def test_01_missing_files(shell: Shell) -> None:
    shell.write("good.wav", seconds=0.3)
    assert shell.process("missing.wav", *CLASSIC).code == 1
    assert shell.process("good.wav", "missing.wav", *CLASSIC).code == 3
    assert set(stems_of("good")) < set(shell.files())


def test_02_a_corrupt_file_among_good_ones(shell: Shell) -> None:
    for name in ("good", "good2"):
        shell.write(f"{name}.wav", seconds=0.3)
    (shell.folder / "corrupt.wav").write_bytes(random.Random(0).randbytes(5000))
    assert shell.process("good.wav", "corrupt.wav", "good2.wav", *CLASSIC).code == 3
    assert {*stems_of("good"), *stems_of("good2")} < set(shell.files())


def test_03_equal_names_get_two_folders(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    shell.write("a.flac", seconds=0.3)
    assert shell.process("a.wav", "a.flac", *CLASSIC).code == 0
    assert len({Path(f).parent for f in shell.files() if f.startswith("stems/")}) == 2


def test_04_a_second_run_skips(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    shell.process("a.wav", *CLASSIC)
    before = [(shell.folder / name).stat().st_mtime_ns for name in stems_of("a")]
    assert shell.process("a.wav", *CLASSIC).code == 0
    assert [(shell.folder / name).stat().st_mtime_ns for name in stems_of("a")] == before


@pytest.mark.slow
@pytest.mark.parametrize("part", [".f32.part", ".wav.part"])
def test_05_killed_while_writing(shell: Shell, part: str) -> None:
    shell.write("a.wav", seconds=30)
    with shell.start("a.wav", *CLASSIC) as running:
        # First the samples are held until the peak is known, then the final format is encoded.
        wait_for(lambda: grown(shell.folder, part) or running.poll() is not None)
        running.kill()
    complete = [name for name in shell.files() if name.endswith(".wav") and name != "a.wav"]
    for name in complete:  # each file is renamed in one step: a final name means a complete file
        assert shell.read(name)[0].shape == (2, 30 * 44100)
    assert shell.process("a.wav", *CLASSIC).code == 0
    assert shell.files() == ["a.wav", *stems_of("a")]


@needs_pipes
@pytest.mark.parametrize("fmt", ["mp3", "ogg", "opus", "m4a"])
def test_06_compressed_inputs_keep_position_and_count(shell: Shell, fmt: str) -> None:
    rate = 48000 if fmt == "opus" else 44100
    audio = np.zeros((rate, 2), np.float32)
    audio[10_000] = 0.9
    soundfile.write(shell.folder / "plain.wav", audio, rate)
    codec = {"mp3": "libmp3lame", "ogg": "libvorbis", "opus": "libopus", "m4a": "aac"}[fmt]
    made = piped(shell, f"ffmpeg -v error -i plain.wav -c:a {codec} -b:a 256k impulse.{fmt}")
    assert made.returncode == 0, made.stderr
    options = ("-s", "vocals", "--rest", "--bit-depth", "32f")
    assert shell.process(f"impulse.{fmt}", *CLASSIC, *options).code == 0
    total = sum(shell.read(f"stems/impulse/{name}.wav")[0] for name in ("vocals", "no_vocals"))
    assert total.shape == (2, rate)
    assert int(np.abs(total[0]).argmax()) == 10_000


def test_07_mono_stays_mono_and_six_channels_are_mixed_down(shell: Shell) -> None:
    shell.write("mono.wav", channels=1, rate=48000, seconds=0.4)
    shell.write("six.wav", channels=6, seconds=0.4)
    ran = shell.process("mono.wav", "six.wav", *CLASSIC, "-s", "bass")
    assert ran.code == 0
    assert "BS.775" in ran.err
    mono, rate = shell.read("stems/mono/bass.wav")
    assert (mono.shape, rate) == ((1, 19200), 48000)
    assert shell.read("stems/six/bass.wav")[0].shape == (2, 17640)


def test_08_empty_silent_and_not_a_number(shell: Shell) -> None:
    (shell.folder / "empty.wav").touch()
    shell.write("silent.wav", gain=0.0, seconds=0.4)
    soundfile.write(shell.folder / "nan.wav", np.full((999, 2), np.nan), 44100, subtype="FLOAT")
    ran = shell.process("empty.wav", "silent.wav", "nan.wav", *CLASSIC)
    assert ran.code == 3
    assert ran.err.count("stemsplit: error: ") == 2
    assert not any(shell.read(name)[0].any() for name in stems_of("silent"))


def test_09_complements_add_up_and_float_keeps_its_peaks(shell: Shell) -> None:
    shell.write("hot.wav", subtype="FLOAT", gain=8.0, seconds=0.4)
    mix = shell.read("hot.wav")[0]
    ran = shell.process("hot.wav", *CLASSIC, "-s", "vocals", "--rest", "--json")
    gain = 10 ** (json.loads(ran.out)["tracks"][0]["gain_db"] / 20)
    assert gain < 0.5
    total = sum(shell.read(f"stems/hot/{name}.wav")[0] for name in ("vocals", "no_vocals"))
    assert np.abs(total - gain * mix).max() < 2**-23 + 4e-7  # one step of 24 bits, and float32's own rounding
    shell.process("hot.wav", *CLASSIC, "-s", "vocals", "--rest", "--bit-depth", "32f", "-y")
    total = sum(shell.read(f"stems/hot/{name}.wav")[0] for name in ("vocals", "no_vocals"))
    assert np.abs(mix).max() > 2
    assert np.abs(total - mix).max() < 1e-6


@pytest.mark.parametrize("wrong", [("--template", "{bogus}"), ("--device", "cuda:9")])
def test_10_wrong_usage_is_quick(shell: Shell, wrong: tuple[str, str]) -> None:
    shell.write("a.wav", seconds=0.3)
    script = "import sys, stemsplit.cli.main as m\ntry: m.run(sys.argv[1:])\n"
    script += "finally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, "a.wav", *wrong],
        cwd=shell.folder,
        env=shell.environment(),
        capture_output=True,
        text=True,
    )
    # Only the import of torch takes longer than a second, so no clock is needed.
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert done.stderr.startswith("stemsplit: error: ")


@needs_pipes
def test_11_pipes(shell: Shell) -> None:
    shell.write("a.wav", seconds=1.0)
    through = "STEMSPLIT - -m classic --stem vocals -o - --progress none"
    ran = piped(shell, f"ffmpeg -v warning -i a.wav -f wav - | {through} | sox -V3 -t wav - b.flac")
    assert ran.returncode == 0, ran.stderr
    assert "warn" not in ran.stderr.decode().lower().replace("-v warning", "")
    assert shell.read("b.flac")[0].shape == (2, 44100)
    ran = piped(shell, f"sox a.wav -t wav - | {through} | ffmpeg -v warning -f wav -i - -c:a pcm_f32le c.wav")
    assert ran.returncode == 0, ran.stderr
    noise = [line for line in ran.stderr.decode().splitlines() if "Guessed Channel Layout" not in line]
    assert noise == []
    assert shell.read("c.wav")[0].shape == (2, 44100)


def test_11_a_reader_that_leaves_early(shell: Shell) -> None:
    shell.write("a.wav", seconds=20)
    ran = piped(shell, "STEMSPLIT a.wav -m classic -s bass -o - --progress none | head -c 100 | wc -c")
    assert ran.stdout.strip() == b"100"
    assert ran.stderr == b""
    assert ran.returncode == 141  # pipefail: the command's own code


def test_12_stdout_is_empty_unless_asked(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    assert shell.process("a.wav", "none.wav", *CLASSIC).out == b""
    assert shell.process("a.wav", *CLASSIC, "-n").out == b""
    assert shell.process("a.wav", *CLASSIC, "-P").out.decode().split() == [
        str(Path("stems/a") / f"{stem}.wav") for stem in ("drums", "bass", "other", "vocals")
    ]


def test_13_no_escape_codes_off_a_terminal(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.3)
    ran = shell.process("a.wav", "none.wav", *CLASSIC)
    assert not set("\x1b\r") & set(ran.err)
    assert "\x1b[31m" in shell.process("none.wav", *CLASSIC, env={"FORCE_COLOR": "1"}).err


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_14_an_hour_in_bounded_memory_without_a_seam(shell: Shell) -> None:
    song = shell.folder / "hour.wav"
    minute = shell.tones(seconds=60)
    with soundfile.SoundFile(song, "w", 44100, 2, subtype="PCM_16") as file:
        for _ in range(60):
            file.write(minute.T)
    model = save_quick(shell.folder / "quick.safetensors")
    options = ("-m", str(model), "-s", "vocals", "--rest", "-f", "flac", "--bit-depth", "16")
    done = subprocess.run(
        [sys.executable, "-c", RUN, "hour.wav", *options],
        cwd=shell.folder,
        env=shell.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 600  # an hour in 16 bits is 635 MB
    parts = [
        soundfile.blocks(shell.folder / f"stems/hour/{n}.flac", 1 << 20) for n in ("vocals", "no_vocals")
    ]
    frames = 0
    for vocals, rest, mix in zip(*parts, soundfile.blocks(song, 1 << 20), strict=True):
        assert np.abs(vocals + rest - mix).max() < 3 * 2**-16
        frames += len(mix)
    assert frames == 60 * 60 * 44100


def test_15_no_ffmpeg_on_the_path(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.4)
    for fmt in ("mp3", "m4a", "opus", "ogg", "flac", "aiff", "alac"):
        options = ("-s", "bass", "-f", fmt, "-o", fmt, "--sample-rate", "48000")
        assert shell("a.wav", *CLASSIC, *options, env={"PATH": ""}).code == 0
        ext = "m4a" if fmt == "alac" else fmt
        again = ("-s", "bass", "-o", f"again-{fmt}")
        assert shell(f"{fmt}/a/bass.{ext}", *CLASSIC, *again, env={"PATH": ""}).code == 0


@pytest.mark.parametrize(
    "name", ["Björk – 絆 {x} [é].wav", "  spaces  .wav", "-leading.wav", "é" * 98 + ".wav"]
)
def test_16_awkward_names(shell: Shell, name: str) -> None:
    shell.write(name, seconds=0.2)
    assert shell.process(*CLASSIC, "-s", "bass", "--", name).code == 0
    assert f"stems/{Path(name).stem}/bass.wav" in shell.files()


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_17_help_is_quick(shell: Shell) -> None:
    def cost(*command: str) -> float:
        """Return the least CPU seconds of five runs."""
        return min(cpu_s(*command) for _ in range(5))

    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "stemsplit", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for heavy in ("torch", "numpy", "soundfile", "av", "soxr", "rich", "huggingface_hub"):
        assert f" {heavy}\n" not in ran.stderr
    nothing, click = cost("-c", "pass"), cost("-c", "import click")
    # 150 ms are promised; a CPU on which click alone takes 40 ms is slow, and is allowed as much more
    assert cost("-m", "stemsplit", "--help") - nothing < max(0.15, 4 * (click - nothing))


def test_18_a_truncated_model_file(shell: Shell) -> None:
    whole = random.Random(0).randbytes(50_000)
    digest = hashlib.sha256(whole).hexdigest()
    model = shell.folder / "mine.safetensors"
    model.write_bytes(whole[:30_000])
    registry = shell.folder / "registry.yaml"
    registry.write_text(
        "models:\n  mine:\n    family: htdemucs\n    stems: [drums, bass, other, vocals]\n"
        f"    sample_rate: 44100\n    license: MIT\n    files: [{{path: {model}, sha256: {digest}}}]\n"
    )
    shell.write("a.wav", seconds=0.2)
    ran = shell.process("a.wav", "-m", "mine", env={"STEMSPLIT_REGISTRY": str(registry)})
    assert ran.code == 4
    assert "sha256" in ran.err
    assert "download it again" in ran.err


def test_19_the_report_fits_its_schema(shell: Shell) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    shell.write("a.wav", seconds=0.2)
    for _ in range(2):  # done, then skipped
        jsonschema.validate(json.loads(shell.process("a.wav", "none.wav", *CLASSIC, "--json").out), REPORT)


def test_20_exit_codes(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    cases = {
        0: ("a.wav", *CLASSIC),
        1: ("none.wav", *CLASSIC),
        2: ("a.wav", "--nonsense"),
        3: ("a.wav", "none.wav", *CLASSIC),
        4: ("a.wav", "--offline", "-o", "other"),
    }
    for code, arguments in cases.items():
        assert shell(*arguments).code == code, arguments


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_20_a_full_disk(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.5)
    ran = piped(shell, "STEMSPLIT a.wav -m classic -s bass -o - --progress none > /dev/full")
    assert ran.returncode == 5
    assert b"no space left" in ran.stderr

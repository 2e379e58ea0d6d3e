"""The installed command as a subprocess, and audio files for it."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# It reads the environment when it is imported: import it before a test changes that.
import huggingface_hub.constants  # noqa: F401
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from stemsplit.cli.failures import SIGNALS
from stemsplit.cli.main import run

Audio = NDArray[np.float32]
COMMAND = [sys.executable, "-m", "stemsplit"]


@dataclass(frozen=True)
class Ran:
    """Exit code and output of a finished command."""

    code: int
    out: bytes
    err: str


def environment(folder: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return an environment without the user's folders, without a network, and with one thread."""
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("STEMSPLIT_", "HF_", "NO_COLOR", "FORCE_"))
    }
    own = {
        "HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "home/cache"),
        "XDG_CONFIG_HOME": str(folder / "home/config"),
        "HF_HOME": str(folder / "home/hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return {**kept, **own, **(extra or {})}


def cpu_s(*arguments: str, env: Mapping[str, str] | None = None) -> float:
    """Return the CPU seconds of Python with some arguments; wall time has the machine's other work too."""
    import resource  # not on Windows

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True, env=env)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Shell:
    """Runs commands in a folder of the test's own.

    Called, it runs the command line inside this process, which spares the imports; `process` runs the
    installed command.
    """

    def __init__(
        self, folder: Path, capture: pytest.CaptureFixture[bytes], patch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self.capture, self.patch = folder, capture, patch

    def __call__(
        self, *arguments: str | Path, input: bytes = b"", env: Mapping[str, str] | None = None
    ) -> Ran:
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self.capture.readouterr()
        with self.patch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(os, "environ", environment(self.folder, env))
            patch.setattr(sys, "unraisablehook", sys.unraisablehook)  # restored at the end
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(input)))
            with pytest.raises(SystemExit) as caught:
                run([str(argument) for argument in arguments])
        for number, handler in handlers.items():
            signal.signal(number, handler)
        out, err = self.capture.readouterr()
        assert b"Traceback" not in err, err.decode()
        return Ran(int(caught.value.code or 0), out, err.decode())

    def process(
        self,
        *arguments: str | Path,
        input: bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> Ran:
        """Run the installed command to its end."""
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env=environment(self.folder, env),
            input=b"" if input is None else input,
            capture_output=True,
            timeout=timeout,
        )
        err = done.stderr.decode()
        assert "Traceback" not in err, err
        return Ran(done.returncode, done.stdout, err)

    def environment(self) -> dict[str, str]:
        """Return the environment that the command runs in."""
        return environment(self.folder)

    def start(self, *arguments: str | Path, **options: object) -> subprocess.Popen[bytes]:
        """Start the installed command in the background."""
        return subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=self.folder,
            env=environment(self.folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            **options,  # type: ignore[call-overload]
        )

    def write(self, name: str, *, subtype: str = "PCM_16", **sound: float) -> Path:
        """Write a file of tones; the suffix chooses its format."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rate = int(sound.get("rate", 44100))
        audio = tones(**sound)  # type: ignore[arg-type]
        soundfile.write(path, audio.T, rate, subtype=subtype, format=path.suffix[1:].upper() or "WAV")
        return path

    @staticmethod
    def tones(**sound: float) -> Audio:
        """Return the samples that `write` writes."""
        return tones(**sound)  # type: ignore[arg-type]

    def files(self) -> list[str]:
        """Return the names of all files in the folder, hidden ones too, except those in `home`."""
        found = (p.relative_to(self.folder) for p in self.folder.rglob("*") if p.is_file())
        return sorted(p.as_posix() for p in found if p.parts[0] != "home")

    def read(self, name: str) -> tuple[Audio, int]:
        """Return samples [C, T] and sample rate (Hz) of an output."""
        audio, rate = soundfile.read(self.folder / name, dtype="float32", always_2d=True)
        return audio.T, rate


def tones(seconds: float = 1.0, rate: int = 44100, channels: int = 2, gain: float = 1.0) -> Audio:
    """Return tones, clicks and a little noise, [C, T]."""
    generator = np.random.default_rng(0)
    time = np.arange(round(seconds * rate)) / rate
    audio = 0.2 * np.sin(2 * np.pi * 80 * time) + 0.2 * np.sin(2 * np.pi * 700 * time)
    audio[:: rate // 4] += 0.3
    noise = 0.02 * generator.standard_normal((channels, len(time)))
    return (gain * (audio + noise)).astype(np.float32)


@pytest.fixture
def shell(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    """The command line in an empty folder."""
    return Shell(tmp_path, capfdbinary, monkeypatch)

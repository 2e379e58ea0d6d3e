"""Both programs from start to end: wall-clock and CPU seconds, peak memory, and what they wrote."""

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

RATE = 44100


def song(path: Path, seconds: float, source: Path | None) -> None:
    """Real music from the start of `source`, repeated; chords with noise without one."""
    count = int(seconds * RATE)
    if source is not None:
        audio, rate = soundfile.read(source, frames=count, dtype="float32", always_2d=True)
        if rate != RATE or audio.shape[1] != 2:
            raise SystemExit(f"{source}: the music must be stereo at {RATE} Hz")
    else:
        audio = _chords()
    with soundfile.SoundFile(path, "w", RATE, 2, subtype="FLOAT", format="WAV") as file:
        while count > 0:
            file.write(audio[:count])
            count -= len(audio)


def _chords() -> np.ndarray:
    times = np.arange(20 * RATE) / RATE
    noise = np.random.default_rng(0).normal(size=(len(times), 2))
    decay = np.exp(-4 * (times % 0.5))
    notes = sum(np.sin(2 * np.pi * hz * times) for hz in (110, 220, 277.2, 329.6))
    return (0.1 * (notes * decay)[:, None] + 0.02 * noise).astype(np.float32)


def command(
    program: str, python: Path, checkpoint: Path, audio: Path, out: Path, *more: str, device: str = "cpu"
) -> list[str]:
    """The command line that separates `audio` into float stems below `out`."""
    if program == "demucs":
        repo = ["--repo", str(checkpoint.parent), "-n", checkpoint.stem]
        how = ["-d", device, "--shifts", "0", "--float32", "--clip-mode", "none", *more]
        return [str(python), "-m", "demucs", *repo, *how, "-o", str(out), str(audio)]
    how = ["-d", device, "--bit-depth", "32f", "--clip", "none", "-y", *more]
    return [str(python), "-m", "stemsplit", str(audio), "-m", str(checkpoint), "-o", str(out), *how]


def run(line: list[str]) -> dict[str, Any]:
    """Run a program and measure it."""
    began = time.perf_counter()
    with open(os.devnull, "w") as nowhere:
        process = subprocess.Popen(line, stdout=nowhere, stderr=subprocess.PIPE)
        errors = process.stderr.read() if process.stderr else b""
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(line)}\n{errors.decode()}")
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": used.ru_utime + used.ru_stime,
        "peak_mb": used.ru_maxrss / 1024,
    }


def stems_in(folder: Path) -> dict[str, Path]:
    """The stems below a folder, by name."""
    return {path.stem: path for path in sorted(folder.rglob("*.wav"))}


def agreement_db(theirs: Path, ours: Path) -> float:
    """How far all stems' difference lies below demucs' stems, block by block."""
    signal = error = 0.0
    found = stems_in(ours)
    for name, path in stems_in(theirs).items():
        blocks = zip(
            *(soundfile.blocks(one, 2**18, dtype="float32") for one in (path, found[name])), strict=True
        )
        for a, b in blocks:
            signal += float(np.square(a, dtype=np.float64).sum())
            error += float(np.square(a.astype(np.float64) - b).sum())
    return float(10 * np.log10(signal / max(error, 1e-60)))

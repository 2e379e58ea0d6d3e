"""CPU seconds of the cases of `guard` with the stemsplit that this Python imports.

A line of the standard input is the name of a case; the answer is a line with its CPU seconds, or an empty one
if it can't be run. Run by its path, not as a module: the checkout's own package mustn't come first.
"""

import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

RATE = 44100
HOW = ("-m", "tiny", "--if-exists", "overwrite", "--threads", "1")  # a song is separated
HTDEMUCS = {"sources": ["drums", "bass", "other", "vocals"], "segment": 2}
ROFORMER = {
    "stems": ["vocals", "other"],
    "num_stems": 2,
    "stereo": True,
    "dim": 192,
    "depth": 1,
    "segment_samples": 2 * RATE,
}
MDX23C = {
    "stems": ["vocals", "other"],
    "n_fft": 2048,
    "hop_length": 1024,
    "dim_f": 1024,
    "num_channels": 32,
    "growth": 32,
    "num_scales": 3,
    "num_blocks_per_scale": 1,
    "segment_samples": 4 * RATE,
}


def network(family: str, arguments: dict[str, Any]) -> Callable[[], object]:
    """Chunk of a network prepared for the CPU."""
    import torch

    from stemsplit.models import build

    torch.manual_seed(0)
    built = build(family, arguments).eval().prepare()
    samples = built.segment_samples + 2 * built.context_samples
    chunk = 0.1 * torch.randn(1, built.channels, samples)

    def run() -> object:
        with torch.inference_mode():
            return built(chunk)

    return run


def scores() -> Callable[[], object]:
    """BSS Eval of two stems of six seconds."""
    import torch

    from stemsplit.evaluation.bsseval import bsseval

    torch.manual_seed(0)
    references = 0.1 * torch.randn(2, 2, 6 * RATE)  # [S, C, T]
    return lambda: bsseval(references, references + 0.01 * references.flip(0))


def command(*arguments: str) -> float:
    """CPU seconds of the command, in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "stemsplit", *arguments], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def timed(act: Callable[[], object]) -> Callable[[], float]:
    """Return what measures the CPU seconds of a call, after one that isn't counted."""
    act()

    def measure() -> float:
        began = time.process_time()
        act()
        return time.process_time() - began

    return measure


# What prepares each case, for a song and a folder for its stems, and returns what measures it.
CASES: dict[str, Callable[[str, str], Callable[[], float]]] = {
    "start": lambda song, output: partial(command, "models", "list"),
    "song": lambda song, output: partial(command, "separate", song, "-o", output, *HOW),
    "htdemucs": lambda song, output: timed(network("htdemucs", HTDEMUCS)),
    "bs_roformer": lambda song, output: timed(network("bs_roformer", ROFORMER)),
    "mdx23c": lambda song, output: timed(network("mdx23c", MDX23C)),
    "bsseval": lambda song, output: timed(scores()),
}


def main(song: str, output: str) -> None:
    """Measure the cases that are asked for."""
    import torch

    torch.set_num_threads(1)
    prepared: dict[str, Callable[[], float]] = {}
    for line in sys.stdin:
        name = line.strip()
        try:
            if name not in prepared:
                prepared[name] = CASES[name](song, output)
            print(prepared[name](), flush=True)
        except Exception:
            traceback.print_exc()
            print(flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

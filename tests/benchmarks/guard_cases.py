"""CPU seconds of the cases of `guard` with the stemsplit that this Python imports, as JSON on the last line.

Run by its path, not as a module: the checkout's own package mustn't come first.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

REPEATS = 2  # of a case in one process, after one that isn't counted; the least counts
RATE = 44100
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


CASES: dict[str, Callable[[], Callable[[], object]]] = {
    "htdemucs": lambda: network("htdemucs", HTDEMUCS),
    "bs_roformer": lambda: network("bs_roformer", ROFORMER),
    "mdx23c": lambda: network("mdx23c", MDX23C),
    "bsseval": scores,
}


def cpu_s(act: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    began = time.process_time()
    act()
    return time.process_time() - began


def command_s(*arguments: str, times: int) -> float:
    """CPU seconds of the command, in a process of its own; the least of some times."""
    least = float("inf")
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "stemsplit", *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        least = min(least, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return least


def main(song: str, output: str) -> None:
    """Measure every case and print."""
    import torch

    torch.set_num_threads(1)
    where = ("-o", output, "--if-exists", "overwrite", "--threads", "1")
    found = {
        "start": command_s("models", "list", times=8),
        "song": command_s("separate", song, "-m", "tiny", *where, times=2),
    }
    for name, make in CASES.items():
        act = make()
        act()
        found[name] = min(cpu_s(act) for _ in range(REPEATS))
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])

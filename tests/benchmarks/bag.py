"""What one stem of a one-hot bag costs against all four: `python -m tests.benchmarks.bag`.

Four small HT Demucs make a bag like htdemucs_ft. Runs alternate, and CPU seconds are medians.
"""

import statistics
import time

import torch

from stemsplit.core.compute import Compute, place
from stemsplit.core.stream import separate_array
from stemsplit.models import build
from stemsplit.models.bag import Bag

STEMS = ("drums", "bass", "other", "vocals")
ARGUMENTS = {"sources": list(STEMS), "channels": 16, "bottom_channels": 64, "t_layers": 3, "segment": 4}
SECONDS, ROUNDS = 8, 3


def bag(stems: tuple[str, ...]) -> Bag:
    """The members that `stems` need, each with weight for one stem only."""
    used = [i for i, stem in enumerate(STEMS) if stem in stems]
    members = [build("htdemucs", ARGUMENTS) for _ in used]
    rows = [[float(i == j) for j in range(len(STEMS))] for i in used]
    return place(Bag(members, rows), Compute())


def cost(model: Bag, mix: torch.Tensor) -> float:
    """CPU seconds of separating `mix` [C, T]."""
    began = time.process_time()
    separate_array(model, mix)
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    mix = 0.1 * torch.randn(2, SECONDS * 44100)
    one, all_four = bag(("vocals",)), bag(STEMS)
    cost(one, mix)
    pairs = [(cost(one, mix), cost(all_four, mix)) for _ in range(ROUNDS)]
    ratios = [a / b for a, b in pairs]
    one_s, all_s = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"one stem {one_s:.1f} s, all four {all_s:.1f} s: {statistics.median(ratios):.2f} of the time")


if __name__ == "__main__":
    main()

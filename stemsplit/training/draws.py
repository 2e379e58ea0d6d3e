"""Random numbers that depend on what they are for, and on nothing else.

Every random choice of a training run comes from a generator made of the run's seed and the choice's own place
(the sample's global index, the step's number). So crops and augmentations are the same on one machine or
eight, with any number of workers, and after a resume.
"""

from hashlib import blake2b

import torch


def derive(seed: int, *place: int | str) -> int:
    """A seed in [0, 2⁶³) for one place of a run; different places give unrelated seeds."""
    digest = blake2b(repr((seed, *place)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *place: int | str) -> torch.Generator:
    """A fresh CPU generator for one place of a run.

    >>> a, b = generator(7, "crop", 3), generator(7, "crop", 3)
    >>> bool(torch.rand(2, generator=a).equal(torch.rand(2, generator=b)))
    True
    """
    return torch.Generator().manual_seed(derive(seed, *place))


def uniform(source: torch.Generator, low: float, high: float) -> float:
    """A number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=source, dtype=torch.float64))


def integer(source: torch.Generator, low: int, high: int) -> int:
    """An integer in [low, high], both included."""
    return int(torch.randint(low, high + 1, (), generator=source))


def happens(source: torch.Generator, probability: float) -> bool:
    """True with the given probability; always draws one number."""
    return uniform(source, 0, 1) < probability

"""Random numbers as a function of the run's seed and of what they are for.

Every random choice of a training run comes from a generator seeded with the run's seed and the key of the
choice (the sample's global index, the step's number). Crops and augmentations are therefore the same on one
machine or eight, with any number of workers, and after a resume.
"""

from hashlib import blake2b

import torch


def derive_seed(seed: int, *key: int | str) -> int:
    """Return a seed in [0, 2⁶³) for one key; different keys give independent seeds."""
    digest = blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(seed: int, *key: int | str) -> torch.Generator:
    """Return a new CPU generator for one key.

    >>> a, b = generator(7, "crop", 3), generator(7, "crop", 3)
    >>> bool(torch.rand(2, generator=a).equal(torch.rand(2, generator=b)))
    True
    """
    return torch.Generator().manual_seed(derive_seed(seed, *key))


def uniform(rng: torch.Generator, low: float, high: float) -> float:
    """Return a number in [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def integer(rng: torch.Generator, low: int, high: int) -> int:
    """Return an integer in [low, high], both included."""
    return int(torch.randint(low, high + 1, (), generator=rng))


def bernoulli(rng: torch.Generator, probability: float) -> bool:
    """Return True with the given probability; always draws exactly one number."""
    return uniform(rng, 0, 1) < probability

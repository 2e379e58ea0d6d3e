"""Memory and speed of network families, as `models info` tells them.

`costs.json` is written by `tests/benchmarks/families.py`: for every family, with the arguments of a released
checkpoint, the memory of the program and its speed on one core of the CPU that is named there.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

# Classes of speed by the least seconds of audio per second on one core
CLASSES = (("fast", 2.0), ("medium", 0.5), ("slow", 0.0))


class Cost(NamedTuple):
    """Memory and speed of a family on one core of a CPU.

    Attributes:
        memory_mb: memory of the program in MB.
        realtime: seconds of audio per second.
    """

    memory_mb: int
    realtime: float

    @property
    def speed(self) -> str:
        """Class of speed: fast, medium or slow."""
        return next(name for name, least in CLASSES if self.realtime >= least)


def cost_of(family: str | None) -> Cost | None:
    """Return memory and speed of a family, None if they weren't measured."""
    found = _table().get(family or "")
    return None if found is None else Cost(round(found[0]), found[1])


@lru_cache(maxsize=1)
def _table() -> dict[str, tuple[float, float]]:
    content: dict[str, dict[str, tuple[float, float]]] = json.loads(
        Path(__file__).with_name("costs.json").read_text(encoding="utf-8")
    )
    return content["families"]

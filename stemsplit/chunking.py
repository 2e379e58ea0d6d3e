"""Treatment of a track's chunks that a family of models was released with, where it isn't the default."""

from dataclasses import dataclass
from typing import Literal

Window = Literal["linear", "hann"]
Level = Literal["deviation", "peak", "magnitude"]


@dataclass(frozen=True)
class Chunking:
    """Weights of overlapping chunks, and silence before and after the track.

    Attributes:
        window: weights of a chunk's samples: linear ones rise and fall by equal steps; hann is the symmetric
            Hann window, which is 0 at both ends of the chunk.
        lead: samples of silence before the track, which are cut off again.
        tail: samples of silence after it, which are cut off again.
        multiple: after the track, there are also as many samples of silence as it lacks to a multiple of
            this, and this many if it lacks none; 0 for none.
    """

    window: Window = "linear"
    lead: int = 0
    tail: int = 0
    multiple: int = 0

    def tail_samples(self, samples: int) -> int:
        """Return the samples of silence after a track of `samples`."""
        return self.tail + (self.multiple - samples % self.multiple if self.multiple else 0)

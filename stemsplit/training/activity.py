"""Source activity detection of "Music Source Separation with Band-split RNN" (section IV-A).

A track is split into segments of length L that overlap by half, each segment into ten chunks. A segment is
salient if more than half of its chunks have an energy above max(15 % quantile of all chunks' energies, γ).
The energy of a chunk is the sum of its squared samples over channels and time, ε for a silent one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

CHUNKS = 10  # in a segment; with half an overlap, segments begin at every fifth chunk
SILENT = 1e-5  # ε
FLOOR = 1e-3  # γ
QUANTILE = 0.15
SHARE = 0.5  # of a segment's chunks that must be exceeded


@dataclass(frozen=True)
class ActivityMeter:
    """Which segments of a track sound.

    Args:
        segment_samples: L; rounded down to a multiple of ten.
    """

    segment_samples: int

    @property
    def chunk_samples(self) -> int:
        """The length of a chunk, L / 10."""
        return max(1, self.segment_samples // CHUNKS)

    def energies(self, blocks: Iterable[Array]) -> list[float]:
        """The energy of every complete chunk of a track.

        Args:
            blocks: [C, any] each, consecutive.
        """
        found: list[float] = []
        rest = np.zeros((1, 0), np.float32)
        for block in blocks:
            joined = np.concatenate([np.broadcast_to(rest, (len(block), rest.shape[1])), block], axis=1)
            count = joined.shape[1] // self.chunk_samples
            whole, rest = np.split(joined, [count * self.chunk_samples], axis=1)
            chunks = whole.astype(np.float64).reshape(len(block), count, self.chunk_samples)
            found.extend(np.square(chunks).sum(axis=(0, 2)).tolist())
        return found

    def salient(self, energies: Sequence[float]) -> list[int]:
        """Where the salient segments begin, in samples. A track of less than one segment has none.

        Args:
            energies: of the track's chunks.
        """
        starts = range(0, len(energies) - CHUNKS + 1, CHUNKS // 2)
        if not starts:
            return []
        audible = np.array([energy if energy > 0 else SILENT for energy in energies])
        segments = np.stack([audible[start : start + CHUNKS] for start in starts])
        threshold = max(float(np.quantile(segments, QUANTILE)), FLOOR)
        chosen = (segments > threshold).mean(axis=1) > SHARE
        return [start * self.chunk_samples for start, good in zip(starts, chosen, strict=True) if good]

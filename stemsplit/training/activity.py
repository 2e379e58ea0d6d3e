"""Source activity detection (Luo and Yu, "Music Source Separation with Band-split RNN", section IV-A).

A track is split into segments of length L that overlap by half, each segment into ten chunks. A segment is
salient if more than half of its chunks have an energy above max(15 % quantile of all chunks' energies, γ).
The energy of a chunk is the sum of its squared samples over channels and time, or ε if the chunk is silent.
`C` channels, `T` samples.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

CHUNKS = 10  # per segment; segments overlap by half, so one begins at every fifth chunk
EPSILON = 1e-5  # ε, the energy of a silent chunk
MIN_THRESHOLD = 1e-3  # γ
QUANTILE = 0.15
ACTIVE_FRACTION = 0.5  # a salient segment has more than this share of its chunks above the threshold


@dataclass(frozen=True)
class ActivityMeter:
    """Detector of the salient segments of a track.

    Args:
        segment_samples: L in samples; rounded down to a multiple of ten.
    """

    segment_samples: int

    @property
    def chunk_samples(self) -> int:
        """Return the length of a chunk in samples, L / 10."""
        return max(1, self.segment_samples // CHUNKS)

    def energies(self, blocks: Iterable[Array]) -> list[float]:
        """Return the energy of every complete chunk of a track.

        Args:
            blocks: consecutive blocks of the track, [C, any length] each.
        """
        found: list[float] = []
        rest = np.zeros((1, 0), np.float32)
        for block in blocks:
            rest = np.broadcast_to(rest, (len(block), rest.shape[1]))  # [C, less than a chunk]
            joined = np.concatenate([rest, block], axis=1)  # [C, T]
            count = joined.shape[1] // self.chunk_samples
            whole, rest = np.split(joined, [count * self.chunk_samples], axis=1)
            chunks = whole.reshape(len(block), count, self.chunk_samples)  # [C, chunks, L / 10]
            found.extend(np.square(chunks.astype(np.float64)).sum(axis=(0, 2)).tolist())
        return found

    def salient_starts(self, energies: Sequence[float]) -> list[int]:
        """Return the first samples of the salient segments; a track shorter than a segment has none.

        Args:
            energies: energy of each chunk of the track.
        """
        starts = range(0, len(energies) - CHUNKS + 1, CHUNKS // 2)
        if not starts:
            return []
        audible = np.array([energy if energy > 0 else EPSILON for energy in energies])
        segments = np.stack([audible[start : start + CHUNKS] for start in starts])  # [segments, CHUNKS]
        threshold = max(float(np.quantile(segments, QUANTILE)), MIN_THRESHOLD)
        chosen = (segments > threshold).mean(axis=1) > ACTIVE_FRACTION  # [segments]
        return [start * self.chunk_samples for start, good in zip(starts, chosen, strict=True) if good]

"""Masks of windows of a spectrogram, side by side.

Legend: `B` batch, `C` channels, `F` bins.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Windows:
    """Windows that overlap by twice `offset`.

    Attributes:
        size: frames of a window.
        offset: frames at each end whose masks aren't used.
    """

    size: int
    offset: int

    @property
    def roi(self) -> int:
        """Frames of a window that get their masks from it (region of interest)."""
        return self.size - 2 * self.offset

    def first(self, start: int, grid: int) -> int:
        """Return the beginning of the region that the frame `start` is in, if one begins at `grid`."""
        return grid + (start - grid) // self.roi * self.roi

    def masks(self, x: Tensor, start: int, stop: int, grid: int, mask: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the masks of the frames from `start` to `stop`.

        Args:
            x: magnitudes [B, C, F, frames]; there is silence beyond them.
            start: the first frame whose mask is wanted.
            stop: the frame after the last one.
            grid: a frame at which a window's region begins.
            mask: [B, C, F, size] -> [B, C, F, roi].

        Returns:
            [B, C, F, stop − start].
        """
        first = self.first(start, grid)
        windows = range(first - self.offset, stop - self.offset, self.roi)
        before, after = max(0, -windows[0]), max(0, windows[-1] + self.size - x.shape[-1])
        padded = F.pad(x, (before, after))
        masks = [mask(padded[..., w + before : w + before + self.size]) for w in windows]
        return torch.cat(masks, dim=-1)[..., start - first : stop - first]

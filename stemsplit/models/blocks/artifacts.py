"""Post-processing of a mask: long stretches that are loud everywhere belong to the primary stem alone."""

import torch
from torch import Tensor

SHORTEST = 64  # frames between the first and the last frame of a stretch; a longer one counts
FADE = 32  # frames
REACH = SHORTEST + 3 * FADE  # frames on each side that a frame's value can depend on


def without_artifacts(mask: Tensor, threshold: float, first: int, last: int) -> Tensor:
    """Return a mask that is 1 in long stretches in which it is nowhere low, with fades at their ends.

    Args:
        mask: [2, F, frames].
        threshold: that all values of such a stretch exceed.
        first: the track's first frame, which may be before the mask's; what begins there doesn't fade in.
        last: the track's last frame.

    Returns:
        [2, F, frames].
    """
    loud = mask.amin((0, 1)) > threshold  # [frames]
    frames = torch.arange(len(loud), device=mask.device)
    loud &= (frames >= first) & (frames <= last)
    edges = torch.diff(loud.int(), prepend=loud.new_zeros(1).int(), append=loud.new_zeros(1).int())
    starts, ends = (edges == 1).nonzero()[:, 0].tolist(), ((edges == -1).nonzero()[:, 0] - 1).tolist()
    weight = mask.new_zeros(mask.shape[-1])
    rise = torch.linspace(0, 1, FADE, device=mask.device)
    previous = None
    for start, end in zip(starts, ends, strict=True):
        if end - start <= SHORTEST:
            continue
        if previous is not None and start - previous < FADE:
            start = previous - 2 * FADE  # noqa: PLW2901
        if start == first:
            start -= FADE
        else:
            weight[start : start + FADE] = rise
        weight[end - FADE : end] = rise.flip(0)
        weight[start + FADE : end - FADE] = 1
        previous = end
    return mask + weight * (1 - mask)

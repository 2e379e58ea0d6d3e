"""Multichannel Wiener filter in one step, with one spatial covariance per stem and bin for all frames.

As `wiener`, but without regularisation: the mix's covariance is inverted as it is, or by its pseudo-inverse
where it is singular. Reference: Sony's ai-research-code, d3net/music-source-separation, filter.py.

Legend: `B` batch, `S` stems, `C` channels, `F` bins.
"""

import torch
from torch import Tensor

EPSILON = 1e-10  # of a stem's greatest power, added to all; and the least determinant of a regular matrix
TINY = 2.0**-52


def pooled_wiener(stems: Tensor, mix: Tensor) -> Tensor:
    """Separate a mix by estimates of its stems.

    Args:
        stems: complex [B, S, 2, F, frames].
        mix: complex [B, 2, F, frames].

    Returns:
        complex [B, S, 2, F, frames].
    """
    y, x = stems.to(torch.complex128), mix.to(torch.complex128)
    power = y.abs().square().mean(2)  # [B, S, F, frames]
    power = power + EPSILON * power.amax((2, 3), keepdim=True)
    covariance = torch.einsum("bscft,bsdft->bsfcd", y, y.conj())
    covariance = covariance / (power.sum(3) + TINY)[..., None, None]  # [B, S, F, 2, 2]
    total = torch.einsum("bsft,bsfcd->bftcd", power.to(y.dtype), covariance)
    white = torch.einsum("bftcd,bdft->bcft", _inverse(total), x)  # [B, 2, F, frames]
    found = power[:, :, None] * torch.einsum("bsfcd,bdft->bscft", covariance, white)
    return found.to(stems.dtype)


def _inverse(matrix: Tensor) -> Tensor:
    """Return inverses of Hermitian matrices [..., 2, 2], or their pseudo-inverses (of rank 1) if singular."""
    a, b, c, d = (matrix[..., i, j] for i in (0, 1) for j in (0, 1))
    determinant = a * d - b * c
    regular = determinant.abs() >= EPSILON
    adjugate = torch.stack([torch.stack([d, -b], -1), torch.stack([-c, a], -1)], -2)
    inverse = adjugate / torch.where(regular, determinant, 1)[..., None, None]
    pseudo = matrix.mH / (matrix.abs().square().sum((-2, -1)) + TINY)[..., None, None]
    return torch.where(regular[..., None, None], inverse, pseudo)

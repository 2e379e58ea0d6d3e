"""Layers that split a spectrogram into overlapping bands and estimate masks from them, as in Bandit.

Legend: `N` batch times channels, `F` bins, `width` of a band's features.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from stemsplit.models.blocks.bands import Table
from stemsplit.models.blocks.filterbanks import Filterbank


class BandSplit(nn.Module):
    """Normalise every band and bring it to one width, by layers of its own.

    Args:
        table: the bands.
        width: of a band's features.
        combined: checkpoints number the layers in a module of that name, rather than name each.
        parts_first: a band's features are all real parts, then all imaginary parts, rather than bin by bin.
    """

    def __init__(self, table: Table, width: int, combined: bool, parts_first: bool) -> None:
        super().__init__()
        self.parts_first = parts_first
        self.slices = [slice(band.start, band.stop) for band in table]
        layers = ((nn.LayerNorm(2 * len(band)), nn.Linear(2 * len(band), width)) for band in table)
        self.norm_fc_modules = nn.ModuleList(
            nn.Sequential(
                OrderedDict(combined=nn.Sequential(norm, fc)) if combined else OrderedDict(norm=norm, fc=fc)
            )
            for norm, fc in layers
        )

    def forward(self, z: Tensor) -> Tensor:
        """Complex [N, F, frames] -> [N, bands, frames, width]."""
        bins = torch.view_as_real(z).transpose(1, 2)  # [N, frames, F, 2]
        bands = (bins[:, :, s] for s in self.slices)
        ordered = (band.transpose(2, 3) if self.parts_first else band for band in bands)
        features = [
            layer(band.flatten(2))  # [N, frames, 2·band] -> [N, frames, width]
            for layer, band in zip(self.norm_fc_modules, ordered, strict=True)
        ]
        return torch.stack(features, dim=1)  # [N, bands, frames, width]


class MaskMLP(nn.Module):
    """Mask of one band.

    Args:
        width: of a band's features.
        hidden: width of the hidden layer.
        bins: of the band.
        combined: checkpoints hold every tensor also under a second name.
        additive: a second output layer estimates what is added to the masked band.
    """

    def __init__(self, width: int, hidden: int, bins: int, combined: bool, additive: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.Sequential(nn.Linear(width, hidden), nn.Tanh())
        self.output = nn.Sequential(nn.Linear(hidden, 4 * bins), nn.GLU(dim=-1))
        if additive:
            self.output2 = nn.Sequential(nn.Linear(hidden, 4 * bins), nn.GLU(dim=-1))
        self.additive = additive
        if combined:
            self.combined = nn.Sequential(self.norm, self.hidden, self.output)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., bins, 2], real and imaginary part; if additive [..., bins, 4], both masks."""
        hidden = self.hidden(self.norm(x))
        y: Tensor = self.output(hidden).unflatten(-1, (-1, 2))  # [..., bins, 2]
        if not self.additive:
            return y
        return torch.cat([y, self.output2(hidden).view_as(y)], dim=-1)  # [..., bins, 4]


class MaskEstimator(nn.Module):
    """Mask of one stem: a weighted sum of the masks of all bands that a bin lies in.

    Args:
        bank: the bands and their shares.
        bins: F; those that no band has are masked with zeros.
        width: of a band's features.
        hidden: width of the mask MLPs' hidden layer.
        combined: as for `MaskMLP`.
        additive: as for `MaskMLP`.
    """

    def __init__(
        self, bank: Filterbank, bins: int, width: int, hidden: int, *, combined: bool, additive: bool
    ) -> None:
        super().__init__()
        self.table, self.bins = bank.table, bins
        self.norm_mlp = nn.ModuleList(
            MaskMLP(width, hidden, len(band), combined, additive) for band in self.table
        )
        self.weighted = bank.shares is not None
        for i, share in enumerate(bank.shares or ()):
            self.register_buffer(f"freq_weights/{i}", torch.tensor(share))

    def forward(self, x: Tensor) -> Tensor:
        """[N, bands, frames, width] -> complex [masks, N, F, frames], a factor and perhaps a summand."""
        by_band = torch.cat(
            [
                self._weigh(layer(band).float(), i)  # [N, frames, band, masks·2]
                for i, (layer, band) in enumerate(zip(self.norm_mlp, x.unbind(1), strict=True))
            ],
            dim=2,
        )  # [N, frames, Σ band, masks·2]
        bins = torch.tensor([k for band in self.table for k in band], device=x.device)
        mask = by_band.new_zeros(*by_band.shape[:2], self.bins, by_band.shape[-1]).index_add(2, bins, by_band)
        parts = mask.unflatten(-1, (-1, 2))  # [N, frames, F, masks, 2]
        return torch.view_as_complex(parts).permute(3, 0, 2, 1)  # [masks, N, F, frames]

    def _weigh(self, mask: Tensor, band: int) -> Tensor:
        return mask * self.get_buffer(f"freq_weights/{band}").float()[:, None] if self.weighted else mask

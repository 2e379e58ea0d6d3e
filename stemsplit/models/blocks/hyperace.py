"""HyperACE: an image network over frames and bands that adds a second mask to the one of the bands' MLPs.

The network is that of YOLOv13 (Lei et al. 2025, arXiv 2506.17733, section 3): a backbone of five scales,
hypergraphs that relate distant places of all scales (hypergraph-based adaptive correlation enhancement), and
a decoder that their result guides. Here a head of four steps then spreads the bands to bins. Names of layers
are those of the released checkpoints (pcunwa/BS-Roformer-HyperACE).

All normalisations take their statistics over the whole chunk, so that the masks depend on its length. The
strides of version 1 aren't certain: its weights fit both those of version 2 and the ones used here, and
public programs differ.

Legend: `B` batch, `C` channels of features, `F` bins.
"""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn

from stemsplit.errors import StemsplitError
from stemsplit.models.blocks.bands import MaskEstimator, Table
from stemsplit.models.blocks.hyperace_layers import (
    CrossStage,
    HypergraphStage,
    Norm,
    Pointwise,
    Separable,
    Size,
    Stage,
    resize,
)
from stemsplit.models.blocks.tfc_tdf import TfcTdf

STEM = 64  # channels of the first scale
WIDTHS = (256, 384, 512, 768)  # of the next four
HIGH, LOW = 256, 128  # channels of the third scale that the hypergraphs see, and that convolutions see
BOTTLENECK = 4  # of the linear layers along bins


class Version(NamedTuple):
    """Differences between the released versions.

    Attributes:
        edges: hyperedges of a hypergraph.
        high: number of hypergraphs.
        low: number of convolutional stages beside them.
        stride: step from the third to the fourth scale and on to the fifth, in frames and bands.
        head: channels after each step of the head.
        refined: residual blocks follow each step, and the last convolution sees its neighbours.
    """

    edges: int
    high: int
    low: int
    stride: Size
    head: tuple[int, int, int, int]
    refined: bool


V1 = Version(edges=16, high=3, low=2, stride=(2, 1), head=(256, 128, 128, 64), refined=False)
V2 = Version(edges=32, high=2, low=1, stride=(2, 2), head=(128, 64, 32, 16), refined=True)


class Backbone(nn.Module):
    """Five scales, the first three of them finer along frames only.

    Args:
        width: channels of the input.
        stride: step to the fourth and the fifth scale.
    """

    def __init__(self, width: int, stride: Size) -> None:
        super().__init__()
        c2, c3, c4, c5 = WIDTHS
        self.stem = Separable(width, STEM, (2, 1))
        self.p2 = nn.Sequential(Separable(STEM, c2, (2, 1)), Stage(c2, c2, 2))
        self.p3 = nn.Sequential(Separable(c2, c3, (2, 1)), Stage(c3, c3, 4))
        self.p4 = nn.Sequential(Separable(c3, c4, stride), Stage(c4, c4, 4))
        self.p5 = nn.Sequential(Separable(c4, c5, stride), Stage(c5, c5, 2))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, C, frames, bands] -> the last four scales, [B, C', frames', bands'] each."""
        y, scales = self.stem(x), []
        for step in (self.p2, self.p3, self.p4, self.p5):
            y = step(y)
            scales.append(y)
        return scales


class Correlation(nn.Module):
    """All scales at the size of the third, with hypergraphs, convolutions and nothing on parts of them."""

    def __init__(self, version: Version) -> None:
        super().__init__()
        width = WIDTHS[2]
        self.fuse_conv = Pointwise(sum(WIDTHS), width)
        self.high_order_branch = nn.ModuleList(
            HypergraphStage(HIGH, version.edges) for _ in range(version.high)
        )
        self.high_order_fuse = Pointwise(HIGH * version.high, HIGH)
        self.low_order_branch = nn.Sequential(*(CrossStage(LOW, 1) for _ in range(version.low)))
        self.final_fuse = Pointwise(width, width)

    def forward(self, scales: list[Tensor]) -> Tensor:
        """[B, C, frames, bands] per scale -> [B, C', frames, bands] of the third."""
        size = scales[2].shape[2], scales[2].shape[3]
        x = self.fuse_conv(torch.cat([resize(scale, size) for scale in scales], dim=1))
        high, low, rest = x.split([HIGH, LOW, x.shape[1] - HIGH - LOW], dim=1)
        high = self.high_order_fuse(torch.cat([branch(high) for branch in self.high_order_branch], dim=1))
        y: Tensor = self.final_fuse(torch.cat([high, self.low_order_branch(low), rest], dim=1))
        return y


class Gate(nn.Module):
    """Sum of two images, the second one weighted per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """[B, C, frames, bands], [B, C, frames, bands] -> [B, C, frames, bands]."""
        return torch.addcmul(x, self.gamma, y)


class Decoder(nn.Module):
    """Step up from the last scale to the first of four; the correlations are added at each of them."""

    def __init__(self) -> None:
        super().__init__()
        for name, width in zip("2345", WIDTHS, strict=True):
            self.add_module(f"h_to_d{name}", Pointwise(WIDTHS[2], width))
            self.add_module(f"fusion_d{name}", Gate(width))
            self.add_module(f"skip_p{name}", Pointwise(width, width))
        for name, below, width in zip("543", WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True):
            self.add_module(f"up_d{name}", Stage(below, width, 1))
        self.final_d2 = Stage(WIDTHS[0], WIDTHS[0], 1)

    def forward(self, scales: list[Tensor], correlations: Tensor) -> Tensor:
        """[B, C, frames, bands] per scale, [B, C', frames', bands'] -> like the first of the scales."""
        y = self._guided("5", self.get_submodule("skip_p5")(scales[3]), correlations)
        for below, name, scale in zip("543", "432", scales[2::-1], strict=True):
            size = scale.shape[2], scale.shape[3]
            up = self.get_submodule(f"up_d{below}")(y, size)
            y = self._guided(name, up + self.get_submodule(f"skip_p{name}")(scale), correlations)
        out: Tensor = self.final_d2(y)
        return out

    def _guided(self, name: str, x: Tensor, correlations: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, C, frames, bands]."""
        size = x.shape[2], x.shape[3]
        guide = self.get_submodule(f"h_to_d{name}")(correlations, size)
        y: Tensor = self.get_submodule(f"fusion_d{name}")(x, guide)
        return y


class Spread(nn.Module):
    """Twice the bands, from pairs of channels; residual blocks follow if `refined`.

    Args:
        channels: of the input.
        out: channels of the output.
        bands: of the output.
        refined: add the blocks.
    """

    def __init__(self, channels: int, out: int, bands: int, refined: bool) -> None:
        super().__init__()
        self.conv = Separable(channels, 2 * out)
        blocks = [TfcTdf(out, out, bands, BOTTLENECK, _before) for _ in range(2 if refined else 0)]
        self.out_conv = nn.Sequential(OrderedDict(blocks=nn.Sequential(*blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands / 2] -> [B, C', frames, bands]."""
        pairs = self.conv(x).unflatten(1, (-1, 2))  # [B, C', 2, frames, bands / 2]
        y: Tensor = self.out_conv(pairs.permute(0, 1, 3, 4, 2).flatten(3))
        return y


def _before(channels: int, layer: nn.Module) -> list[nn.Module]:
    return [Norm(channels), nn.SiLU(inplace=True), layer]


class Head(nn.Module):
    """Sixteen times the bands in four steps, then resized to the bins.

    Args:
        version: of the network.
        bands: of the input.
        bins: of the output.
        parts: channels of the output.
    """

    def __init__(self, version: Version, bands: int, bins: int, parts: int) -> None:
        super().__init__()
        self.bins, channels = bins, WIDTHS[0]
        for step, width in enumerate(version.head, start=1):
            self.add_module(f"block{step}", Spread(channels, width, bands * 2**step, version.refined))
            channels = width
        kernel = 3 if version.refined else 1
        self.final_conv = nn.Conv2d(channels, parts, kernel, padding=kernel // 2, bias=False)
        # Random layers amplify rounding a thousandfold: training begins near the masks of the bands' MLPs
        nn.init.normal_(self.final_conv.weight, std=1e-4)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, parts, frames, F]."""
        for step in ("block1", "block2", "block3", "block4"):
            x = self.get_submodule(step)(x)
        size = x.shape[2], self.bins
        if self.final_conv.kernel_size == (1, 1):  # commutes with resizing, and leaves less to resize
            return resize(self.final_conv(x), size)
        y: Tensor = self.final_conv(resize(x, size))
        return y


class ImageNetwork(nn.Module):
    """Backbone, correlation of the scales, decoder and head.

    Args:
        version: of the network.
        width: channels of the input.
        bands: of the input, two at least.
        bins: of the output.
        parts: channels of the output.

    Raises:
        StemsplitError: there are too few bands.
    """

    def __init__(self, version: Version, width: int, bands: int, bins: int, parts: int) -> None:
        super().__init__()
        if bands < 2:
            raise StemsplitError(f"{bands} band: HyperACE needs two at least")
        self.backbone = Backbone(width, version.stride)
        self.hyperace = Correlation(version)
        self.decoder = Decoder()
        self.upsample_head = Head(version, bands, bins, parts)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, parts, frames, F]."""
        scales = self.backbone(x)
        y = self.decoder(scales, self.hyperace(scales))  # [B, C', frames / 4, bands]
        out: Tensor = self.upsample_head(resize(y, (x.shape[2], y.shape[3])))
        return out


class HyperaceMaskEstimator(MaskEstimator):
    """The plain estimator and the image network; their masks are added.

    Args:
        version: of the image network.
        table: the bands, adjacent.
        parts: numbers per bin.
        width: of a band's features.
        hidden: width of the plain estimator's hidden layers.
        depth: number of its hidden layers.
    """

    def __init__(
        self, version: Version, table: Table, parts: int, width: int, hidden: int, depth: int
    ) -> None:
        super().__init__(table, parts, width, hidden, depth)
        self.segm = ImageNetwork(version, width, len(table), table[-1].stop, parts)

    def forward(self, x: Tensor) -> Tensor:
        """[B, frames, bands, width] -> [B, frames, F·parts]."""
        image = self.segm(x.permute(0, 3, 1, 2))  # [B, parts, frames, F]
        y: Tensor = super().forward(x) + image.permute(0, 2, 3, 1).flatten(2)
        return y

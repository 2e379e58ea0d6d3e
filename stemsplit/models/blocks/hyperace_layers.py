"""Layers of the image network HyperACE: convolutions, stages of them and hypergraphs.

YOLOv13 (Lei et al. 2025, arXiv 2506.17733, sections 3.2 and 3.4). Names of layers are those of the released
checkpoints. All normalisations are over the whole image.

Legend: `B` batch, `C` channels of features, `E` hyperedges, `N` places of an image.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8  # of a hypergraph

Size = tuple[int, int]  # frames and bands


def resize(x: Tensor, size: Size) -> Tensor:
    """Interpolate bilinearly: [B, C, frames, bands] -> [B, C, *size]."""
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


class Norm(nn.GroupNorm):
    """Normalisation of each channel over frames and bands; unlike PyTorch's, it takes a single place.

    On channels-last input, PyTorch's kernel loses another 10 dB to rounding and isn't faster.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]."""
        return torch.group_norm(x.contiguous(), self.num_groups, self.weight, self.bias, self.eps)


class Pointwise(nn.Module):
    """Convolution of one place, normalisation and SiLU."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1, bias=False)
        self.bn = Norm(out)

    def forward(self, x: Tensor, size: Size | None = None) -> Tensor:
        """Apply the layers to the image enlarged to `size`: [B, C, frames, bands] -> [B, C', *size].

        The convolution comes first, for it commutes with interpolation and has fewer places before it.
        """
        y = self.conv(x)
        return F.silu(self.bn(y if size is None else resize(y, size)), inplace=True)


class Separable(nn.Module):
    """Depthwise convolution 3×3, convolution of one place, normalisation and SiLU."""

    def __init__(self, channels: int, out: int, stride: Size = (1, 1)) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        self.pwconv = nn.Conv2d(channels, out, 1, bias=False)
        self.bn = Norm(out)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, C', frames / stride, bands / stride], rounded up."""
        return F.silu(self.bn(self.pwconv(self.dwconv(x))), inplace=True)


class Residual(nn.Module):
    """Two separable convolutions, added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dsconv1 = Separable(channels, channels)
        self.dsconv2 = Separable(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, C, frames, bands]."""
        y: Tensor = x + self.dsconv2(self.dsconv1(x))
        return y


class CrossStage(nn.Module):
    """Residual layers on one projection of the input, joined with another projection."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.cv1 = Pointwise(channels, channels)
        self.cv2 = Pointwise(channels, channels)
        self.cv3 = Pointwise(2 * channels, channels)
        self.m = nn.Sequential(*(Residual(channels) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, C, frames, bands]."""
        y: Tensor = self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], dim=1))
        return y


class Stage(nn.Module):
    """Cross stage on half of the output's channels."""

    def __init__(self, channels: int, out: int, depth: int) -> None:
        super().__init__()
        self.cv1 = Pointwise(channels, out // 2)
        self.m = CrossStage(out // 2, depth)
        self.cv2 = Pointwise(out // 2, out)

    def forward(self, x: Tensor, size: Size | None = None) -> Tensor:
        """Apply the stage to the image enlarged to `size`: [B, C, frames, bands] -> [B, C', *size]."""
        y: Tensor = self.cv2(self.m(self.cv1(x, size)))
        return y


class Membership(nn.Module):
    """Soft membership of every place in each hyperedge, whose prototypes depend on the image.

    The average over heads of the products of their queries and prototypes is the product over all channels,
    divided by the number of heads.
    """

    def __init__(self, channels: int, edges: int) -> None:
        super().__init__()
        self.scale = (channels // HEADS) ** -0.5 / HEADS
        self.global_proto = nn.Parameter(torch.empty(edges, channels))
        nn.init.xavier_uniform_(self.global_proto)
        self.context_mapper = nn.Linear(2 * channels, edges * channels, bias=False)
        self.query_proj = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, N, C] -> [B, E, N], the places of an edge adding up to 1."""
        context = self.context_mapper(torch.cat([x.mean(dim=1), x.amax(dim=1)], dim=-1))  # [B, E·C]
        prototypes = self.global_proto + context.unflatten(-1, self.global_proto.shape)  # [B, E, C]
        return torch.softmax(self.scale * prototypes @ self.query_proj(x).mT, dim=-1)  # [B, E, N]


class HypergraphConvolution(nn.Module):
    """Gather the places of every hyperedge, and add to every place what its hyperedges have gathered."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.W_e = nn.Linear(channels, channels, bias=False)
        self.W_v = nn.Linear(channels, channels, bias=False)

    def forward(self, x: Tensor, membership: Tensor) -> Tensor:
        """[B, N, C], [B, E, N] -> [B, N, C]."""
        edges = F.silu(self.W_e(membership @ x))  # [B, E, C]
        return x + F.silu(membership.mT @ self.W_v(edges))  # mapped before it is spread: N is larger than E


class Hypergraph(nn.Module):
    """Hypergraph over all places of an image."""

    def __init__(self, channels: int, edges: int) -> None:
        super().__init__()
        self.adaptive_hyperedge_gen = Membership(channels, edges)
        self.hypergraph_conv = HypergraphConvolution(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, C, frames, bands]."""
        places = x.flatten(2).mT  # [B, N, C]
        y: Tensor = self.hypergraph_conv(places, self.adaptive_hyperedge_gen(places))
        return y.mT.reshape(x.shape)


class HypergraphStage(nn.Module):
    """Hypergraph on one projection of the input, joined with another projection."""

    def __init__(self, channels: int, edges: int) -> None:
        super().__init__()
        self.cv1 = Pointwise(channels, channels)
        self.cv2 = Pointwise(channels, channels)
        self.ahc = Hypergraph(channels, edges)
        self.cv3 = Pointwise(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, bands] -> [B, C, frames, bands]."""
        y: Tensor = self.cv3(torch.cat([self.ahc(self.cv2(x)), self.cv1(x)], dim=1))
        return y

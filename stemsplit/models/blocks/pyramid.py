"""U-Nets around an atrous spatial pyramid (Chen et al. 2017), as the VR networks cascade them.

Keys are those of the released checkpoints. Legend: `B` batch, `C` channels, `F` bins.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

DILATIONS = (4, 8, 16)  # of the pyramid of v5
DILATIONS_V51 = ((4, 2), (8, 4), (12, 6))  # bins, frames


class ConvNorm(nn.Module):
    """Convolution, batch normalisation, activation.

    Args:
        channels: of the input.
        out: of the output.
        kernel: bins and frames, an odd number.
        stride: of the convolution.
        dilation: of the convolution.
        leaky: LeakyReLU rather than ReLU.
        separable: a depthwise convolution, then a pointwise one.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        kernel: int = 3,
        *,
        stride: int = 1,
        dilation: int | tuple[int, int] = 1,
        leaky: bool = False,
        separable: bool = False,
    ) -> None:
        super().__init__()
        rows, columns = (dilation, dilation) if isinstance(dilation, int) else dilation
        padding = (rows * (kernel // 2), columns * (kernel // 2))
        width, groups = (channels, channels) if separable else (out, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(channels, width, kernel, stride, padding, (rows, columns), groups, bias=False),
            *([nn.Conv2d(channels, out, 1, bias=False)] if separable else []),
            nn.BatchNorm2d(out),
            nn.LeakyReLU(inplace=True) if leaky else nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, C', F', frames']."""
        y: Tensor = self.conv(x)
        return y

    def fold(self) -> None:
        """Make the normalisation by fixed statistics part of the convolution before it."""
        layers: list[Any] = list(self.conv)
        *before, conv, norm, activation = layers
        self.conv = nn.Sequential(*before, fuse_conv_bn_eval(conv, norm), activation)


class Encoder(nn.Module):
    """Two convolutions, one of which halves bins and frames.

    Args:
        channels: of the input.
        out: of the output.
        strides: of both convolutions.
    """

    def __init__(self, channels: int, out: int, strides: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, out, stride=strides[0], leaky=True)
        self.conv2 = ConvNorm(out, out, stride=strides[1], leaky=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, C, F, frames] -> the output of both convolutions, and of the first one."""
        first = self.conv1(x)
        return self.conv2(first), first


class Decoder(nn.Module):
    """Twice as many bins and frames, by interpolation, then a convolution over them and the encoder's output.

    Args:
        channels: of both inputs together.
        out: of the output.
        name: of the convolution in checkpoints.
    """

    def __init__(self, channels: int, out: int, name: str) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, ConvNorm(channels, out))

    def forward(self, x: Tensor, skip: Tensor, margin: int = 0) -> Tensor:
        """Step up one scale.

        Args:
            x: [B, C, F/2, frames/2].
            skip: [B, C', F, frames].
            margin: frames at both ends that aren't computed.

        Returns:
            [B, C″, F, frames − 2·margin].
        """
        y = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
        y = torch.cat([y, skip], dim=1)
        conv = self.get_submodule(self.name)
        if margin < 2:
            out: Tensor = conv(y)
            return out[..., margin : out.shape[-1] - margin]
        out = conv(y[..., margin - 1 : 1 - margin])  # one frame more for the kernel
        return out[..., 1:-1]


class Pyramid(nn.Module):
    """Views of an input at several scales, side by side: its mean over frequency, and convolutions.

    Args:
        width: channels of the input and of each branch.
        branches: the convolutions; one that occurs twice is computed once.
        bottleneck: from all branches to the output.
    """

    def __init__(self, width: int, branches: Sequence[ConvNorm], bottleneck: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.AdaptiveAvgPool2d((1, None)), ConvNorm(width, width, 1))
        self.names = [f"conv{i}" for i, _ in enumerate(branches, 2)]
        for name, branch in zip(self.names, branches, strict=True):
            self.add_module(name, branch)
        self.bottleneck = bottleneck
        self.dropout = nn.Dropout2d(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, C', F, frames]."""
        branches = [self.get_submodule(name) for name in self.names]
        views = {branch: branch(x) for branch in dict.fromkeys(branches)}
        mean = self.conv1(x).expand(-1, -1, x.shape[2], -1)  # [B, C, F, frames]
        y: Tensor = self.dropout(self.bottleneck(torch.cat([mean, *(views[b] for b in branches)], dim=1)))
        return y


class UNet(nn.Module):
    """The U-Net of v5: encoders, pyramid, decoders.

    Args:
        channels: of the input.
        out: of the output; twice as many at each further scale.
        depth: number of scales.
        layers: of the pyramid, 5 to 7. The sixth and the seventh are one.
    """

    def __init__(self, channels: int, out: int, depth: int, layers: int) -> None:
        super().__init__()
        self.depth = depth
        widths = [channels, *(out * 2**i for i in range(depth))]
        for i in range(1, depth + 1):
            self.add_module(f"enc{i}", Encoder(widths[i - 1], widths[i], (1, 2)))
        deepest = widths[-1]
        branches = [ConvNorm(deepest, deepest, 1)]
        branches += [ConvNorm(deepest, deepest, dilation=d, separable=True) for d in DILATIONS]
        extra = ConvNorm(deepest, deepest, dilation=DILATIONS[-1], separable=True)
        branches += [extra] * (layers - 5)
        self.aspp = Pyramid(deepest, branches, nn.Sequential(ConvNorm(layers * deepest, 2 * deepest, 1)))
        for i in range(depth, 0, -1):
            self.add_module(f"dec{i}", Decoder(3 * widths[i], widths[i], "conv"))

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """[B, C, F, frames] -> [B, C', F, frames − 2·margin]."""
        skips = []
        for i in range(1, self.depth + 1):
            x, skip = self.get_submodule(f"enc{i}")(x)
            skips.append(skip)
        x = self.aspp(x)
        for i in range(self.depth, 0, -1):
            x = self.get_submodule(f"dec{i}")(x, skips[i - 1], margin if i == 1 else 0)
        return x


class Recurrent(nn.Module):
    """One more channel from a bidirectional LSTM over frames, whose features are the bins.

    Args:
        channels: of the input.
        bins: of input and output.
        hidden: width of both directions together.
    """

    def __init__(self, channels: int, bins: int, hidden: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, 1, 1)
        self.lstm = nn.LSTM(bins, hidden // 2, bidirectional=True)
        self.dense = nn.Sequential(nn.Linear(hidden, bins), nn.BatchNorm1d(bins), nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, frames] -> [B, 1, F, frames]."""
        y = self.conv(x)[:, 0].permute(2, 0, 1)  # [frames, B, F]
        y, _ = self.lstm(y)
        y = self.dense(y.flatten(0, 1)).unflatten(0, y.shape[:2])  # [frames, B, F]
        out: Tensor = y.permute(1, 2, 0)[:, None]
        return out


class RecurrentUNet(nn.Module):
    """The U-Net of v5.1, with an LSTM at the second scale.

    Args:
        channels: of the input.
        out: of the output; 2, 4, 6 and 8 times as many at the further scales.
        bins: at the second scale.
        hidden: width of the LSTM, both directions together.
    """

    def __init__(self, channels: int, out: int, bins: int, hidden: int) -> None:
        super().__init__()
        widths = [out * factor for factor in (1, 2, 4, 6, 8)]
        self.enc1 = ConvNorm(channels, out)
        self.enc2 = Encoder(widths[0], widths[1], (2, 1))
        self.enc3 = Encoder(widths[1], widths[2], (2, 1))
        self.enc4 = Encoder(widths[2], widths[3], (2, 1))
        self.enc5 = Encoder(widths[3], widths[4], (2, 1))
        deepest = widths[4]
        branches = [ConvNorm(deepest, deepest, 1)]
        branches += [ConvNorm(deepest, deepest, dilation=d) for d in DILATIONS_V51]
        self.aspp = Pyramid(deepest, branches, ConvNorm(5 * deepest, deepest, 1))
        self.dec4 = Decoder(widths[3] + widths[4], widths[3], "conv1")
        self.dec3 = Decoder(widths[2] + widths[3], widths[2], "conv1")
        self.dec2 = Decoder(widths[1] + widths[2], widths[1], "conv1")
        self.lstm_dec2 = Recurrent(widths[1], bins, hidden)
        self.dec1 = Decoder(widths[0] + widths[1] + 1, out, "conv1")

    def forward(self, x: Tensor, margin: int = 0) -> Tensor:
        """[B, C, F, frames] -> [B, C', F, frames − 2·margin]."""
        first = self.enc1(x)
        second, _ = self.enc2(first)
        third, _ = self.enc3(second)
        fourth, _ = self.enc4(third)
        fifth, _ = self.enc5(fourth)
        y = self.dec4(self.aspp(fifth), fourth)
        y = self.dec2(self.dec3(y, third), second)
        y = torch.cat([y, self.lstm_dec2(y)], dim=1)
        out: Tensor = self.dec1(y, first, margin)
        return out

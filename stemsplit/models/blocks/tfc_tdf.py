"""Time-frequency convolutions (TFC) around linear layers along frequency (TDF).

Choi et al., "Investigating U-Nets with Various Intermediate Blocks for Spectrogram-based Singing Voice
Separation", 2020; in the pre-activation form of TFC-TDF v3 (Kim, Lee and Jung 2023, section 2).

Legend: `B` batch, `C` channels of features, `F` bins.
"""

from collections.abc import Callable

from torch import Tensor, nn

# (channels, layer) -> the layers normalisation, activation, `layer`
PreActivation = Callable[[int, nn.Module], list[nn.Module]]


class TfcTdf(nn.Module):
    """Residual block: convolution, linear layers along frequency added to it, convolution.

    Args:
        channels: of the input.
        out: channels of the output.
        bins: of input and output.
        bottleneck: the linear layers are this many times narrower between them.
        before: puts normalisation and activation before a layer.
    """

    def __init__(self, channels: int, out: int, bins: int, bottleneck: int, before: PreActivation) -> None:
        super().__init__()

        def convolution(width: int) -> nn.Module:
            return nn.Conv2d(width, out, 3, padding=1, bias=False)

        def linear(width: int, to: int) -> nn.Module:
            return nn.Linear(width, to, bias=False)

        narrow = bins // bottleneck
        self.tfc1 = nn.Sequential(*before(channels, convolution(channels)))
        self.tdf = nn.Sequential(*before(out, linear(bins, narrow)), *before(out, linear(narrow, bins)))
        self.tfc2 = nn.Sequential(*before(out, convolution(out)))
        self.shortcut = nn.Conv2d(channels, out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, frames, F] -> [B, C', frames, F]."""
        y = self.tfc1(x)
        y = y + self.tdf(y)
        out: Tensor = self.tfc2(y) + self.shortcut(x)
        return out

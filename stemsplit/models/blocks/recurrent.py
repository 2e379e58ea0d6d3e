"""Recurrent layers over time.

Legend: `B` batch, `C` channels, `T` steps in time.
"""

import torch
from torch import Tensor, nn


class BLSTM(nn.Module):
    """A bidirectional LSTM and a linear layer back to its input's width.

    A span limits its receptive field to that many steps (Hybrid Demucs, "Compressed residual branches"): it
    runs over frames of `span` steps that overlap by half, and takes every step from the frame in which it
    lies furthest from the edge.

    Args:
        channels: of the input, of each direction's state and of the output.
        layers: stacked LSTM layers.
        span: steps per frame, a multiple of four; None runs over the whole input.
        skip: add the input to the output.
    """

    def __init__(self, channels: int, layers: int = 1, span: int | None = None, skip: bool = False) -> None:
        super().__init__()
        self.span = span
        self.skip = skip
        self.lstm = nn.LSTM(channels, channels, num_layers=layers, bidirectional=True)
        self.linear = nn.Linear(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T] -> [B, C, T]."""
        if self.span is None or x.shape[-1] <= self.span:
            y = self._run(x)
        else:
            frames = overlapping_frames(x, self.span)  # [B, N, C, span], run as [B·N, C, span]
            y = join_frames(self._run(frames.flatten(0, 1)).view_as(frames), x.shape[-1])  # [B, C, T]
        return x + y if self.skip else y

    def _run(self, x: Tensor) -> Tensor:
        """Run the LSTM over the whole input: [B, C, T] -> [B, C, T]."""
        hidden, _ = self.lstm(x.permute(2, 0, 1))  # over [T, B, C]: [T, B, 2C]
        y: Tensor = self.linear(hidden)
        return y.permute(1, 2, 0)  # [B, C, T]


def overlapping_frames(x: Tensor, width: int) -> Tensor:
    """Cut into frames of `width` steps, one every half width, with zeros after the end.

    Args:
        x: [B, C, T], T > width.
        width: steps per frame, even.

    Returns:
        [B, ⌈T / (width/2)⌉, C, width].
    """
    stride = width // 2
    count = -(-x.shape[-1] // stride)
    padded = nn.functional.pad(x, (0, (count - 1) * stride + width - x.shape[-1]))
    return padded.unfold(-1, width, stride).permute(0, 2, 1, 3)  # [B, C, N, width] -> [B, N, C, width]


def join_frames(frames: Tensor, length: int) -> Tensor:
    """Undo `overlapping_frames`, with the middle half of every frame and the two outermost quarters.

    Args:
        frames: [B, N, C, width], N ≥ 2.
        length: T, steps of the result.

    Returns:
        [B, C, T].
    """
    quarter = frames.shape[-1] // 4
    first, last = frames[:, 0, :, :-quarter], frames[:, -1, :, quarter:]
    middle = frames[:, 1:-1, :, quarter:-quarter].transpose(1, 2).flatten(2)  # [B, C, (N − 2)·width/2]
    return torch.cat([first, middle, last], dim=-1)[..., :length]  # [B, C, T]

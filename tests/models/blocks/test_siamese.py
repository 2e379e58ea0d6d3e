"""The two streams of siamese transformers, step by step."""

from typing import Any

import torch
from torch import nn

from stemsplit.models.blocks.rotary import Shape
from stemsplit.models.blocks.siamese import SiameseBlocks

SHAPE = Shape(width=6, heads=2, head_width=4)


@torch.inference_mode()
def test_streams_follow_their_formulas() -> None:
    blocks, norm, z = SiameseBlocks(SHAPE, 2, (2, 1)), nn.LayerNorm(6), torch.randn(1, 3, 4, 6)
    for parameter in blocks.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    x, y, number = z, z, 0
    for pair in blocks:
        transformers: Any = pair
        for along_time, t in zip((True, False), transformers, strict=True):
            for i, (attention, feed_forward) in enumerate(t.layers):
                number += 1
                factor = 1 + number**-0.5
                rows = x * t.y_attn[i] + t.ln_y_attn[i](y)
                if along_time:
                    out = torch.stack([attention(rows[:, :, band]) for band in range(4)], dim=2)
                else:
                    out = torch.stack([attention(rows[:, frame]) for frame in range(3)], dim=1)
                y = y + out
                x = t.ln_x_attn[i](x + factor * out)
                out = feed_forward(x + t.ln_y_mlp[i](y))
                y = y + out
                x = t.ln_x_mlp[i](x + factor * out)
    assert number == 6
    torch.testing.assert_close(blocks(z, norm), x + norm(y), rtol=1e-4, atol=1e-5)

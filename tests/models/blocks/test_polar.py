"""Polar attention against its formulas."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.models.blocks.polar import Polar, PolarAttention
from stemsplit.models.blocks.rotary import Shape

SHAPE = Shape(width=10, heads=3, head_width=4)


def attention() -> PolarAttention:
    polar = Polar(SHAPE.head_width, SHAPE.heads)
    with torch.no_grad():
        polar.bias.uniform_(-8, 2)  # beyond both ends of what counts
    return PolarAttention(SHAPE, polar).double()


def by_hand(attention: PolarAttention, x: Tensor) -> Tensor:
    """One head and one query at a time: scores are Σ |q| |k| cos(angle of q − angle of k)."""
    normed = x / x.norm(dim=-1, keepdim=True) * SHAPE.width**0.5 * attention.norm.gamma
    q, k, v = (normed @ attention.to_qkv.weight.T).view(len(x), 3, SHAPE.heads, -1).unbind(1)
    q, k = F.softplus(q), F.softplus(k)
    rates = torch.tensor([10_000.0 ** (-d / SHAPE.head_width) for d in range(SHAPE.head_width)]).double()
    phase = attention.pope_embed.bias.clamp(-2 * math.pi, 0)
    gates = torch.sigmoid(normed @ attention.to_gates.weight.T + attention.to_gates.bias)
    rows = []
    for t in range(len(x)):
        row = []
        for h in range(SHAPE.heads):
            scores = [
                (q[t, h] * k[s, h] * torch.cos((t - s) * rates - phase[h])).sum() for s in range(len(x))
            ]
            weights = torch.softmax(torch.stack(scores) / SHAPE.head_width**0.5, dim=0)
            row.append(gates[t, h] * (weights @ v[:, h]))
        rows.append(torch.cat(row) @ attention.to_out[0].weight.T)
    return torch.stack(rows)


@torch.inference_mode()
def test_attention_follows_its_formulas() -> None:
    layer, x = attention(), torch.randn(2, 7, SHAPE.width, dtype=torch.float64)
    expected = torch.stack([by_hand(layer, row) for row in x])
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-6)  # the angles are in single precision


def test_angles_are_exact_in_a_network_of_half_precision() -> None:
    polar = Polar(64, 8)
    angles, half = polar.angles(1000, torch.device("cpu")), polar.half().angles(1000, torch.device("cpu"))
    assert torch.equal(angles, half) and half.dtype == torch.float32
    assert angles.shape == (1000, 64)


def test_rounded_frequencies_of_a_file_are_not_used() -> None:
    polar = Polar(64, 8)
    exact = polar.state_dict()["inv_freqs"].clone()
    polar.load_state_dict({"bias": torch.zeros(8, 64), "inv_freqs": exact.half()})
    assert torch.equal(polar.state_dict()["inv_freqs"], exact)

"""Rotary attention against its formulas."""

import pytest
import torch
from torch import Tensor

from stemsplit.models.blocks.rotary import (
    Attention,
    LinearAttention,
    RMSNorm,
    Rotary,
    Shape,
    Transformer,
    turn,
)

CPU = torch.device("cpu")


def test_pairs_turn_as_complex_numbers() -> None:
    x = torch.randn(2, 7, 6)
    turned = turn(x, *Rotary(6)(7, CPU))
    rates = torch.tensor([10_000.0 ** (-2 * i / 6) for i in range(3)], dtype=torch.float64)
    angles = torch.arange(7, dtype=torch.float64)[:, None] * rates
    expected = torch.view_as_complex(x.double().view(2, 7, 3, 2)) * torch.polar(
        torch.ones_like(angles), angles
    )
    torch.testing.assert_close(turned.double(), torch.view_as_real(expected).flatten(-2), rtol=0, atol=1e-6)


def test_products_depend_on_the_distance_only() -> None:
    cos, sin = Rotary(8)(50, CPU)
    q, k = torch.randn(8), torch.randn(8)
    turned_q, turned_k = turn(q.expand(50, -1), cos, sin), turn(k.expand(50, -1), cos, sin)
    products = turned_q @ turned_k.T
    for distance in (0, 1, 17):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(products[0, 0], products[0, 10])


def test_angles_are_exact_in_a_network_of_half_precision() -> None:
    rotary = Rotary(64)
    cos, _ = rotary(1000, CPU)
    half, _ = rotary.half()(1000, CPU)
    assert torch.equal(cos, half) and half.dtype == torch.float32


def by_hand(attention: Attention, x: Tensor) -> Tensor:
    """One head and one query at a time, in double precision."""
    heads, width = attention.heads, x.shape[-1]
    inner = attention.to_qkv.out_features // 3
    d = inner // heads
    normed = x / x.norm(dim=-1, keepdim=True) * width**0.5 * attention.norm.gamma
    q, k, v = (normed @ attention.to_qkv.weight.T).split(inner, dim=-1)
    gates = torch.sigmoid(normed @ attention.to_gates.weight.T + attention.to_gates.bias)
    cos, sin = (part.double() for part in Rotary(d)(len(x), CPU))
    rows = []
    for t in range(len(x)):
        row = []
        for h in range(heads):
            own = slice(h * d, (h + 1) * d)
            query, keys = turn(q[:, own], cos, sin)[t], turn(k[:, own], cos, sin)
            weights = torch.softmax(keys @ query / d**0.5, dim=0)
            row.append(gates[t, h] * (weights @ v[:, own]))
        rows.append(torch.cat(row))
    out: Tensor = attention.to_out(torch.stack(rows))
    return out


@torch.no_grad()
def test_attention_is_gated_softmax_attention() -> None:
    attention = Attention(Shape(width=10, heads=3, head_width=4), Rotary(4)).double()
    torch.nn.init.normal_(attention.norm.gamma)
    x = torch.randn(6, 10, dtype=torch.float64)
    torch.testing.assert_close(attention(x[None])[0], by_hand(attention, x))


@torch.no_grad()
def test_linear_attention_ignores_the_order() -> None:
    attention = LinearAttention(Shape(width=8, heads=2, head_width=4)).double()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    order = torch.randperm(9)
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order])


def test_the_norm_ignores_the_gain_and_survives_silence() -> None:
    norm, x = RMSNorm(5), torch.randn(3, 5)
    torch.testing.assert_close(norm(1000 * x), norm(x))
    torch.testing.assert_close(norm(x).square().mean(-1), torch.ones(3))
    assert torch.equal(norm(torch.zeros(2, 5)), torch.zeros(2, 5))


def test_dropout_works_in_training_only() -> None:
    shape = Shape(width=8, heads=2, head_width=4, attention_dropout=0.5, hidden_dropout=0.5)
    transformer, x = Transformer(shape, depth=1, rotary=Rotary(4), norm=True), torch.randn(1, 5, 8)
    assert not torch.equal(transformer(x), transformer(x))
    transformer.eval()
    assert torch.equal(transformer(x), transformer(x))


@pytest.mark.parametrize("norm", [True, False])
def test_only_a_normalised_transformer_ends_with_a_norm(norm: bool) -> None:
    transformer = Transformer(Shape(8, 2, 4), depth=1, rotary=Rotary(4), norm=norm)
    assert ("norm.gamma" in transformer.state_dict()) == norm

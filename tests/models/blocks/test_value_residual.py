"""Value residuals at the ends of their range."""

from typing import Any

import torch
from torch import Tensor

from stemsplit.models.blocks.rotary import Attention, Rotary, Shape
from stemsplit.models.blocks.value_residual import ValueResidualAttention, ValueResidualBlocks

SHAPE = Shape(width=10, heads=3, head_width=4)


def sharing(share: float) -> ValueResidualAttention:
    """An attention whose share of the first values is the same everywhere."""
    attention = ValueResidualAttention(SHAPE, Rotary(4), mixes=True)
    mix: Any = attention.to_value_residual_mix
    with torch.no_grad():
        mix.weight.zero_()
        mix.bias.fill_(torch.tensor(share).logit())
    return attention


@torch.inference_mode()
def test_without_a_share_attention_is_plain() -> None:
    leaning, plain = sharing(0.0), Attention(SHAPE, Rotary(4))
    plain.load_state_dict(leaning.state_dict(), strict=False)
    x, first = torch.randn(2, 5, 10), torch.randn(2, 3, 5, 4)
    y, values = leaning.lean(x, first)
    assert torch.equal(y, plain(x)) and values is first


@torch.inference_mode()
def test_values_lean_towards_the_first_by_the_share() -> None:
    attention, x, first = sharing(0.25), torch.randn(2, 5, 10), torch.randn(2, 3, 5, 4)
    normed = attention.norm(x)
    q, k, v = attention.project(normed)
    expected = attention.attend(normed, q, k, 0.75 * v + 0.25 * first)
    torch.testing.assert_close(attention.lean(x, first)[0], expected)


@torch.inference_mode()
def test_all_later_attentions_of_an_axis_get_the_values_of_its_first() -> None:
    blocks = ValueResidualBlocks(SHAPE, 3, (2, 1)).eval()
    seen: dict[str, list[Tensor]] = {"time": [], "bands": []}
    for block in blocks:
        pair: Any = block
        for axis, transformer in zip(seen, pair, strict=True):
            for attention, _ in transformer.layers:
                keep(attention, seen[axis])
    blocks(torch.randn(1, 4, 6, 10), torch.nn.Identity())
    for axis, steps in (("time", 4), ("bands", 6)):
        assert all(values is seen[axis][0] for values in seen[axis])
        assert seen[axis][0].shape[2] == steps
    assert [len(found) for found in seen.values()] == [6, 3]


def keep(attention: Any, found: list[Tensor]) -> None:
    """Note the first values that an attention returns."""
    lean = attention.lean

    def watched(x: Tensor, first: Tensor | None) -> tuple[Tensor, Tensor]:
        y, values = lean(x, first)
        found.append(values)
        return y, values

    attention.lean = watched


def test_only_the_first_block_keeps_its_values() -> None:
    names = [
        name for name, _ in ValueResidualBlocks(SHAPE, 3, (2, 1)).named_parameters() if "mix.weight" in name
    ]
    assert len(names) == 6 and not any(name.startswith("0.") for name in names)

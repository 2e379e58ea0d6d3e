"""A bidirectional GRU for inference on a CPU, with packed products.

PyTorch multiplies all inputs first, which takes hundreds of megabytes, and then every state by itself. Here
the input and the state of a step go through the same products, and the gates' activations with them.

Legend: `N` sequences, `T` steps, `H` width of a state.
"""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from stemsplit.models.fast.packed import PackedLinear


class Direction(nn.Module):
    """A GRU that runs one way.

    r = σ(W_r [x, h] + b_r), z = σ(W_z [x, h] + b_z), n = tanh(W_x x + b_x + r·(W_h h + b_h)); the next state
    is n + z·(h − n).

    Args:
        inputs: matrices for x of r, z and n, [3H, width].
        states: those for h, [3H, H].
        biases: of both, [3H] each.
    """

    def __init__(self, inputs: Tensor, states: Tensor, biases: tuple[Tensor, Tensor]) -> None:
        super().__init__()
        (x_r, x_z, x_n), (h_r, h_z, h_n) = inputs.chunk(3), states.chunk(3)
        (b_r, b_z, b_x), (c_r, c_z, b_h) = (bias.chunk(3) for bias in biases)
        self.reset = PackedLinear(torch.cat([x_r, h_r], dim=1), b_r + c_r, activation="sigmoid")
        self.update = PackedLinear(torch.cat([x_z, h_z], dim=1), b_z + c_z, activation="sigmoid")
        # tanh(a) = 2σ(2a) − 1; PyTorch's tanh takes seven times as long as its σ
        self.new, self.old = PackedLinear(2 * x_n, 2 * b_x), PackedLinear(2 * h_n, 2 * b_h)

    def forward(self, x: Tensor, steps: Iterable[int], out: Tensor) -> None:
        """Run over x, [N, T, width], in the order of `steps`, and write the states, [N, T, H]."""
        state = x.new_zeros(len(x), out.shape[-1])
        for t in steps:
            now = x[:, t].contiguous()
            both = torch.cat([now, state], dim=1)  # [N, width + H]
            reset, update = self.reset(both), self.update(both)
            new = self.new(now).add_(self.old(state).mul_(reset)).sigmoid_().mul_(2).sub_(1)  # [N, H]
            state = torch.lerp(new, state, update)
            out[:, t] = state


class PackedGRU(nn.Module):
    """One layer of a GRU, both ways.

    Args:
        gru: to take the weights from; bidirectional, with biases, batch first.
    """

    def __init__(self, gru: nn.GRU) -> None:
        super().__init__()
        self.hidden = gru.hidden_size
        weights = [weight.detach() for weight in cast(list[Tensor], gru.all_weights[0])]
        backward = [weight.detach() for weight in cast(list[Tensor], gru.all_weights[1])]
        self.directions = nn.ModuleList(
            Direction(inputs, states, (b, c)) for inputs, states, b, c in (weights, backward)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        """[N, T, width] -> [N, T, 2H], forwards and backwards, and no last state."""
        out = x.new_empty(*x.shape[:2], 2 * self.hidden)
        steps = range(x.shape[1])
        for direction, order, half in zip(
            self.directions, (steps, reversed(steps)), out.chunk(2, dim=-1), strict=True
        ):
            direction(x, order, half)
        return out, None

"""The Fourier operator FNO1d of neuraloperator, which BS-RoFormer's mask estimator fno has per band."""

import sys
from typing import Any
from unittest.mock import MagicMock

import torch
from exchange import answer, asked, seeded, weights
from torch import nn


def operator(arguments: dict[str, Any]) -> nn.Module:
    """Return the network; packages that only other networks need are replaced by mocks."""
    for name in ("torch_harmonics", "torch_harmonics.convolution", "torch_harmonics.quadrature", "wandb"):
        sys.modules[name] = MagicMock()
    from neuralop.models import FNO1d

    network: nn.Module = FNO1d(**arguments)
    return network.eval()


seeded()
arguments, tensors = asked()
network = operator(arguments)
stored = {key: value for key, value in weights(network).items() if isinstance(value, torch.Tensor)}
with torch.inference_mode():
    answer(output=network(tensors["x"]), **stored)

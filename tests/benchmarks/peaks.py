"""A network's operations, the fastest product of this machine, and how well two outputs agree."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from stemsplit.models.fast.packed import PackedLinear

Variant = Callable[[Tensor], Tensor]


def decibels(reference: Tensor, estimate: Tensor) -> float:
    """How far an estimate's error lies below its reference."""
    error = (reference.double() - estimate.double()).square().sum().clamp_min(1e-60)
    return float(10 * torch.log10(reference.double().square().sum() / error))


def timed(variant: Variant, mix: Tensor) -> tuple[Tensor, float, float]:
    """Its output, wall-clock and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    out = variant(mix)
    return out, time.perf_counter() - wall, time.process_time() - cpu


def gemm_peak() -> dict[str, float]:
    """The fastest of ten products of large matrices through oneDNN, in FLOP per wall-clock and CPU second."""
    size = 2048
    layer = PackedLinear(torch.randn(size, size), None)
    x = torch.randn(size, size)
    times = [timed(layer, x)[1:] for _ in range(10)]
    return {
        name: 2 * size**3 / min(column)
        for name, column in zip(("wall", "cpu"), zip(*times, strict=True), strict=True)
    }


def operations(network: Any, mix: Tensor) -> int:
    """Floating-point operations of products and convolutions in one segment."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        network.estimate(mix)
    return int(counter.get_total_flops())

"""A network's operations, the fastest product of this machine, and how well two outputs agree."""

import platform
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

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


def processor() -> str:
    """Name of the CPU."""
    found = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[0] if found else platform.processor()


@contextmanager
def recurrent_operations() -> Iterator[list[int]]:
    """Let recurrent layers and inverse transforms return zeros; yield the former's operations.

    PyTorch lacks their quick kernels on the meta device, and doesn't count their operations anywhere. A step
    multiplies its input and its state by matrices, whose entries take a multiplication and an addition each.
    """
    found: list[int] = []

    def recurrent(x: Tensor, hidden: Any, weights: list[Tensor], *options: Any) -> tuple[Tensor, ...]:
        states = hidden if isinstance(hidden, tuple) else (hidden,)
        steps = x.shape[0] * x.shape[1]  # of all sequences
        found.append(2 * steps * sum(weight.numel() for weight in weights if weight.dim() == 2))
        directions = 2 if options[4] else 1
        return x.new_zeros(*x.shape[:2], directions * states[0].shape[-1]), *states

    def istft(z: Tensor, *_: Any, length: int, **__: Any) -> Tensor:
        return z.real.new_zeros(len(z), length)

    with (
        patch.object(torch._VF, "lstm", recurrent),
        patch.object(torch._VF, "gru", recurrent),
        patch.object(torch, "istft", istft),
        patch.object(torch, "autocast", lambda *_, **__: nullcontext()),
    ):
        yield found


@torch.inference_mode()
def operations(network: Any, samples: int) -> int:
    """Floating-point operations of products, convolutions and recurrent layers in a chunk [1, C, samples].

    They are counted on the meta device, to which the network is moved; transforms aren't.
    """
    mix = torch.empty(1, network.channels, samples, device="meta")
    with (
        recurrent_operations() as recurrent,
        FlopCounterMode(display=False) as counter,
        sdpa_kernel(SDPBackend.MATH),
    ):
        network.to("meta").estimate(mix)
    return int(counter.get_total_flops()) + sum(recurrent)

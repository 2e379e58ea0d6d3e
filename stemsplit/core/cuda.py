"""CUDA: exact float32, batches that fill the device's memory, asynchronous copies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

LARGEST_BATCH = 16  # larger batches are no faster: the device is busy already
RESERVE = 0.2  # share of the free memory left for fragments that the allocator can't reuse


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Multiply in full single precision inside the block instead of TF32, then restore the setting."""
    places = _switches()
    before = [getattr(owner, name) for owner, name, _ in places]
    try:
        for owner, name, exact in places:
            setattr(owner, name, exact)
        yield
    finally:
        for (owner, name, _), value in zip(places, before, strict=True):
            setattr(owner, name, value)


def _switches() -> list[tuple[Any, str, Any]]:
    """Return PyTorch's settings of TF32, as owner, attribute and the value that means exact."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):  # since PyTorch 2.9
        return [(owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]


def fitting_batch(device: torch.device) -> int:
    """Return how many chunks fit the device's memory, judged by the peak memory of one so far.

    Args:
        device: a CUDA device that at least one chunk was computed on.
    """
    # The peak beyond the weights is one chunk's share; cached but unused blocks count as free.
    taken = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + idle
    return max(1, min(LARGEST_BATCH, int((1 - RESERVE) * free / max(1, taken))))


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU without waiting for the device."""
    # Only copies from pinned memory are asynchronous.
    return x.pin_memory().to(device, non_blocking=True)


def to_cpu(x: Tensor) -> Callable[[], Tensor]:
    """Begin to copy to the CPU beside later computations; return a function that waits for the copy."""
    # Into pinned memory, which the device writes without a staging buffer
    out = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    stream = _copies(x.device)
    stream.wait_stream(torch.cuda.current_stream(x.device))  # which computes x
    with torch.cuda.stream(stream):
        out.copy_(x, non_blocking=True)
    done = stream.record_event()
    x.record_stream(stream)  # its memory isn't used again before the copy is done

    def copied() -> Tensor:
        done.synchronize()
        return out

    return copied


@cache
def _copies(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of a device's copies to the CPU."""
    return torch.cuda.Stream(device)

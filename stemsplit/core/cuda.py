"""What a CUDA device wants: exact float32, batches that fill its memory, copies that don't hold it up."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

LARGEST_BATCH = 16  # beyond it a device that is busy already gains nothing
SPARED = 0.2  # of the free memory, for what the allocator can't reuse


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Multiply in full single precision inside the block, not in TF32; then as before."""
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
    """Where PyTorch keeps the choice, and what exact is called there; it changed in 2.9."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        return [(owner, "fp32_precision", "ieee") for owner in (matmul, cudnn.conv, cudnn.rnn)]
    return [(matmul, "allow_tf32", False), (cudnn, "allow_tf32", False)]


def fitting_batch(device: torch.device) -> int:
    """How many chunks to compute at once, judged by the most memory that one has taken so far.

    Args:
        device: a CUDA device that at least one chunk was computed on.
    """
    taken = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + idle
    return max(1, min(LARGEST_BATCH, int((1 - SPARED) * free / max(1, taken))))


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU without waiting for the device."""
    return x.pin_memory().to(device, non_blocking=True)


def to_cpu(x: Tensor) -> Tensor:
    """Copy to the CPU, into memory that the device writes to by itself."""
    out = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    out.copy_(x, non_blocking=True)
    torch.cuda.current_stream(x.device).synchronize()
    return out

"""Where and how a model computes: device, precision, threads, and what happens when memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from stemsplit.core.devices import GET_STARTED, check_device
from stemsplit.errors import DeviceError, ResourceError, SettingsError
from stemsplit.settings import ComputeSettings

M = TypeVar("M", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device that is really there, and the type of the arithmetic on it."""

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32


def resolve(settings: ComputeSettings) -> Compute:
    """The device and precision that `settings` mean on this machine.

    Raises:
        DeviceError: the device isn't there.
        SettingsError: the device can't compute in that precision.
    """
    device = find_device(settings.device)
    if settings.precision == "auto":
        return Compute(device, _gainful_dtype(device))
    dtype = DTYPES[settings.precision]
    if dtype == torch.float16 and device.type == "cpu":
        raise SettingsError("--precision fp16: not on a CPU", setting="precision", hint="use bf16 or fp32")
    return Compute(device, dtype)


def find_device(name: str) -> torch.device:
    """The torch device called auto, cpu, cuda, cuda:N or mps.

    Raises:
        DeviceError: there is no such device in this machine or in this build of torch.
    """
    check_device(name)
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(name)
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= there[device.type]:
        raise DeviceError(
            name,
            f"--device {name}: PyTorch {torch.__version__} doesn't see it",
            hint=f"use --device cpu, or install a build for this device: {GET_STARTED}",
        )
    return device


def _gainful_dtype(device: torch.device) -> torch.dtype:
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def place(model: M, compute: Compute) -> M:
    """Move a network to its device and prepare it for inference there."""
    return model.to(compute.device).eval()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads inside the block; None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Hold a network in evaluation mode inside the block and give it back as it was."""
    training = getattr(model, "training", False)  # plain functions have no mode
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def run(model: Callable[[Tensor], Tensor], batch: Tensor, compute: Compute) -> Tensor:
    """The one place that calls a model for inference.

    Args:
        model: a `Separable`.
        batch: [B, C, T] on the CPU.
        compute: the device that the model is on, and its arithmetic.

    Returns:
        [B, S, C, n] in float32 on the CPU. A batch that doesn't fit the device's memory is halved.

    Raises:
        ResourceError: not even one chunk fits.
    """
    try:
        return _call(model, batch, compute)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        if len(batch) == 1:
            raise ResourceError(
                f"out of memory on {compute.device}",
                hint="use a shorter --segment, or --device cpu",
            ) from error
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    return torch.cat([run(model, part, compute) for part in torch.split(batch, half)])


def _call(model: Callable[[Tensor], Tensor], batch: Tensor, compute: Compute) -> Tensor:
    mixed = compute.device.type != "cpu" and compute.dtype != torch.float32
    cast = torch.autocast(compute.device.type, compute.dtype) if mixed else nullcontext()
    with torch.inference_mode(), cast:
        return model(batch.to(compute.device)).float().cpu()


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)

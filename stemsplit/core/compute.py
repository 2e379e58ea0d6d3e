"""Where and how a model computes: device, precision, threads, and what happens when memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from stemsplit.core import cuda, memory
from stemsplit.core.devices import GET_STARTED, check_device
from stemsplit.errors import DeviceError, ResourceError, SettingsError
from stemsplit.settings import ComputeSettings

M = TypeVar("M")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Compute:
    """A device that is really there, and the type of the arithmetic on it.

    Attributes:
        device: where the model is.
        dtype: of the arithmetic.
        wish: do without that type where the model has no use for it.
        compiled: let torch.compile rewrite the model.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    wish: bool = False
    compiled: bool = False


class Preparable(Protocol):
    """What `place` needs of a model.

    Attributes:
        precisions: types of arithmetic that it can be prepared for on a CPU.

    Any module below it may have an attribute `rests`: names of modules of its own before which it pays to
    give back the memory that was freed so far.
    """

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        """Types of arithmetic that it can be prepared for on a CPU."""

    def prepare(self, dtype: torch.dtype = ...) -> Self:
        """Rearrange the weights for inference on a CPU."""


def resolve(settings: ComputeSettings) -> Compute:
    """The device and precision that `settings` mean on this machine.

    Raises:
        DeviceError: the device isn't there.
        SettingsError: the device can't compute in that precision, or can't be compiled for.
    """
    device = find_device(settings.device)
    if settings.compile and device.type == "cpu":
        raise SettingsError("--compile: not on a CPU, where models are prepared instead", setting="compile")
    if settings.precision == "auto":
        dtype, wish = _gainful_dtype(device), False
        if settings.reduced and dtype == torch.float32 and has_bf16():
            dtype, wish = torch.bfloat16, True
        return Compute(device, dtype, wish, settings.compile)
    dtype = DTYPES[settings.precision]
    if dtype == torch.float16 and device.type == "cpu":
        raise SettingsError("--precision fp16: not on a CPU", setting="precision", hint="use bf16 or fp32")
    return Compute(device, dtype, compiled=settings.compile)


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


def has_bf16() -> bool:
    """Whether this CPU multiplies numbers of type bf16 by itself."""
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and ask() for ask in asked)


def place(model: M, compute: Compute) -> M:
    """Move a network, or the members of a bag, to the device and prepare them for inference there.

    What is no module, such as a function with a model's attributes, is left as it is.

    Raises:
        SettingsError: a network isn't offered in that precision on a CPU.
    """
    for network in getattr(model, "members", (model,)):
        if isinstance(network, nn.Module):
            _place(network, compute)
    return model


def _place(module: nn.Module, compute: Compute) -> None:
    module.eval().requires_grad_(False)
    model = cast(Preparable, module)
    if compute.device.type != "cpu":
        module.to(compute.device)
        if compute.compiled:
            module.compile(dynamic=False)
        return
    if not hasattr(model, "prepare"):  # a user's own module
        if compute.dtype != torch.float32 and not compute.wish:
            raise _inaccurate(module, compute)
        return
    if compute.dtype in model.precisions or compute.wish:
        _lean(model.prepare(compute.dtype if compute.dtype in model.precisions else torch.float32))
        return
    raise _inaccurate(module, compute)


def _inaccurate(module: nn.Module, compute: Compute) -> SettingsError:
    name = next(name for name, dtype in DTYPES.items() if dtype == compute.dtype)
    return SettingsError(
        f"--precision {name}: {type(module).__name__} isn't accurate enough in it on a CPU",
        setting="precision",
        hint="use auto or fp32",
    )


def _lean(model: Preparable) -> None:
    """Have a model give back what its parts leave behind, and give back what was freed by preparing it."""
    for part in cast(nn.Module, model).modules():
        for name in getattr(part, "rests", ()):
            part.get_submodule(name).register_forward_pre_hook(lambda *_: memory.trim())
    memory.trim()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let this thread use `count` CPU threads for torch inside the block; None changes nothing.

    OpenMP gives every thread that computes in parallel helpers of its own. While there are more of them than
    cores they all sleep between any two layers: 12 % slower on two cores. So what goes before, in another
    thread than the one that computes, takes one.
    """
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
        if not is_out_of_memory(error):
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


def batch_size(compute: Compute) -> int:
    """How many chunks to compute at once, after one was: what fits, and one on a CPU, which gains nothing."""
    return cuda.fitting_batch(compute.device) if compute.device.type == "cuda" else 1


def _call(model: Callable[[Tensor], Tensor], batch: Tensor, compute: Compute) -> Tensor:
    with torch.inference_mode(), arithmetic(compute):
        if compute.device.type == "cuda":
            return cuda.to_cpu(model(cuda.to_device(batch, compute.device)).float())
        return model(batch.to(compute.device)).float().cpu()


@contextmanager
def arithmetic(compute: Compute) -> Iterator[None]:
    """Compute in `compute.dtype` inside the block; on a CPU prepared models do so by themselves."""
    kind = compute.device.type
    mixed = kind != "cpu" and compute.dtype != torch.float32
    cast_to = torch.autocast(kind, compute.dtype) if mixed else nullcontext()
    with cast_to, cuda.exact_fp32() if kind == "cuda" else nullcontext():
        yield


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; a worker process may have made a text of the error."""
    signs = ("allocate memory", "MemoryError")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(s in str(error) for s in signs)

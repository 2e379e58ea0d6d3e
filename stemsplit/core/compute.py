"""Device, precision and threads of a model's computations, and batches that shrink when memory runs out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self, TypeVar, cast

import torch
from torch import Tensor, nn

from stemsplit.core import cuda, memory
from stemsplit.core.devices import GET_STARTED, check_device, count_devices, torch_name
from stemsplit.errors import DeviceError, ResourceError, SettingsError
from stemsplit.settings import ComputeSettings

M = TypeVar("M")
DTYPES: dict[Literal["fp32", "bf16", "fp16"], torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
# Layers that only multiply by their weights, which autocast does in half precision
PRODUCTS = {
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
}


@dataclass(frozen=True)
class Compute:
    """A device that exists, and the precision to compute in.

    Attributes:
        device: that the model is on.
        dtype: precision of the model's computations.
        optional: fall back to fp32 if the model doesn't support `dtype`.
        compiled: compile the model with torch.compile.
        channels_last: lay the weights of two-dimensional convolutions out channels last.
    """

    device: torch.device = torch.device("cpu")
    dtype: torch.dtype = torch.float32
    optional: bool = False
    compiled: bool = False
    channels_last: bool = False


class Preparable(Protocol):
    """A model that `place` can prepare for inference on a CPU.

    Any of its modules may have an attribute `trim_before`: names of submodules before which freed memory goes
    back to the operating system.

    Attributes:
        precisions: dtypes that it can be prepared for on a CPU.
    """

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        """Dtypes that it can be prepared for on a CPU."""

    def prepare(self, dtype: torch.dtype = ...) -> Self:
        """Rearrange the weights for inference on a CPU."""


def resolve(settings: ComputeSettings) -> Compute:
    """Return the device and precision that `settings` ask for on this machine.

    Raises:
        DeviceError: the device doesn't exist.
        SettingsError: the device doesn't support that precision, or compilation.
    """
    device = find_device(settings.device)
    how = {"compiled": settings.compile, "channels_last": settings.channels_last}
    if settings.compile and device.type == "cpu":
        raise SettingsError("--compile: not on a CPU, where models are prepared instead", setting="compile")
    if settings.precision == "auto":
        dtype, optional = fastest_dtype(device), False
        if settings.reduced and dtype == torch.float32 and has_bf16():
            dtype, optional = torch.bfloat16, True
        return Compute(device, dtype, optional, **how)
    dtype = DTYPES[settings.precision]
    if dtype == torch.float16 and device.type == "cpu":
        raise SettingsError("--precision fp16: not on a CPU", setting="precision", hint="use bf16 or fp32")
    return Compute(device, dtype, **how)


def find_device(name: str) -> torch.device:
    """Return the torch device of that name; auto is the accelerator that PyTorch reports, else the CPU.

    Raises:
        DeviceError: this machine, or this build of torch, has no such device.
    """
    check_device(name)
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device(found.type if found is not None else "cpu")
    device = torch.device(torch_name(name))
    if device.type != "cpu" and (device.index or 0) >= count_devices(device.type):  # N counts from 0
        raise DeviceError(
            name,
            f"--device {name}: PyTorch {torch.__version__} doesn't see it",
            hint=f"use --device cpu, or install a build for this device: {GET_STARTED}",
        )
    return device


def fastest_dtype(device: torch.device) -> torch.dtype:
    """Return the dtype in which a device computes fastest: half precision on CUDA, fp32 elsewhere."""
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def has_bf16() -> bool:
    """Return True if this CPU has instructions to multiply in bf16."""
    # Private functions of torch: a version without them counts as a CPU without bf16.
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
    return any(ask is not None and ask() for ask in asked)


def place(model: M, compute: Compute) -> M:
    """Move a network, or the members of a bag, to the device and prepare them for inference there.

    A plain function with a model's attributes stays as it is.

    Raises:
        SettingsError: a network doesn't support that precision on a CPU.
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
        if compute.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if compute.compiled:
            module.compile(dynamic=False)  # chunks have one length, so one compilation serves them all
        elif compute.dtype != torch.float32:
            keep_cast(module, compute.device.type)
        return
    if not hasattr(model, "prepare"):  # a user's own module
        if compute.dtype != torch.float32 and not compute.optional:
            raise inaccurate(type(module), compute)
        return
    if compute.dtype in model.precisions or compute.optional:
        _trim_during(model.prepare(compute.dtype if compute.dtype in model.precisions else torch.float32))
        return
    raise inaccurate(type(module), compute)


def keep_cast(module: nn.Module, kind: str) -> None:
    """Keep the weights of linear layers and convolutions as autocast first casts them.

    By itself, autocast casts them again at every use, and they take twice the memory. Layers that a network
    uses without autocast keep theirs.

    Args:
        module: for inference. Layers of other classes count if their attribute `only_products` is true.
        kind: of device, such as cuda.
    """

    def cast(layer: nn.Module, _: Any) -> None:
        if torch.is_autocast_enabled(kind):
            hooks[layer].remove()
            layer.to(torch.get_autocast_dtype(kind))

    hooks = {
        layer: layer.register_forward_pre_hook(cast)
        for layer in module.modules()
        if type(layer) in PRODUCTS or getattr(layer, "only_products", False)
    }


def inaccurate(network: type[nn.Module], compute: Compute) -> SettingsError:
    """Return the error for a network that doesn't support a precision on a CPU."""
    name = next(name for name, dtype in DTYPES.items() if dtype == compute.dtype)
    return SettingsError(
        f"--precision {name}: {network.__name__} isn't accurate enough in it on a CPU",
        setting="precision",
        hint="use auto or fp32",
    )


def _trim_during(model: Preparable) -> None:
    """Trim memory now, and during every forward pass before the submodules in `trim_before`."""
    for part in cast(nn.Module, model).modules():
        for name in getattr(part, "trim_before", ()):
            part.get_submodule(name).register_forward_pre_hook(lambda *_: memory.trim())
    memory.trim()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Set the number of OpenMP threads that torch uses from this thread inside the block.

    OpenMP starts a team of workers for every thread that runs parallel code. With more workers than cores,
    all of them sleep between any two layers: 12 % slower on two cores. Threads that don't run the model
    therefore use one OpenMP thread.

    Args:
        count: threads; None changes nothing.
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
    """Keep a network in evaluation mode inside the block, then restore its mode."""
    training = getattr(model, "training", False)  # plain functions have no mode
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def run(model: Callable[[Tensor], Tensor], batch: Tensor, compute: Compute) -> Tensor:
    """Run a model on a batch of chunks, and wait for its result, as `start` explains."""
    return start(model, batch, compute)()


def start(model: Callable[[Tensor], Tensor], batch: Tensor, compute: Compute) -> Callable[[], Tensor]:
    """Run a model on a batch of chunks, in halves if the batch doesn't fit the device's memory.

    This is the only place that calls a model for inference. On CUDA the device is still computing when it
    returns.

    Args:
        model: a `Separable`.
        batch: [B, C, T] on the CPU.
        compute: the device that the model is on, and the precision.

    Returns:
        A function that waits for the result, [B, S, C, n] in float32 on the CPU.

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
    # Outside `except`: the error's traceback holds the tensors of the failed call until here.
    if compute.device.type == "cuda":
        torch.cuda.empty_cache()
    half = (len(batch) + 1) // 2
    stems = torch.cat([run(model, part, compute) for part in torch.split(batch, half)])  # [B, S, C, n]
    return lambda: stems


def batch_size(compute: Compute) -> int:
    """Return how many chunks to batch, once one has been computed."""
    # A CPU gains nothing from batches: one chunk keeps all its cores busy.
    return cuda.fitting_batch(compute.device) if compute.device.type == "cuda" else 1


def _call(model: Callable[[Tensor], Tensor], batch: Tensor, compute: Compute) -> Callable[[], Tensor]:
    with torch.inference_mode(), arithmetic(compute):
        if compute.device.type == "cuda":
            return cuda.to_cpu(_tensor(model(cuda.to_device(batch, compute.device))))
        stems = _tensor(model(batch.to(compute.device))).cpu()
    return lambda: stems


def _tensor(stems: object) -> Tensor:
    """Return what a model gave in float32; a user's own may give anything."""
    if not isinstance(stems, Tensor):
        raise SettingsError(f"the model returns a {type(stems).__name__}, not a tensor", setting="model")
    return stems.float()


@contextmanager
def arithmetic(compute: Compute) -> Iterator[None]:
    """Compute in `compute.dtype` inside the block, by autocast."""
    # On a CPU `prepare` has set the dtype of every layer already.
    kind = compute.device.type
    mixed = kind != "cpu" and compute.dtype != torch.float32
    cast_to = torch.autocast(kind, compute.dtype) if mixed else nullcontext()
    with cast_to, cuda.exact_fp32() if kind == "cuda" else nullcontext():
        yield


def is_out_of_memory(error: Exception) -> bool:
    """Return True if the error means that memory ran out."""
    # By its text too: torch raises a plain RuntimeError on a CPU, and worker processes only pass texts on.
    signs = ("allocate memory", "MemoryError")
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(s in str(error) for s in signs)

"""Check the names of devices without importing torch, so that a typing error is reported at once."""

import ctypes
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stemsplit.errors import DeviceError

NAME = re.compile(r"auto|cpu|mps|cuda(:\d+)?")
GET_STARTED = "https://pytorch.org/get-started"


def check_device(name: str) -> None:
    """Check that this machine can have the device called `name`.

    Args:
        name: auto, cpu, cuda, cuda:N or mps.

    Raises:
        DeviceError: it can't have one, or the name is unknown.
    """
    if not NAME.fullmatch(name):
        raise DeviceError(name, f"--device {name}: no such device", hint="use auto, cpu, cuda, cuda:N or mps")
    if name == "mps" and (sys.platform != "darwin" or platform.machine() != "arm64"):
        raise DeviceError(name, f"--device {name}: this machine has no Metal device", hint="use --device cpu")
    if name.startswith("cuda"):
        _check_cuda(name, int(name.partition(":")[2] or 0))


def _check_cuda(name: str, index: int) -> None:
    torch = _torch_version()
    # The wheels of torch for CPUs have a version such as 2.9.0+cpu.
    if torch.endswith("+cpu") or sys.platform == "darwin":
        raise DeviceError(
            name,
            f"--device {name}: this PyTorch has no CUDA ({torch})",
            hint=f"use --device cpu, or install a CUDA build: {GET_STARTED}",
        )
    count = cuda_device_count()
    if count is not None and index >= count:
        there = "is one CUDA device" if count == 1 else f"are {count or 'no'} CUDA devices"
        raise DeviceError(name, f"--device {name}: there {there}", hint="use --device cpu")


def _torch_version() -> str:
    try:
        return version("torch")
    except PackageNotFoundError:
        return "absent"


def cuda_device_count() -> int | None:
    """Return the number of CUDA devices that the driver reports: 0 without one, None if the call fails."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0:
        return 0
    return count.value if driver.cuDeviceGetCount(ctypes.byref(count)) == 0 else None


def free_memory(device: str = "cpu") -> int | None:
    """Return how many bytes of a device's memory are free, None if the system doesn't say.

    Args:
        device: cpu, cuda or cuda:N; CUDA imports torch.
    """
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        pass
    try:  # not Linux: counts free pages only, without those of the file cache
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None

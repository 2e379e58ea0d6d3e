"""Check the names of devices without importing torch, so that a typing error is reported at once."""

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from stemsplit.errors import DeviceError

NAME = re.compile(r"([a-z]+)(?::(\d+))?")
GET_STARTED = "https://pytorch.org/get-started"
HINT = "use auto, cpu, cuda, cuda:N, rocm, mps, or another device that PyTorch names"
# Options of `pip install torch` by the maker of the graphics processor; None is a machine without one
_INDEX = "https://download.pytorch.org/whl"
INSTALL = {
    "Apple": "",
    "NVIDIA": f" --index-url {_INDEX}/cu126",
    "AMD": f" --index-url {_INDEX}/rocm6.4",
    "Intel": f" --index-url {_INDEX}/xpu",
    None: f" --index-url {_INDEX}/cpu",
}


def torch_name(name: str) -> str:
    """Return PyTorch's name of a device: it calls AMD's devices cuda too."""
    return re.sub(r"^rocm\b", "cuda", name)


def check_device(name: str) -> None:
    """Check that this machine can have the device called `name`.

    Builds of torch for CPUs and for NVIDIA are judged without importing it.

    Args:
        name: auto, cpu, mps, cuda, cuda:N, its other name rocm, or a device of `torch.accelerator`.

    Raises:
        DeviceError: it can't have one, or the name is unknown.
    """
    match = NAME.fullmatch(torch_name(name))
    if match is None or (match[1] in ("auto", "cpu", "mps") and match[2]):
        raise DeviceError(name, f"--device {name}: no such device", hint=HINT)
    kind, index = match[1], int(match[2] or 0)
    if kind == "mps" and (sys.platform != "darwin" or platform.machine() != "arm64"):
        raise DeviceError(name, f"--device {name}: this machine has no Metal device", hint="use --device cpu")
    if kind == "cuda":
        _check_cuda(name, index)
    elif kind not in ("auto", "cpu", "mps") and index >= count_devices(kind):
        raise DeviceError(name, f"--device {name}: PyTorch {_torch_version()} has no such device", hint=HINT)


def _check_cuda(name: str, index: int) -> None:
    torch = _torch_version()
    # The wheels of torch for CPUs have a version such as 2.9.0+cpu.
    if torch.endswith("+cpu") or sys.platform == "darwin":
        kind, what = ("ROCm", "a ROCm") if name.startswith("rocm") else ("CUDA", "a CUDA")
        raise DeviceError(
            name,
            f"--device {name}: this PyTorch has no {kind} ({torch})",
            hint=f"use --device cpu, or install {what} build: {GET_STARTED}",
        )
    count = count_devices("cuda") if _is_for_rocm() else cuda_device_count()
    if count is not None and index >= count:
        kind = "ROCm" if _is_for_rocm() else "CUDA"
        there = f"is one {kind} device" if count == 1 else f"are {count or 'no'} {kind} devices"
        raise DeviceError(name, f"--device {name}: there {there}", hint="use --device cpu")


def count_devices(kind: str) -> int:
    """Return how many devices of a kind, such as cuda or xpu, PyTorch sees; imports it."""
    import torch

    if kind == "cuda":
        return torch.cuda.device_count()
    found = torch.accelerator.current_accelerator()
    return torch.accelerator.device_count() if found is not None and found.type == kind else 0


def _is_for_rocm() -> bool:
    # a distribution's build may have no +rocm in its version
    if "+rocm" in _torch_version():
        return True
    found = find_spec("torch")
    places = (found.submodule_search_locations if found else None) or []
    return any((Path(place) / "lib/libtorch_hip.so").exists() for place in places)


def vendor() -> str | None:
    """Return the maker of the graphics processor, one of `INSTALL`; None without one."""
    if sys.platform == "darwin":
        return "Apple" if platform.machine() == "arm64" else None
    if cuda_device_count():
        return "NVIDIA"
    if Path("/dev/kfd").exists():  # of AMD's driver for computing
        return "AMD"
    codes = [path.read_text().strip() for path in Path("/sys/class/drm").glob("card*/device/vendor")]
    return "Intel" if "0x8086" in codes else None


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


def processor() -> str:
    """Return the name of the CPU and the number of its cores, such as AMD EPYC, 2 cores."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{name}, {os.cpu_count()} cores"


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

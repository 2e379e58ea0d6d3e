import pytest
import torch

from stemsplit.core import devices
from stemsplit.errors import DeviceError


@pytest.mark.parametrize(
    ("count", "told"),
    [(0, "there are no CUDA devices"), (1, "there is one CUDA device"), (2, "there are 2 CUDA devices")],
)
def test_the_error_counts_the_gpus_that_exist(count: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_torch_version", lambda: "2.6.0")
    monkeypatch.setattr(devices, "cuda_device_count", lambda: count)
    monkeypatch.setattr("sys.platform", "linux")
    with pytest.raises(DeviceError) as caught:
        devices.check_device("cuda:5")
    assert str(caught.value) == f"--device cuda:5: {told}"
    assert count < 2 or devices.check_device("cuda:1") is None


def test_rocm_is_another_name_for_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_torch_version", lambda: "2.9.1+rocm7.2")
    monkeypatch.setattr(devices, "cuda_device_count", lambda: 0)  # there is no libcuda
    monkeypatch.setattr(devices, "count_devices", lambda kind: 2 if kind == "cuda" else 0)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("cuda", "rocm", "cuda:1", "rocm:1"):
        devices.check_device(name)
    with pytest.raises(DeviceError, match="--device rocm:2: there are 2 ROCm devices"):
        devices.check_device("rocm:2")
    assert devices.torch_name("rocm:1") == "cuda:1" and devices.torch_name("xpu") == "xpu"


def test_a_build_for_cpus_has_no_rocm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_torch_version", lambda: "2.9.1+cpu")
    with pytest.raises(DeviceError, match=r"--device rocm: this PyTorch has no ROCm \(2.9.1\+cpu\)"):
        devices.check_device("rocm")


def test_torch_judges_every_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Accelerator:
        @staticmethod
        def current_accelerator() -> torch.device:
            return torch.device("xpu")

        @staticmethod
        def device_count() -> int:
            return 2

    for name in ("xpu", "npu", "gpu"):
        with pytest.raises(DeviceError, match=f"--device {name}: PyTorch .* has no such device"):
            devices.check_device(name)
    monkeypatch.setattr(torch, "accelerator", Accelerator)
    devices.check_device("xpu:1")
    for name in ("xpu:2", "npu"):
        with pytest.raises(DeviceError, match="has no such device"):
            devices.check_device(name)


@pytest.mark.parametrize("name", ["", "CUDA", "cuda:", "cpu:0", "mps:1", "cuda:-1", "../x"])
def test_what_is_no_name_of_a_device(name: str) -> None:
    with pytest.raises(DeviceError, match="no such device"):
        devices.check_device(name)


def test_the_maker_of_the_graphics_processor_has_an_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.vendor() in devices.INSTALL
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(devices, "cuda_device_count", lambda: 1)
    assert devices.INSTALL[devices.vendor()].endswith("/cu126")

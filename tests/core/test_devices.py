import pytest

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

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

Array = npt.NDArray[np.float32]
Write = Callable[..., Array]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write noise to a float WAV below the test's folder and return it, [C, frames]."""
    generator = np.random.default_rng(0)

    def noise(name: str, frames: int = 1000, channels: int = 2, rate: int = 8000) -> Array:
        samples = generator.uniform(-0.5, 0.5, (channels, frames)).astype(np.float32)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / name, samples.T, rate, subtype="FLOAT")
        return samples

    return noise

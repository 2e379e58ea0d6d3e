"""Blends as streams: equal to whole arrays, and to audio-separator's."""

import importlib.util
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from stemsplit.blend_names import BLENDS, WEIGHTED
from stemsplit.core.blends import make_blend
from stemsplit.errors import UnknownNameError

LENGTHS = [0, 1, 2, 1023, 1024, 1025, 2047, 2048, 2049, 3071, 3072, 3073, 10_000]


def estimates(count: int, length: int, channels: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    common = torch.randn(channels, length, generator=generator)
    return [common + 0.5 * torch.randn(channels, length, generator=generator) for _ in range(count)]


def streamed(name: str, parts: Sequence[torch.Tensor], weights: Sequence[float], read: int) -> torch.Tensor:
    blend, found = make_blend(name, weights), []
    for blocks in zip(*(part.split(read, dim=-1) for part in parts), strict=True):
        found.append(blend.push(blocks))
    return torch.cat([*found, blend.finish()], dim=-1)


def chosen(name: str, values: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Blend the values [M, ...] of M estimates, in numpy."""
    kind = name.removeprefix("uvr_").partition("_")[0]
    if kind == "avg":
        return np.average(values, axis=0, weights=weights)
    if kind == "median":
        if np.iscomplexobj(values):
            return np.median(values.real, axis=0) + 1j * np.median(values.imag, axis=0)
        return np.median(values, axis=0)
    magnitudes = np.abs(values)
    index = magnitudes.argmin(0) if kind == "min" else magnitudes.argmax(0)
    return np.take_along_axis(values, index[None], 0)[0]


def whole(name: str, parts: Sequence[torch.Tensor], weights: Sequence[float]) -> np.ndarray:
    """Blend whole tracks by definition: frames of 2048 around every 1024th sample, one more at the end."""
    audio = np.stack([part.double().numpy() for part in parts])  # [M, C, T]
    if name.endswith("wave"):
        return chosen(name, audio, weights)
    length = audio.shape[-1]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    padded = np.pad(audio, ((0, 0), (0, 0), (1024, 4096)))
    total, squares = np.zeros(padded.shape[1:]), np.zeros(padded.shape[-1])
    for start in range(0, length + 1025, 1024):
        bins = np.fft.rfft(padded[..., start : start + 2048] * window)
        total[:, start : start + 2048] += np.fft.irfft(chosen(name, bins, weights), 2048) * window
        squares[start : start + 2048] += window**2
    return total[:, 1024 : 1024 + length] / squares[1024 : 1024 + length]


@pytest.mark.parametrize("read", [1000, 1024, 100_000])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", BLENDS)
def test_stream_equals_the_whole_array(name: str, count: int, read: int) -> None:
    weights = [1.0, 0.5, 2.0, 0.25][:count]
    for length in LENGTHS:
        parts = estimates(count, length)
        found = streamed(name, parts, weights, read)
        assert found.shape == (2, length) and found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), whole(name, parts, weights), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", BLENDS)
def test_the_read_size_changes_nothing(name: str) -> None:
    parts = estimates(3, 7000)
    expected = streamed(name, parts, [1, 1, 1], 7000)
    for read in (1, 333, 1024, 2048):
        torch.testing.assert_close(streamed(name, parts, [1, 1, 1], read), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", BLENDS)
def test_equal_estimates_stay_what_they_are(name: str) -> None:
    (part,) = estimates(1, 5000, channels=1)
    torch.testing.assert_close(streamed(name, [part] * 3, [1, 2, 3], 999), part, rtol=0, atol=1e-6)


def test_ties_go_to_the_first_estimate_and_in_uvr_to_the_last() -> None:
    part = torch.zeros(1, 4096)
    part[0, 2000] = 1.0
    for end in ("min", "max"):
        for name, sign in ((f"{end}_wave", 1), (f"{end}_fft", 1), (f"uvr_{end}_spec", -1)):
            found = streamed(name, [part, -part], [1, 1], 4096)
            assert float(found[0, 2000]) == pytest.approx(sign, abs=1e-6), name


def test_only_means_use_weights() -> None:
    parts = estimates(2, 3000)
    for name in BLENDS:
        same = torch.equal(streamed(name, parts, [1, 1], 3000), streamed(name, parts, [1, 9], 3000))
        assert same != (name in WEIGHTED)


def test_memory_does_not_grow() -> None:
    for name in ("median_fft", "median_wave"):
        blend = make_blend(name, [1, 1])
        for _ in range(50):
            blend.push(estimates(2, 5000))
        held = [value for value in vars(blend).values() if isinstance(value, torch.Tensor)]
        assert sum(value.untyped_storage().nbytes() for value in held) < 500_000


def test_unknown_blends_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="no blend named 'avg_waves'") as caught:
        make_blend("avg_waves", [1])
    assert caught.value.hint == "did you mean avg_wave?"


@pytest.mark.parametrize("name", BLENDS)
def test_no_length_makes_a_click_at_the_end(name: str) -> None:
    for length in (2047, 3000, 4095):
        parts = estimates(3, length)
        assert streamed(name, parts, [1, 1, 1], 512).abs().max() < 3 * torch.stack(parts).abs().max()


@pytest.fixture(scope="module")
def ensembler() -> Any:
    """The class of audio-separator, imported without the dependencies of its other modules."""
    pytest.importorskip("librosa")
    found = importlib.util.find_spec("audio_separator")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("no audio-separator")
    root = Path(next(iter(found.submodule_search_locations)))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("separator", "separator.uvr_lib_v5"):
            package = ModuleType(f"audio_separator.{name}")
            package.__path__ = [str(root.joinpath(*name.split(".")))]
            patch.setitem(sys.modules, package.__name__, package)
        yield importlib.import_module("audio_separator.separator.ensembler").Ensembler


@pytest.mark.slow
@pytest.mark.parametrize("length", [3072, 44_100, 50_001])
@pytest.mark.parametrize("name", BLENDS)
def test_blends_are_those_of_audio_separator(name: str, length: int, ensembler: Any) -> None:
    """Up to its last centre of a frame: `uvr_*_spec` ends there, the others divide by almost zero."""
    weights = [1.0, 0.5, 2.0] if name in WEIGHTED else [1.0, 1.0, 1.0]
    parts = estimates(3, length)
    waves = [part.double().numpy() for part in parts]
    theirs = ensembler(logging.getLogger(), name, weights).ensemble(waves)
    ours = streamed(name, parts, weights, 4099)
    shared = length if name.endswith("wave") else length // 1024 * 1024
    assert ours.shape[1] == length and theirs.shape[1] >= shared
    expected = theirs[:, :shared]
    error = ours[:, :shared].numpy() - expected
    assert np.square(error).mean() < 1e-10 * np.square(expected).mean()  # 100 dB

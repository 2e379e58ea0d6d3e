"""Every argument of the Python API accepts its valid values and names invalid ones."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from stemsplit import Separator, load_model, separate
from stemsplit.errors import SettingsError
from stemsplit.separation.samples import rate_of, samples_of
from stemsplit.settings import ChunkSettings, ComputeSettings, ModelSettings

MIX = (0.25 * np.random.default_rng(0).standard_normal((2, 3000))).clip(-1, 0.99).astype(np.float32)


@pytest.mark.parametrize("rate", [44100, 44100.0, np.int32(44100), np.float64(44100)])
def test_rates_that_are_whole(rate: Any) -> None:
    assert rate_of(rate) == 44100 and type(rate_of(rate)) is int


@pytest.mark.parametrize(
    "rate", [0, -44100, 44100.5, float("nan"), float("inf"), 10**12, True, "44100", None, [44100], 1j]
)
def test_rates_out_of_range_are_refused(rate: Any) -> None:
    with pytest.raises(SettingsError, match="sample_rate") as caught:
        Separator("classic").separate(MIX, rate)
    assert caught.value.setting == "sample_rate"


@pytest.mark.parametrize(
    ("given", "tolerance"),
    [
        (MIX.astype(np.float64), 0),
        (MIX.astype(np.float16), 1e-3),
        (torch.from_numpy(MIX), 0),
        (torch.from_numpy(MIX).requires_grad_(), 0),
        (torch.from_numpy(MIX).bfloat16(), 4e-3),
        (MIX.tolist(), 0),
        (np.asfortranarray(MIX), 0),
        (MIX.astype(">f4"), 0),
        (np.round(MIX * 2**15).astype(np.int16), 2**-16),
        (np.round(MIX * 2**15).astype(">i2"), 2**-16),
        (np.round(MIX.astype(np.float64) * 2**31).astype(np.int32), 2**-24),
        (np.round(MIX * 2**7).astype(np.int8), 2**-8),
        (np.round(MIX * 2**7 + 128).astype(np.uint8), 2**-8),
        (torch.from_numpy(np.round(MIX * 2**15).astype(np.int16)), 2**-16),
    ],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_samples_of_any_type_mean_the_same(given: Any, tolerance: float) -> None:
    found = samples_of(given)
    assert found.dtype == np.float32 and found.shape == MIX.shape
    assert np.abs(found - MIX).max() <= tolerance


def test_full_scale_is_one() -> None:
    for kind in (np.int8, np.int16, np.int32):
        limits = np.iinfo(kind)
        low, zero, high = samples_of(np.array([limits.min, 0, limits.max], kind))[0]
        assert (low, zero) == (-1, 0) and 1 - 2.0**-6 < high <= 1
    assert samples_of(np.array([0, 128, 255], np.uint8))[0].tolist() == [-1, 0, 127 / 128]


def test_one_channel_needs_no_axis() -> None:
    assert samples_of(MIX[0]).shape == (1, 3000)
    assert separate(MIX[0], "classic", sample_rate=44100)["vocals"].shape == (1, 3000)


@pytest.mark.parametrize("shape", [(2, 0), (0,), (1, 0)])
def test_no_samples_give_stems_without_samples(shape: tuple[int, ...]) -> None:
    found = separate(np.zeros(shape), "classic", sample_rate=8000.0)
    assert {stem.shape[1] for stem in found.values()} == {0} and len(found) == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (MIX.T, r"samples of shape \(3000, 2\): must be \[channels, samples\].*; transpose them"),
        (np.zeros((10**6 + 1, 1)), r"shape \(1000001, 1\)"),
        (np.zeros((9, 100)), r"shape \(9, 100\).* at most 8 channels$"),
        (np.zeros((0, 100)), r"shape \(0, 100\)"),
        (np.zeros((2, 2, 100)), r"shape \(2, 2, 100\)"),
        (np.float32(1), r"shape \(\)"),
        (None, r"shape \(\)"),
        ({"a": 1}, r"shape \(\)"),
        ([[1.0], [1.0, 2.0]], "must be an array"),
        (torch.zeros(2, 3).to_sparse(), "must be an array"),
        ([1, 2, 3], "type int64"),
        (np.zeros((2, 9), bool), "type bool"),
        (np.zeros((2, 9), complex), "type complex128"),
        (np.zeros((2, 9), np.uint16), "type uint16"),
        (np.array(["a", "b"]), "type <U1"),
        ([[float("nan")] * 9] * 2, "finite"),
        (np.full((2, 9), 1e39), "finite numbers that float32 can hold"),
    ],
)
def test_values_that_are_no_samples_are_refused(given: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        Separator("classic").separate(given, 44100)
    assert caught.value.setting == "source"


def test_samples_need_a_rate() -> None:
    with pytest.raises(SettingsError, match="samples need their sample_rate"):
        separate(MIX, "classic")


NAN = float("nan")
ARGUMENTS: list[tuple[Callable[[], object], str]] = [
    (lambda: ChunkSettings(overlap=1), "--overlap"),
    (lambda: ChunkSettings(overlap=-0.1), "--overlap"),
    (lambda: ChunkSettings(overlap=NAN), "--overlap"),
    (lambda: ChunkSettings(overlap="0.5"), "--overlap"),  # type: ignore[arg-type]
    (lambda: ChunkSettings(overlap=True), "--overlap"),
    (lambda: ChunkSettings(shifts=-1), "--shifts"),
    (lambda: ChunkSettings(shifts=10**9), "--shifts"),
    (lambda: ChunkSettings(shifts=1.5), "--shifts"),  # type: ignore[arg-type]
    (lambda: ChunkSettings(shifts=None), "--shifts"),  # type: ignore[arg-type]
    (lambda: ChunkSettings(seed="a"), "--seed"),  # type: ignore[arg-type]
    (lambda: ChunkSettings(batch_size=0), "--batch-size"),
    (lambda: ChunkSettings(batch_size=2.0), "--batch-size"),  # type: ignore[arg-type]
    (lambda: ChunkSettings(batch_size="auto"), "--batch-size"),  # type: ignore[arg-type]
    (lambda: ComputeSettings(threads=0), "--threads"),
    (lambda: ComputeSettings(threads=-1), "--threads"),
    (lambda: ComputeSettings(threads=1.5), "--threads"),  # type: ignore[arg-type]
    (lambda: ComputeSettings(threads=True), "--threads"),
    (lambda: ComputeSettings(device=0), "--device"),  # type: ignore[arg-type]
    (lambda: ComputeSettings(device=torch.device("cpu")), "--device"),  # type: ignore[arg-type]
    (lambda: ComputeSettings(precision="half"), "--precision"),  # type: ignore[arg-type]
    (lambda: ComputeSettings(precision=16), "--precision"),  # type: ignore[arg-type]
    (lambda: ComputeSettings(compile="no"), "--compile"),  # type: ignore[arg-type]
    (lambda: ModelSettings(segment_s=0), "--segment"),
    (lambda: Separator("classic", compute=ComputeSettings(device="tpu")), "device"),
    (lambda: Separator("classic", compute={"device": "cpu"}), "compute"),  # type: ignore[arg-type]
    (lambda: Separator("classic", chunks={"overlap": 0.5}), "chunks"),  # type: ignore[arg-type]
    (lambda: Separator("classic", callback=3), "callback"),  # type: ignore[arg-type]
    (lambda: Separator("classic", offline="yes"), "--offline"),  # type: ignore[arg-type]
    (lambda: Separator(3), "model"),  # type: ignore[arg-type]
    (lambda: Separator(None), "model"),  # type: ignore[arg-type]
    (lambda: Separator(""), "--model"),
    *(
        (lambda value=value: Separator("classic", segment_s=value), "--segment")  # type: ignore[misc]
        for value in (0, -1, NAN, float("inf"), 1e12, "6", True, 1e-9)
    ),
    (lambda: Separator("classic", stems="vocals"), "stems"),
    (lambda: Separator("classic", stems=[]), "--stem"),
    (lambda: Separator("classic", stems=[3]), "stems"),  # type: ignore[list-item]
    (lambda: Separator("classic", stems=3), "stems"),  # type: ignore[arg-type]
    (lambda: Separator("classic", stems=["piano"]), "stem"),
    (lambda: load_model("classic", stems="vocals"), "stems"),
    (lambda: separate(MIX, "classic", sample_rate=44100, stems="vocals"), "stems"),
    (lambda: separate(MIX, "classic", sample_rate=44100, callback="f"), "callback"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("number", range(len(ARGUMENTS)))
def test_invalid_arguments_are_named(number: int) -> None:
    call, setting = ARGUMENTS[number]
    with pytest.raises(SettingsError) as caught:
        call()
    assert caught.value.setting == setting
    assert "\n" not in caught.value.reason


def test_numpy_numbers_are_accepted() -> None:
    chunks = ChunkSettings(np.float32(0.25), np.int64(2), np.int64(1), np.int64(3))  # type: ignore[arg-type]
    separator = Separator("classic", segment_s=np.float32(1), chunks=chunks)  # type: ignore[arg-type]
    assert separator.separate(MIX, 44100)["bass"].shape == MIX.shape

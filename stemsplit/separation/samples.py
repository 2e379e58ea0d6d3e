"""Check and convert the samples and sample rates that callers of the Python API pass."""

from numbers import Real
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from stemsplit.errors import SettingsError
from stemsplit.separation.source import Audio
from stemsplit.settings import HIGHEST_RATE

MOST_CHANNELS = 8  # the most that a known channel layout has (7.1)


def rate_of(value: float) -> int:
    """Return a sample rate as an integer; 44100.0 is 44100.

    Raises:
        SettingsError: not a whole number of Hz, or out of range.
    """
    number = isinstance(value, Real) and not isinstance(value, bool)
    if not number or not 1 <= value <= HIGHEST_RATE or value != int(value):
        raise SettingsError(
            f"sample_rate {value!r}: must be a whole number of Hz from 1 to {HIGHEST_RATE}",
            setting="sample_rate",
        )
    return int(value)


def samples_of(value: ArrayLike | Tensor) -> Audio:
    """Return samples [C, T] in float32, full scale being 1.

    Args:
        value: an array, lists or a tensor on any device, [C, T] or [T]. Floating-point samples are taken as
            they are. Integers of 8, 16 and 32 bits are divided by their full scale; `uint8` has its zero at
            128, as in a WAV file.

    Raises:
        SettingsError: the value isn't an array of samples, has another type or the shape [T, C], or isn't
            finite.
    """
    array = _array(value)
    if array.ndim not in (1, 2) or (array.ndim == 2 and not array.shape[0]):
        raise _refused(f"samples of shape {array.shape}: must be [channels, samples]")
    if array.ndim == 2 and array.shape[0] > MOST_CHANNELS:
        rule = f"must be [channels, samples] with at most {MOST_CHANNELS} channels"
        turned = "; transpose them" if array.shape[1] <= MOST_CHANNELS else ""
        raise _refused(f"samples of shape {array.shape}: {rule}{turned}")
    scaled = np.atleast_2d(_scaled(array))  # [C, T]
    if not np.isfinite(scaled).all():
        raise _refused("samples must be finite numbers that float32 can hold")
    return scaled


def _array(value: object) -> NDArray[Any]:
    try:
        if isinstance(value, Tensor):
            value = value.detach().cpu()
            return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise _refused(f"samples must be an array [channels, samples] ({error})") from None


def _scaled(array: NDArray[Any]) -> Audio:
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):  # what overflows to infinity is refused by the caller
            return array.astype(np.float32)
    if kind == "i" and bits <= 32:
        return array.astype(np.float32) * np.float32(2.0 ** (1 - bits))
    if array.dtype == np.uint8:
        return (array.astype(np.float32) - np.float32(128)) * np.float32(1 / 128)
    raise _refused(
        f"samples of type {array.dtype}: must be floating-point, or integers of 8, 16 or 32 bits",
        hint="divide other integers by their full scale",
    )


def _refused(reason: str, hint: str | None = None) -> SettingsError:
    return SettingsError(reason, setting="source", hint=hint)

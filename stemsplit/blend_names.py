"""Names of blends of several estimates, and their weights."""

from collections.abc import Sequence
from typing import Literal, get_args

from stemsplit.errors import SettingsError, UnknownNameError

# Ways to blend several estimates, under audio-separator's names; see `core.blends`
Blend = Literal[
    "avg_wave",
    "median_wave",
    "min_wave",
    "max_wave",
    "avg_fft",
    "median_fft",
    "min_fft",
    "max_fft",
    "uvr_min_spec",
    "uvr_max_spec",
]
BLENDS: tuple[str, ...] = get_args(Blend)
WEIGHTED = ("avg_wave", "avg_fft")  # blends that are means, and so can have weights
DEFAULT_BLEND: Blend = "avg_wave"


def known_blend(name: str) -> str:
    """Return `name` if a blend has it.

    Raises:
        UnknownNameError: there is no such blend.
        SettingsError: it is audio-separator's `ensemble_wav`, which cuts a whole track into 240 parts and so
            can't be computed block by block.
    """
    if name == "ensemble_wav":
        hint = f"choose from {', '.join(BLENDS)}"
        raise SettingsError(f"--blend {name}: needs the whole track in memory", setting="--blend", hint=hint)
    if name not in BLENDS:
        raise UnknownNameError("blend", name, BLENDS)
    return name


def check_weights(count: int, blend: str, weights: Sequence[float] | None, what: str) -> tuple[float, ...]:
    """Return the weights of `count` estimates, 1 for each if none are given.

    Args:
        count: number of estimates.
        blend: one of `BLENDS`.
        weights: the given weights, or None.
        what: name of the estimates in messages, such as "files".

    Raises:
        SettingsError: there are more or fewer weights, the blend doesn't use them, or they are invalid.
    """
    if weights is None:
        return (1.0,) * count
    if blend not in WEIGHTED:
        hint = f"{' and '.join(WEIGHTED)} do"
        raise SettingsError(f"--weights: {blend} doesn't use weights", setting="--weights", hint=hint)
    shown = ",".join(f"{weight:g}" for weight in weights)
    if len(weights) != count:
        raise SettingsError(f"--weights {shown}: {count} {what} need {count} weights", setting="--weights")
    if not all(0 <= weight < float("inf") for weight in weights) or not sum(weights):
        raise SettingsError(f"--weights {shown}: must not be negative, nor all zero", setting="--weights")
    return tuple(weights)

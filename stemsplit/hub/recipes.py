"""Recipes: models that are combined, as ensembles whose stems are blended and as chains of steps."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.settings import BLENDS, DEFAULT_BLEND, check_weights
from stemsplit.stems import canonical

MIX = "mix"  # as the input of a step
_SIGN = re.compile(r"\s+([+-])\s+")


@dataclass(frozen=True)
class Step:
    """One model, or several whose stems are blended, over one input.

    Attributes:
        models: names, paths or hf:OWNER/REPO; in Python also objects that satisfy `core.stream.Separable`.
        input: what is separated: `mix`, a stem of an earlier step (`STEP.STEM`, or `vocals.lead` by the path
            of its stems), or a sum of them such as `mix - voices.vocals`.
        name: by which later steps and the outputs refer to it.
        blend: how the stems of several models become one, one of `settings.BLENDS`.
        weights: one for each model, for `avg_wave` and `avg_fft` only; None counts each of them once.
    """

    models: tuple[Any, ...]
    input: str = MIX
    name: str = ""
    blend: str = DEFAULT_BLEND
    weights: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not self.models:
            raise SettingsError("no model is given", setting="model")
        if any(model == "" for model in self.models if isinstance(model, str)):
            raise SettingsError("--model: is empty", setting="--model")
        if self.blend not in BLENDS:
            raise UnknownNameError("blend", self.blend, BLENDS)
        check_weights(len(self.models), self.blend, self.weights, "models")

    @property
    def counted(self) -> tuple[float, ...]:
        """The weight of every model."""
        return check_weights(len(self.models), self.blend, self.weights, "models")


@dataclass(frozen=True)
class Recipe:
    """Steps in an order in which each follows those that it takes its input from.

    Attributes:
        steps: the steps.
        outputs: what comes out, as a name and `STEP.STEM` each; None for every stem that no step takes.
    """

    steps: tuple[Step, ...]
    outputs: tuple[tuple[str, str], ...] | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise SettingsError("a recipe needs a step", setting="steps")
        named = [canonical(step.name) for step in self.steps if step.name]
        if twice := [name for name in named if named.count(name) > 1 or name == MIX]:
            raise SettingsError(f"two things are called {twice[0]}", setting="steps")


def terms_of(text: str) -> Sequence[tuple[str, str]]:
    """Return the signs and names of a sum such as `mix - voices.vocals`.

    Raises:
        SettingsError: it isn't one.
    """
    first, *others = _SIGN.split(text.strip())
    found = [("+", first), *zip(others[::2], others[1::2], strict=True)]
    if not all(name for _, name in found):
        raise SettingsError(f"input {text!r}: must be names with + and - between them", setting="input")
    return found

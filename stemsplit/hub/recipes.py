"""Recipes: models that are combined, as ensembles whose stems are blended and as chains of steps.

As a file or an entry of the registry:

    steps:
      - {name: voices, models: [a, b], blend: avg_fft, input: mix}
      - {name: dry, models: [c], input: voices.vocals}
    outputs: [dry.dry, voices.other]
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from stemsplit import reading
from stemsplit.documents import load
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.reading import Invalid, Number, Rule
from stemsplit.settings import BLENDS, DEFAULT_BLEND, check_weights
from stemsplit.stems import canonical

MIX = "mix"  # as the input of a step
_SIGN = re.compile(r"\s+([+-])\s+")


def _are_models(models: Sequence[Any]) -> bool:
    return bool(models) and all(not isinstance(model, (int, float, list, dict)) for model in models)


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

    models: Annotated[tuple[Any, ...], Rule("a list of models", _are_models)]
    input: str = MIX
    name: str = ""
    blend: str = DEFAULT_BLEND
    weights: tuple[Number, ...] | None = None

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
        outputs: the stems that come out, `STEP.STEM` each, or sums of them by name; every stem that no step
            takes if there are none.
    """

    steps: tuple[Step, ...]
    outputs: tuple[str, ...] | Mapping[str, str] = ()

    def __post_init__(self) -> None:
        if not self.steps:
            raise Invalid("steps", "a recipe needs a step")
        named = [canonical(step.name) for step in self.steps if step.name]
        if twice := [name for name in named if named.count(name) > 1 or name == MIX]:
            raise Invalid("steps", f"two things are called {twice[0]}")

    @property
    def terms(self) -> list[tuple[str, str]]:
        """The outputs as a name, "" for the path of the stem, and what they are."""
        if isinstance(self.outputs, Mapping):
            return list(self.outputs.items())
        return [("", term) for term in self.outputs]

    @property
    def models(self) -> Iterator[Any]:
        """All models, step by step."""
        for step in self.steps:
            yield from step.models


def is_recipe(path: Path) -> bool:
    """Tell a recipe's file from a bag's, by its `steps`.

    Raises:
        SettingsError: it's no YAML.
    """
    data = load(path).data
    return isinstance(data, Mapping) and "steps" in data


def read_recipe(path: Path) -> Recipe:
    """Read a recipe's file. Its relative paths begin at its folder.

    Raises:
        SettingsError: it's malformed; the message names the line.
    """
    recipe = reading.read(Recipe, load(path))

    def placed(model: Any) -> Any:
        beside = path.parent / str(model)
        return str(beside) if beside.exists() else model

    steps = (replace(step, models=tuple(map(placed, step.models))) for step in recipe.steps)
    return replace(recipe, steps=tuple(steps))


def terms_of(text: str) -> Sequence[tuple[str, str]]:
    """Return the signs and names of a sum such as `mix - voices.vocals`.

    Raises:
        SettingsError: a name is missing.
    """
    first, *others = _SIGN.split(text.strip())
    found = [("+", first), *zip(others[::2], others[1::2], strict=True)]
    if not all(name for _, name in found):
        raise SettingsError(f"input {text!r}: must be names with + and - between them", setting="input")
    return found

"""Recipes: combinations of models, as ensembles whose stems are blended and as chains of steps.

A file, or an entry of the registry:

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
from stemsplit.blend_names import DEFAULT_BLEND, check_weights, known_blend
from stemsplit.documents import load
from stemsplit.errors import SettingsError
from stemsplit.reading import Invalid, Number, Rule
from stemsplit.stems import canonical

MIX = "mix"  # the input of a step that separates the track itself
_SIGN = re.compile(r"\s+([+-])\s+")


def _are_models(models: Sequence[Any]) -> bool:
    return bool(models) and all(not isinstance(model, (int, float, list, dict)) for model in models)


@dataclass(frozen=True)
class Step:
    """Step of a recipe: one model, or several whose stems are blended, applied to one input.

    Attributes:
        models: names, paths or hf:OWNER/REPO; in Python also objects that satisfy `core.separable.Separable`.
        input: the audio to separate: `mix`, a stem of an earlier step (`STEP.STEM`, or `vocals.lead` by the
            path of its stems), or a sum of them such as `mix - voices.vocals`.
        name: the step's name in the inputs of later steps and in the outputs.
        blend: how the stems of several models are blended, one of `blend_names.BLENDS`.
        weights: one per model, for `avg_wave` and `avg_fft` only; None gives all the same weight.
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
        known_blend(self.blend)
        check_weights(len(self.models), self.blend, self.weights, "models")

    @property
    def counted(self) -> tuple[float, ...]:
        """Weight of each model, 1 if none are given."""
        return check_weights(len(self.models), self.blend, self.weights, "models")


@dataclass(frozen=True)
class Recipe:
    """Combination of models as a list of steps, each after those that its input comes from.

    Attributes:
        steps: the steps.
        outputs: the stems to give, each as `STEP.STEM`, or sums of them by name; if empty, all stems that no
            step takes as its input.
    """

    steps: tuple[Step, ...]
    outputs: tuple[str, ...] | Mapping[str, str] = ()

    def __post_init__(self) -> None:
        if not self.steps:
            raise Invalid("steps", "a recipe needs a step")
        named = [canonical(step.name) for step in self.steps if step.name]
        if twice := [name for name in named if named.count(name) > 1 or name == MIX]:
            raise Invalid("steps", f"a name is used twice: {twice[0]}")

    @property
    def terms(self) -> list[tuple[str, str]]:
        """Outputs as pairs of a name and a sum; the name "" stands for the path of the stem."""
        if isinstance(self.outputs, Mapping):
            return list(self.outputs.items())
        return [("", term) for term in self.outputs]

    @property
    def models(self) -> Iterator[Any]:
        """All models, in the order of the steps."""
        for step in self.steps:
            yield from step.models


def is_recipe(path: Path) -> bool:
    """Return whether a YAML file is a recipe, which has `steps`, and not a bag.

    Raises:
        SettingsError: the file isn't YAML.
    """
    data = load(path).data
    return isinstance(data, Mapping) and "steps" in data


def read_recipe(path: Path) -> Recipe:
    """Read a recipe file; relative paths in it start from its folder.

    Raises:
        SettingsError: the file is malformed; the message names the line.
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

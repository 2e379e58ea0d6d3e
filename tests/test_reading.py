"""Frozen dataclasses from plain data: types, rules and error messages."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from stemsplit.documents import Document, parse
from stemsplit.errors import SettingsError
from stemsplit.reading import Count, Invalid, Names, Number, Rows, Rule, above, at_least, fraction, read


@dataclass(frozen=True)
class Step:
    name: str
    models: Names
    blend: Literal["avg_wave", "avg_fft"] = "avg_wave"
    weights: Rows = ()
    input: str | None = None

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.models):
            raise Invalid("weights", "needs a row per model")
        if self.input == self.name:
            raise SettingsError("takes its own output", hint="another")


@dataclass(frozen=True)
class Recipe:
    steps: tuple[Step, ...]
    outputs: tuple[str, ...] | Mapping[str, str] = ()
    runs: Count = 1
    gain: Number | None = None
    pair: tuple[int, float] = (1, 1.0)
    options: Mapping[str, Any] = field(default_factory=dict)
    later: object = None
    deep: "Recipe | None" = None
    quiet: bool = False

    def __post_init__(self) -> None:
        if self.quiet and not self.outputs:
            raise Invalid("steps.0.name", "must be given out")


GOOD = """\
steps:
  - name: one
    models: [955717e8, b]
    weights: [[1, 0], [0.5, 1e-1]]
  - {name: two, models: [c], input: one, blend: avg_fft}
outputs: {vocals: two}
gain: 3
"""


def test_a_good_document() -> None:
    recipe = read(Recipe, parse(GOOD, "r.yaml"))
    assert recipe.steps[0] == Step("one", ("955717e8", "b"), weights=((1.0, 0.0), (0.5, 0.1)))
    assert recipe.steps[1] == Step("two", ("c",), "avg_fft", input="one")
    assert recipe.outputs == {"vocals": "two"} and type(recipe.gain) is float and recipe.runs == 1


def test_a_node_inside_a_document() -> None:
    document = parse("models:\n  mine:\n    recipe:\n      steps: [{name: a, modls: [b]}]\n", "own.yaml")
    with pytest.raises(SettingsError) as caught:
        read(Recipe, document, ("models", "mine", "recipe"))
    place = "own.yaml:4: models.mine.recipe.steps.0"
    assert caught.value.reason == f"{place}.modls: no such key; did you mean models?"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("outputs: 3", "r.yaml:9: outputs: must be a list, is 3"),
        ("runs: 0", "r.yaml:9: runs: must be a positive whole number, is 0"),
        ("runs: true", "r.yaml:9: runs: must be a positive whole number, is True"),
        ("runs: [1]", "r.yaml:9: runs: must be a positive whole number"),
        ("pair: [1]", "r.yaml:9: pair: must be a list of 2, has 1"),
        ("pair: [1.5, 2]", "r.yaml:9: pair.0: must be a whole number, is 1.5"),
        ("quiet: 1", "r.yaml:9: quiet: must be true or false, is 1"),
        ("options: [1]", "r.yaml:9: options: must be keys with values, is a list"),
        ("deep: {steps: [], gein: 1}", "r.yaml:9: deep.gein: no such key; did you mean gain?"),
        ("deep: {}", "r.yaml:9: deep: steps is missing"),
        ("deep: {zzzzzzzz: 1}", "r.yaml:9: deep: steps is missing"),
        ("deep: {steps: [], zzzzzzzz: 1}", "r.yaml:9: deep.zzzzzzzz: no such key; choose from steps, "),
        ("steps: [{name: a, models: []}]", "r.yaml:9: steps.0.models: must be a list of names"),
        (
            "steps: [{name: a, models: [x], blend: avg}]",
            "r.yaml:9: steps.0.blend: must be one of avg_wave, avg_fft, is 'avg'; did you mean avg_fft?",
        ),
        (
            "steps: [{name: a, models: [x],\n  weights: [[-1]]}]",
            "r.yaml:10: steps.0.weights: must be a list of lists of numbers, not below 0",
        ),
        (
            "steps: [{name: a, models: [x],\n  weights: [[1], [1]]}]",
            "r.yaml:10: steps.0.weights: needs a row per model",
        ),
        ("steps:\n  - name: a\n    models: [x]\n    input: a", "r.yaml:10: steps.0: takes its own output"),
        ("steps:\n  - {models: [x], name: a}\nquiet: true", "r.yaml:10: steps.0.name: must be given out"),
        ("gain: .nan", "r.yaml:9: gain: must be a number, not below 0, is nan"),
        ("gain: .inf", "r.yaml:9: gain: must be a number, not below 0, is inf"),
        ("gain: -1", "r.yaml:9: gain: must be a number, not below 0, is -1"),
        ("outputs: {a: [1]}", "r.yaml:9: outputs.a: must be text, is a list"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(more: str, said: str) -> None:
    text = "#\n" * 8 + more + ("" if more.startswith("steps") else "\nsteps: []\n")
    with pytest.raises(SettingsError) as caught:
        read(Recipe, parse(text, "r.yaml"))
    assert caught.value.reason.startswith(said)
    assert caught.value.hint == ("another" if "own output" in said else None)


def test_empty_sections_and_nothing() -> None:
    recipe = read(Recipe, parse("steps: []\noptions:\ngain:\nlater: [1e3]\n", "r.yaml"))
    assert recipe == Recipe((), later=["1e3"])
    with pytest.raises(SettingsError, match="^r.yaml:1: steps is missing"):
        read(Recipe, parse("", "r.yaml"))


def test_numbers_with_exponents_are_what_the_type_says() -> None:
    text = "steps: []\ngain: 1e2\noptions: {a: [1e2, '1e2'], b: {c: 1E-2}}\noutputs: [1e2]\n"
    recipe = read(Recipe, parse(text, "r.yaml"))
    assert recipe.gain == 100.0 and recipe.options == {"a": [100.0, "1e2"], "b": {"c": 0.01}}
    assert recipe.outputs == ("1e2",) and type(recipe.outputs[0]) is str
    with pytest.raises(SettingsError, match="gain: must be a number, not below 0, is '1e2'"):
        read(Recipe, parse("steps: []\ngain: '1e2'\n", "r.yaml"))


@dataclass(frozen=True)
class Aliased:
    path: str
    size: Annotated[int, Rule("even", lambda value: value % 2 == 0)] = 0
    own: bool = False

    @classmethod
    def from_yaml(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Replace `file` by `path`."""
        if "old" in entry:
            raise Invalid("old", "is not written any more")
        return {"path" if key == "file" else key: value for key, value in entry.items()}


def test_a_class_may_have_other_keys_than_fields_and_be_given_some() -> None:
    assert read(Aliased, Document({"file": "a"}, "here"), own=True) == Aliased("a", own=True)
    for data, said in (
        ({"file": "a", "own": True}, "here: own: no such key"),
        ({"old": 1}, "here: old: is not written any more"),
        ({"file": "a", "size": 3}, "here: size: must be even, is 3"),
    ):
        with pytest.raises(SettingsError, match=said):
            read(Aliased, Document(data, "here"), own=True)


def test_rules_for_single_values() -> None:
    above("a", None, 3)
    at_least("a", None, 3)
    for call, said in (
        (lambda: above("a", 3, 3), "a: must be above 3, is 3"),
        (lambda: at_least("a", 2.5, 3), "a: must be at least 3, is 2.5"),
        (lambda: fraction("a", 1, one=False), r"a: must be between 0 and 1 \(below 1\), is 1"),
        (lambda: fraction("a", float("nan")), "a: must be between 0 and 1, is nan"),
    ):
        with pytest.raises(Invalid, match=said):
            call()

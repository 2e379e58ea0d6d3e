"""The recipes of the registry, with the stems that the registry and the catalogue state for their models."""

import pytest

from stemsplit.hub.describe import Description
from stemsplit.hub.registry import find_model, members, registry
from stemsplit.separation.flow import resolve

RECIPES = [name for name, spec in registry().items() if spec.recipe is not None and not spec.own]


def stated(name: str) -> Description:
    """Describe a model without its files; the MDX-Net models don't state their stems."""
    spec = find_model(str(name))
    stems = spec.all_stems or ("instrumental", "vocals")
    return Description(spec.name, stems, None, spec.sample_rate, spec.residual)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_gives_the_stems_that_its_entry_states(name: str) -> None:
    spec = find_model(name)
    assert spec.recipe is not None
    assert resolve(spec.recipe, stated).stems == spec.stems
    assert {member.name for member in members(spec)} >= set(map(str, spec.recipe.models)) - {"htdemucs_ft"}
    assert not [member.name for member in members(spec) if member.reason]


def test_the_presets_of_audio_separator_are_there() -> None:
    expected = "vocal_balanced vocal_clean vocal_full vocal_rvc instrumental_clean instrumental_full"
    expected += " instrumental_balanced instrumental_low_resource karaoke"
    assert set(expected.split()) == {name for name in RECIPES if find_model(name).task == "preset"}


def test_every_stem_of_an_ensemble_is_blended() -> None:
    for name in RECIPES:
        spec = find_model(name)
        if spec.task == "preset":
            assert spec.recipe is not None
            flow = resolve(spec.recipe, stated)
            main = spec.stems[-1] if name == "karaoke" else spec.stems[0]
            signal = flow.sums[main].terms[0]
            assert len(flow.blends[signal].parts) == len(spec.recipe.steps[0].models), name

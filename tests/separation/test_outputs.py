"""Which outputs a track has, and what they are sums of."""

import numpy as np
import pytest

from stemsplit.errors import SettingsError, StemsplitError, UnknownNameError
from stemsplit.separation.outputs import MIX, Output, Sum, mix_down, plan_outputs
from stemsplit.settings import StemSettings

STEMS = ("drums", "bass", "other", "vocals")


def names(settings: StemSettings) -> list[str]:
    return [output.name for output in plan_outputs(STEMS, settings)]


def test_all_stems_by_default() -> None:
    assert names(StemSettings()) == list(STEMS)


def test_stems_come_in_the_models_order() -> None:
    assert names(StemSettings(stems=("vocals", "drums"))) == ["drums", "vocals"]


def test_complements_and_mixes() -> None:
    settings = StemSettings(stems=("vocals",), rest=True, mixes=(("band", ("drums", "bass")),))
    outputs = plan_outputs(STEMS, settings)
    assert [o.name for o in outputs] == ["vocals", "no_vocals", "band"]
    assert outputs[1] == Output("no_vocals", Sum((MIX,), ("vocals",)))


def test_karaoke_is_everything_but_the_vocals() -> None:
    outputs = plan_outputs(STEMS, StemSettings(karaoke=True))
    assert outputs == (Output("instrumental", Sum(("drums", "bass", "other"))),)


# What recipes with outputs of their own give, and the stems inside of them
NAMED = [
    (("lead", "backing", "instrumental"), ("vocals", "other"), Sum(("instrumental",))),
    (("band",), ("drums", "bass", "other", "vocals"), Sum((MIX,), ("vocals",))),
    (("kick", "snare", "no_drums"), ("drums", "vocals"), Sum((MIX,), ("vocals",))),
]


@pytest.mark.parametrize(("stems", "inner", "karaoke"), NAMED)
def test_stems_inside_a_recipe_can_be_asked_for_and_are_counted_once(
    stems: tuple[str, ...], inner: tuple[str, ...], karaoke: Sum
) -> None:
    for stem in inner:
        assert plan_outputs(stems, StemSettings(stems=(stem,)), inner) == (Output(stem, Sum((stem,))),)
    assert plan_outputs(stems, StemSettings(karaoke=True), inner) == (Output("instrumental", karaoke),)


def test_a_stem_in_parts_means_its_parts() -> None:
    stems, whole = ("vocals.lead", "vocals.backing", "other"), ("vocals",)
    found = plan_outputs(stems, StemSettings(stems=("vocals",)), whole)
    assert [output.name for output in found] == ["vocals.lead", "vocals.backing"]
    (karaoke,) = plan_outputs(stems, StemSettings(karaoke=True), whole)
    assert karaoke.sum == Sum(("other",))


def test_a_stem_called_mix_is_not_taken_for_the_input() -> None:
    outputs = plan_outputs(("mix", "vocals"), StemSettings(stems=("Mix",), rest=True))
    mix, stem = np.full((1, 3), 5, np.float32), np.full((1, 3), 2, np.float32)
    found = mix_down([output.sum for output in outputs], {"mix": stem, MIX: mix})
    assert [o.name for o in outputs] == ["mix", "no_mix"]
    assert found[0].tolist() == stem.tolist() and found[1].tolist() == (mix - stem).tolist()


@pytest.mark.parametrize(
    "settings",
    [
        StemSettings(mixes=(("vocals", ("drums",)),)),
        StemSettings(mixes=(("a", ("drums",)), ("A", ("bass",)))),
        StemSettings(mixes=(("../up", ("drums",)),)),
        StemSettings(stems=("voices",)),
        StemSettings(mixes=(("x", ("guitar",)),)),
    ],
)
def test_what_is_refused(settings: StemSettings) -> None:
    with pytest.raises(SettingsError):
        plan_outputs(STEMS, settings)


def test_a_stem_that_is_misspelt_gets_a_hint() -> None:
    with pytest.raises(UnknownNameError) as caught:
        plan_outputs(STEMS, StemSettings(stems=("vocal",)))
    assert caught.value.hint == "did you mean vocals?"


def test_karaoke_without_vocals() -> None:
    with pytest.raises(StemsplitError, match="no vocals"):
        plan_outputs(("speech", "noise"), StemSettings(karaoke=True))
    with pytest.raises(SettingsError, match="--karaoke"):
        StemSettings(karaoke=True, rest=True)


def test_sums_are_exact() -> None:
    generator = np.random.default_rng(0)
    mix, drums, bass = generator.standard_normal((3, 2, 50)).astype(np.float32)
    sums = (Sum(("drums",)), Sum((MIX,), ("drums",)), Sum(("drums", "bass")), Sum((), ("drums", "bass")))
    result = mix_down(sums, {"drums": drums, "bass": bass, MIX: mix})
    assert np.array_equal(result, np.stack([drums, mix - drums, drums + bass, -(drums + bass)]))


@pytest.mark.parametrize(
    ("total", "expanded"),
    [
        (Sum(("other",)), Sum((MIX,), ("vocals",))),
        (Sum((MIX,), ("other",)), Sum(("vocals",))),
        (Sum((MIX,), ("vocals",)), Sum((MIX,), ("vocals",))),
        (Sum(("vocals", "other")), Sum((MIX,))),
        (Sum(("vocals",)), Sum(("vocals",))),
    ],
)
def test_the_residual_stem_is_the_mix_less_all_others(total: Sum, expanded: Sum) -> None:
    assert total.expand({"other": Sum((MIX,), ("vocals",))}) == expanded


@pytest.mark.parametrize(
    ("stems", "asked", "found"),
    [
        (STEMS, "instrumental", Output("instrumental", Sum((MIX,), ("vocals",)))),
        (STEMS, "Accompaniment", Output("accompaniment", Sum((MIX,), ("vocals",)))),
        (STEMS, "no drums", Output("no_drums", Sum((MIX,), ("drums",)))),
        (("vocals", "instrumental"), "instrumental", Output("instrumental", Sum(("instrumental",)))),
        ((*STEMS, "no_vocals"), "instrumental", Output("instrumental", Sum(("no_vocals",)))),
        ((*STEMS, "no_vocals"), "no vocals", Output("no_vocals", Sum(("no_vocals",)))),
    ],
)
def test_the_mix_less_a_stem_can_be_asked_for(stems: tuple[str, ...], asked: str, found: Output) -> None:
    assert plan_outputs(stems, StemSettings(stems=(asked,))) == (found,)


def test_no_instrumental_without_vocals() -> None:
    with pytest.raises(UnknownNameError, match="no stem named 'instrumental'"):
        plan_outputs(("speech", "noise"), StemSettings(stems=("instrumental",)))


def test_karaoke_counts_nothing_twice() -> None:
    both = (*STEMS, "no_vocals")  # as an ensemble of a four-stem and a two-stem model gives
    assert plan_outputs(both, StemSettings(karaoke=True)) == (Output("instrumental", Sum(("no_vocals",))),)
    parts = ("drums", "bass", "other", "vocals.lead", "vocals.backing")
    found = plan_outputs(parts, StemSettings(karaoke=True), ("vocals",))
    assert found == (Output("instrumental", Sum(("drums", "bass", "other"))),)


def test_a_divided_stem_stands_for_its_parts_and_in_sums_for_itself() -> None:
    parts = ("vocals.lead", "vocals.backing", "drums")
    settings = StemSettings(stems=("Vocals",), rest=True, mixes=(("band", ("drums", "vocals")),))
    found = plan_outputs(parts, settings, ("vocals",))
    assert [str(output.sum) for output in found] == [
        "vocals.lead",
        "vocals.backing",
        "mix-vocals.lead",
        "mix-vocals.backing",
        "drums+vocals",
    ]

"""Which outputs a track has, and what they are sums of."""

import numpy as np
import pytest

from stemsplit.errors import SettingsError, StemsplitError, UnknownNameError
from stemsplit.separation.mixes import MIX, Output, mix_down, needed_stems, plan_outputs
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
    assert outputs[1] == Output("no_vocals", (MIX,), ("vocals",))
    assert needed_stems(outputs, STEMS) == ("drums", "bass", "vocals")


def test_a_complement_needs_its_stem_only() -> None:
    outputs = plan_outputs(STEMS, StemSettings(stems=("vocals",), rest=True))
    assert needed_stems(outputs, STEMS) == ("vocals",)


def test_karaoke_is_everything_but_the_vocals() -> None:
    outputs = plan_outputs(STEMS, StemSettings(karaoke=True))
    assert outputs == (Output("instrumental", ("drums", "bass", "other")),)


def test_a_stem_called_mix_is_not_taken_for_the_input() -> None:
    outputs = plan_outputs(("mix", "vocals"), StemSettings(stems=("Mix",), rest=True))
    mix, stem = np.full((1, 3), 5, np.float32), np.full((1, 3), 2, np.float32)
    found = mix_down(outputs, {"mix": stem, MIX: mix})
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
    outputs = (Output("d", ("drums",)), Output("rest", (MIX,), ("drums",)), Output("both", ("drums", "bass")))
    result = mix_down(outputs, {"drums": drums, "bass": bass, MIX: mix})
    assert np.array_equal(result, np.stack([drums, mix - drums, drums + bass]))


@pytest.mark.parametrize(
    ("output", "plus", "minus"),
    [
        (Output("other", ("other",)), (MIX,), ("vocals",)),
        (Output("no_other", (MIX,), ("other",)), ("vocals",), ()),
        (Output("no_vocals", (MIX,), ("vocals",)), (MIX,), ("vocals",)),
        (Output("all", ("vocals", "other")), (MIX,), ()),
        (Output("vocals", ("vocals",)), ("vocals",), ()),
    ],
)
def test_the_residual_stem_is_the_mix_less_all_others(
    output: Output, plus: tuple[str, ...], minus: tuple[str, ...]
) -> None:
    found = output.expand("other", ("vocals",))
    assert (found.name, found.plus, found.minus) == (output.name, plus, minus)

"""Names of stems, and the rule that finds them."""

import pytest

from stemsplit.errors import StemsplitError, UnknownNameError
from stemsplit.stems import canonical, canonical_stems, find_stem


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("vocals", "vocals"),
        ("Vocals", "vocals"),
        ("No Reverb", "no_reverb"),
        ("No Drum-Bass", "no_drum_bass"),
        (" lead__vocals ", "lead_vocals"),
        ("Drums, Bass + FX", "drums_bass_fx"),
        ("ÉLECTRIQUE", "électrique"),
        ("e\u0301", "é"),  # as in macOS' file names
        ("歌声", "歌声"),
        ("-", "-"),
    ],
)
def test_canonical(written: str, name: str) -> None:
    assert canonical(written) == name
    assert canonical(name) == name, "twice is once"


@pytest.mark.parametrize(
    "typed", ["No Reverb", "no reverb", "no_reverb", "no-reverb", "NO_REVERB", "NoReverb", " no  reverb "]
)
def test_every_way_to_write_a_name_finds_it(typed: str) -> None:
    assert find_stem(typed, ("reverb", "no_reverb")) == "no_reverb"


def test_what_is_not_there_is_told_with_the_names_that_are() -> None:
    with pytest.raises(UnknownNameError) as caught:
        find_stem("Piano", ("no_reverb", "reverb"))
    assert caught.value.reason == "no stem named 'Piano'"
    assert caught.value.hint == "choose from no_reverb, reverb"


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("Vocals", "vocals"),
        ("no reverb", "No-Reverb"),
        ("No Reverb", "noreverb"),
        ("a", ""),
        ("a", " . "),
        ("a", "b/c"),
        ("a", "b\\c"),
        ("a", "b\n"),
        (1, 2),
        ("a", None),
    ],
)
def test_names_that_are_the_same_or_invalid_in_a_file_name(names: tuple[str, ...]) -> None:
    with pytest.raises(StemsplitError, match="must be different names that can stand in a file's name"):
        canonical_stems(names)

"""Names of the files of a multitrack: stems, mixtures, and sums such as `no_vocals`.

`datasets.layouts` finds files by these names, `datasets.sums` tells stems from sums of stems.
"""

import re
from collections.abc import Iterable

MIXTURE = "mixture"
MIXTURE_NAMES = frozenset({"mixture", "mix", "input"})
KNOWN_STEMS = frozenset(
    "drums bass other vocals accompaniment instrumental guitar piano percussion strings bowed_strings wind "
    "other_plucked other_keys keys synth lead_vocals backing_vocals speech music effects".split()
)
VOICES = frozenset("vocals lead_vocals backing_vocals vocal voice voices vox singing speech".split())

# names for everything but the vocals
_ACCOMPANIMENTS = frozenset(
    "accompaniment instrumental instrumentals karaoke backing_track backing_tracks playback minus_one "
    "mix_minus_one music_minus_one off_vocal karaoke_mix instrumental_mix novocals".split()
)
# names for another mixture (a master, a mixdown) beside the mixture itself
_MIXTURES = frozenset(
    "linear_mixture linear_mix mixture_linear full_mix fullmix mixdown master mastered premaster stereo_mix "
    "original_mix main_mix final_mix rough_mix".split()
)
_ALL_BUT = re.compile(r"(?:mix_|mixture_)?(?:no|minus|without)_(.+)")


def left_out_by(name: str, stems: Iterable[str] = ()) -> frozenset[str] | None:
    """Return the stems that a sum lacks according to its name; None if the name isn't that of a sum.

    Args:
        name: the name of a file or of a model's output.
        stems: stems of the track beside the usual ones, for `no_<stem>`.

    >>> sorted(left_out_by("no_bass")), left_out_by("full mix"), left_out_by("guitar")
    (['bass'], frozenset(), None)
    """
    plain = re.sub(r"[\s_-]+", "_", name.lower()).strip("_")
    if plain in _ACCOMPANIMENTS:
        return VOICES
    if plain in _MIXTURES:
        return frozenset()
    found = _ALL_BUT.fullmatch(plain)
    lacking = {found[1], f"{found[1]}s"} if found else set()
    if lacking & VOICES:
        return VOICES
    return frozenset(lacking & {*KNOWN_STEMS, *stems}) or None

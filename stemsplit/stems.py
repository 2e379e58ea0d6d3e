"""Names of stems: one spelling inside the package, and one rule to find a stem that a user types.

Checkpoints name their stems `Vocals`, `No Reverb` or `No Drum-Bass`. Networks convert these names to
`vocals`, `no_reverb` and `no_drum_bass`, which are also used for files, results and the stems of data sets,
so that they can be compared directly. Only names that a user types need `find_stem`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from stemsplit.errors import SettingsError, StemsplitError, UnknownNameError

# Spaces, dashes and underscores are equivalent; commas, plus and equals signs separate names in options
_BETWEEN_WORDS = re.compile(r"[\s_,+=-]+")


def canonical(name: str) -> str:
    """Return a stem's name in lower case with words joined by underscores: `no_reverb` for `No Reverb`."""
    composed = unicodedata.normalize("NFC", name).lower()
    return "_".join(word for word in _BETWEEN_WORDS.split(composed) if word) or composed


def canonical_stems(names: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical names of a model's stems, in its order.

    Raises:
        StemsplitError: a name can't be part of a file's name, or two are the same for `find_stem`.
    """
    given = tuple(names)
    written = tuple(canonical(name) for name in given if is_file_name(name))
    found = tuple(ENGLISH.get(name, name) for name in written)
    if not found or len({_key(name) for name in found}) < len(given):
        raise StemsplitError(
            f"its stems must be different names that can stand in a file's name, not {_shown(given)}"
        )
    return found


# Names in published checkpoints, and the English ones that they get
ENGLISH = {
    "bombo": "kick",
    "redoblante": "snare",
    "platillos": "cymbals",
    "hh": "hihat",
    "noreverb": "no_reverb",
}
# Words for one stem; a model has at most one of each line. Compared without underscores
_SYNONYMS = tuple(
    frozenset(line.split())
    for line in (
        "noreverb dry dereverb",
        "hihat hh hihats",
        "kick bombo bassdrum",
        "snare redoblante",
        "cymbals platillos",
        "lead leadvocal leadvocals",
        "back backing backvocal backvocals backingvocal backingvocals",
        "speech dialog dialogue",
        "effects sfx fx",
    )
)

BEST = "best:"  # stands before a stem in place of a model's name
# Names that models use for everything but the vocals
ACCOMPANIMENTS = frozenset({"no_vocals", "instrumental", "accompaniment"})


def meanings(stems: Sequence[str]) -> dict[str, str]:
    """Return a comparable name for each stem of a model: the accompaniment, however named, is `no_vocals`.

    `other` is the accompaniment only in a model of `vocals` and `other`, not in one with drums and bass too.
    Beside `karaoke`, the track without its lead voice, it is the voice.
    """
    if set(stems) == {"karaoke", "other"}:
        return {"karaoke": "no_vocals", "other": "vocals"}
    two_stems = set(stems) == {"vocals", "other"}
    return {
        stem: "no_vocals" if stem in ACCOMPANIMENTS or (two_stems and stem == "other") else stem
        for stem in stems
    }


def names_of(stems: object) -> tuple[str, ...] | None:
    """Return the stems that a caller of the Python API asks for as a tuple of names; None stands for all.

    Raises:
        SettingsError: they aren't a list of names, or the list is empty.
    """
    if stems is None:
        return None
    if isinstance(stems, str):
        raise SettingsError(f"stems {stems!r}: must be a list", setting="stems", hint=f"stems=[{stems!r}]")
    if not isinstance(stems, Sequence) or not all(isinstance(stem, str) for stem in stems):
        raise SettingsError(f"stems {stems!r}: must be a list of names", setting="stems")
    if not stems:
        raise SettingsError("no stem is asked for", setting="--stem")
    return tuple(stems)


def find_stem(name: str, stems: Sequence[str]) -> str:
    """Return the stem of that name, ignoring case, spaces, underscores and dashes, or of a synonym.

    Raises:
        UnknownNameError: there is no such stem.
    """
    for stem in stems:
        if _key(stem) == _key(name):
            return stem
    for words in _SYNONYMS:
        same = [stem for stem in stems if _key(stem) in words]
        if _key(name) in words and len(same) == 1:
            return same[0]
    raise UnknownNameError("stem", name, tuple(stems))


def _key(name: str) -> str:
    return canonical(name).replace("_", "") or name


def is_file_name(name: object) -> bool:
    """Return whether a stem's name can be part of a file's name."""
    printable = isinstance(name, str) and name.isprintable() and bool(name.strip(" ."))
    return printable and not {"/", "\\"} & set(str(name))


def _shown(names: Sequence[object]) -> str:
    return ", ".join(map(repr, names)) or "none at all"

"""Names of stems: one spelling inside the package, and one rule by which what a person types finds it.

Checkpoints call their stems `Vocals`, `No Reverb` or `No Drum-Bass`. A network takes such names in as
`vocals`, `no_reverb` and `no_drum_bass`; these are the names of files, of results and of data sets' stems, so
that they can be compared as they are. Only what a person types needs `find_stem`.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence

from stemsplit.errors import StemsplitError, UnknownNameError

# Space, dash and underscore are written for each other; comma, plus and equals sign part names in options.
_BETWEEN_WORDS = re.compile(r"[\s_,+=-]+")


def canonical(name: str) -> str:
    """Return a stem's name in lower case, its words joined by underscores: `no_reverb` for `No Reverb`."""
    composed = unicodedata.normalize("NFC", name).lower()
    return "_".join(word for word in _BETWEEN_WORDS.split(composed) if word) or composed


def canonical_stems(names: Iterable[str]) -> tuple[str, ...]:
    """Return the canonical names of a model's stems, in its order.

    Raises:
        StemsplitError: a name can't stand in a file's name, or two are the same to `find_stem`.
    """
    given = tuple(names)
    found = tuple(canonical(name) for name in given if _is_name(name))
    if not found or len({_key(name) for name in found}) < len(given):
        raise StemsplitError(
            f"its stems must be different names that can stand in a file's name, not {_shown(given)}"
        )
    return found


# what models call everything but the vocals
ACCOMPANIMENTS = frozenset({"no_vocals", "instrumental", "accompaniment"})


def meanings(stems: Sequence[str]) -> dict[str, str]:
    """Return what each of a model's stems means, so that stems of different models can be compared.

    The accompaniment is called `no_vocals`, also where it is the `other` beside vocals alone. The `other` of
    a model that gives drums and bass too is something else.
    """
    alone = set(stems) == {"vocals", "other"}
    return {
        stem: "no_vocals" if stem in ACCOMPANIMENTS or (alone and stem == "other") else stem for stem in stems
    }


def find_stem(name: str, stems: Sequence[str]) -> str:
    """Return the one of `stems` that `name` means, without regard to case, spaces, underscores and dashes.

    Raises:
        UnknownNameError: none of them.
    """
    for stem in stems:
        if _key(stem) == _key(name):
            return stem
    raise UnknownNameError("stem", name, tuple(stems))


def _key(name: str) -> str:
    return canonical(name).replace("_", "") or name


def _is_name(name: object) -> bool:
    printable = isinstance(name, str) and name.isprintable() and bool(name.strip(" ."))
    return printable and not {"/", "\\"} & set(str(name))


def _shown(names: Sequence[object]) -> str:
    return ", ".join(map(repr, names)) or "none at all"

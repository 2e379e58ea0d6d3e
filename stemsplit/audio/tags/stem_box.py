"""The box by which DJ programs recognise a stem file: names, colours and the settings of the DSP.

Native Instruments' box `stem` lies in `moov.udta` and holds JSON. The DSP is what a player applies to the sum
of the stems, to imitate the mastering of the mixture. It is off: the stems sum to the mixture as they are.
"""

import json
from collections.abc import Sequence

from stemsplit.audio.tags.mp4 import box
from stemsplit.formats import color_of

_COMPRESSOR = {
    "enabled": False,
    "ratio": 1.0,
    "attack": 0.003,
    "release": 0.3,
    "threshold": 0.0,
    "input_gain": 0.0,
    "output_gain": 0.0,
    "hp_cutoff": 300,
    "dry_wet": 50,
}
_LIMITER = {"enabled": False, "release": 0.05, "threshold": 0.0, "ceiling": 0.0}


def stem_box(stems: Sequence[str]) -> bytes:
    """Return the `stem` box for the stems of a file, in the order of its streams."""
    content = {
        "version": 1,
        "mastering_dsp": {"compressor": _COMPRESSOR, "limiter": _LIMITER},
        "stems": [{"name": name.capitalize(), "color": color_of(name)} for name in stems],
    }
    return box(b"stem", json.dumps(content).encode())

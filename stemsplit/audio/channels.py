"""From any common loudspeaker layout to mono or stereo, and from mono to stereo."""

import numpy as np

from stemsplit.audio.source import Array
from stemsplit.errors import StemsplitError

# ITU-R BS.775-3, table 2: centre and surround at -3 dB, the low-frequency channel left out
_HALF = np.sqrt(0.5)
_LEFT = {"FL": 1.0, "FC": _HALF, "BL": _HALF, "SL": _HALF, "BC": 0.5, "FLC": 1.0, "DL": 1.0}
_RIGHT = {"FR": 1.0, "FC": _HALF, "BR": _HALF, "SR": _HALF, "BC": 0.5, "FRC": 1.0, "DR": 1.0}

# FFmpeg's names of layouts and its order of channels, which WAV, FLAC and its decoders share
_LAYOUTS = {
    "mono": "FC",
    "stereo": "FL FR",
    "downmix": "DL DR",
    "2.1": "FL FR LFE",
    "3.0": "FL FR FC",
    "3.0(back)": "FL FR BC",
    "3.1": "FL FR FC LFE",
    "4.0": "FL FR FC BC",
    "quad": "FL FR BL BR",
    "quad(side)": "FL FR SL SR",
    "4.1": "FL FR FC LFE BC",
    "5.0": "FL FR FC BL BR",
    "5.0(side)": "FL FR FC SL SR",
    "5.1": "FL FR FC LFE BL BR",
    "5.1(side)": "FL FR FC LFE SL SR",
    "6.0": "FL FR FC BC SL SR",
    "6.1": "FL FR FC LFE BC SL SR",
    "6.1(back)": "FL FR FC LFE BL BR BC",
    "7.0": "FL FR FC BL BR SL SR",
    "7.1": "FL FR FC LFE BL BR SL SR",
    "7.1(wide)": "FL FR FC LFE BL BR FLC FRC",
}
_USUAL = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def convert_channels(block: Array, channels: int, layout: str | None = None) -> Array:
    """A block [C, n] in `channels` channels (1 or 2): [channels, n].

    Mono is copied into both stereo channels, stereo becomes mono as its mean, and more channels are mixed
    down by ITU-R BS.775 (from there to mono as the mean). A block that has the channels already is returned
    as it is.

    Args:
        block: the audio.
        channels: how many are wanted.
        layout: the loudspeakers in FFmpeg's words; None or an unknown word is the usual one of C channels.

    Raises:
        StemsplitError: there is no rule for these channels.
    """
    have = block.shape[0]
    if have == channels:
        return block
    if have == 1 and channels == 2:
        return np.repeat(block, 2, axis=0)
    matrix = downmix_matrix(have, layout)
    if channels == 1:
        matrix = matrix.mean(axis=0, keepdims=True)
    elif channels != 2:
        raise StemsplitError(f"{have} channels can become 1 or 2, not {channels}")
    return matrix @ block


def downmix_matrix(channels: int, layout: str | None = None) -> Array:
    """The gains [2, C] that mix C channels down to stereo.

    Raises:
        StemsplitError: there is no rule for these channels.
    """
    named = _LAYOUTS.get(layout or "", "").split()
    names = named if len(named) == channels else _LAYOUTS.get(_USUAL.get(channels, ""), "").split()
    if not names:
        raise StemsplitError(
            f"{channels} channels: no rule to mix them down",
            hint="mix them down first, for example with ffmpeg -i IN -ac 2 OUT",
        )
    return np.array([[side.get(name, 0.0) for name in names] for side in (_LEFT, _RIGHT)], np.float32)

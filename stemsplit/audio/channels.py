"""Converting audio from any loudspeaker layout to mono or stereo, and from mono to stereo."""

from functools import lru_cache
from typing import Any

import av
import numpy as np

from stemsplit.audio.decoding import Array
from stemsplit.errors import StemsplitError

# FFmpeg's order of the loudspeakers that WAV masks name, which its native layouts follow
_ORDER = (
    "FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR DL DR WL WR SDL SDR LFE2 TSL TSR "
    "BFC BFL BFR"
).split()
# the layout of a codec that tells where its channels lie, in a way that FFmpeg can't follow
UNKNOWN = "unknown"
# the low-frequency effects are left out of a downmix (ITU-R BS.775-3, annex 4)
_OMITTED = {"LFE", "LFE2"}
# the layouts to assume where a file names none: those of FLAC and Vorbis, in WAV's order
_USUAL = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def convert_channels(block: Array, channels: int, layout: str | None = None) -> Array:
    """Convert a block [C, n] to `channels` channels (1 or 2): [channels, n].

    Mono is copied into both stereo channels, stereo becomes mono as its mean, and more channels are mixed
    down by ITU-R BS.775 (from there to mono as the mean). A block that has the channels already is returned
    as it is.

    Args:
        block: the audio.
        channels: how many are wanted.
        layout: the loudspeakers in FFmpeg's words; None is the usual layout of C channels.

    Raises:
        StemsplitError: there is no rule for these channels.
    """
    have = block.shape[0]
    if have == channels:
        return block
    if have == 1 and channels == 2:
        return np.repeat(block, 2, axis=0)  # [1, n] -> [2, n]
    matrix = downmix_matrix(have, layout)
    if channels == 1:
        matrix = matrix.mean(axis=0, keepdims=True)  # [2, C] -> [1, C]
    elif channels != 2:
        raise StemsplitError(f"{have} channels can become 1 or 2, not {channels}")
    return matrix @ block


def downmix_matrix(channels: int, layout: str | None = None) -> Array:
    """Return the gains [2, C] that mix C channels down to stereo, as FFmpeg mixes float samples.

    Args:
        channels: C.
        layout: the loudspeakers in FFmpeg's words, such as "5.1(side)" or "FL+FR+BC"; None is the usual
            layout of C channels. One and two channels are mono and stereo whatever it says.

    Raises:
        StemsplitError: the layout is unknown or has a loudspeaker without a rule.
    """
    if channels <= 2 or layout is None:
        layout = usual_layout(channels)
    try:
        names = [channel.name for channel in av.AudioLayout(layout).channels]
    except ValueError:
        names = []
    if len(names) != channels or len(set(names)) != channels or not set(names) <= set(_ORDER):
        raise _no_rule(f"{channels} channels in the layout {layout}")
    native = sorted(names, key=_ORDER.index)
    gains = dict(zip(native, _native_gains("+".join(native)), strict=True))
    if lost := [name for name in names if name not in _OMITTED and not any(gains[name])]:
        raise _no_rule(f"{channels} channels with {' '.join(lost)}")
    return np.array([gains[name] for name in names], np.float32).T  # [C, 2] -> [2, C]


def usual_layout(channels: int) -> str:
    """Return the layout to assume for audio that says nothing but its number of channels.

    Raises:
        StemsplitError: no layout is usual for so many channels.
    """
    if channels not in _USUAL:
        raise _no_rule(f"{channels} channels")
    return _USUAL[channels]


def layout_name(layout: av.AudioLayout) -> str | None:
    """Return FFmpeg's name of a layout that knows its loudspeakers, None for one that only counts them."""
    name: str = layout.name
    if "channels (" in name:  # such as "3 channels (FL+FR+LFE2)"
        return "+".join(channel.name for channel in layout.channels)
    return None if name.endswith(" channels") else name


@lru_cache
def _native_gains(layout: str) -> list[tuple[float, float]]:
    """Return the left and right gain of every channel, read off libswresample with one impulse per channel.

    Float samples aren't scaled by the largest sum of gains, as FFmpeg scales integers.
    """
    channels = layout.count("+") + 1
    impulses = np.eye(channels, dtype=np.float32).reshape(1, -1)  # [C samples, C] -> [1, C·C], packed
    frame = av.AudioFrame.from_ndarray(impulses, format="flt", layout=layout)
    frame.sample_rate = 48000
    resampler: Any = av.AudioResampler(format="flt", layout="stereo", rate=48000)
    mixed = [each.to_ndarray() for each in (*resampler.resample(frame), *resampler.resample(None))]
    return [(float(left), float(right)) for left, right in np.concatenate(mixed, axis=1).reshape(-1, 2)]


def _no_rule(what: str) -> StemsplitError:
    return StemsplitError(
        f"{what}: no rule to mix them down",
        hint="mix them down first, for example with ffmpeg -i IN -ac 2 OUT",
    )

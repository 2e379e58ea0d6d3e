"""Converting audio from any loudspeaker layout to mono or stereo, and from mono to stereo."""

from functools import lru_cache
from typing import Any

import av
import numpy as np

from stemsplit.audio.decoding import Array
from stemsplit.errors import StemsplitError

# Loudspeakers in the order of FFmpeg's native layouts (libavutil/channel_layout.h)
_ORDER = (
    "FL FR FC LFE BL BR FLC FRC BC SL SR TC TFL TFC TFR TBL TBC TBR DL DR WL WR SDL SDR LFE2 TSL TSR "
    "BFC BFL BFR"
).split()
WAV_LOUDSPEAKERS = 18  # the first of them have a bit in dwChannelMask of WAVEFORMATEXTENSIBLE
# The layout if a codec states its loudspeakers, but FFmpeg can't interpret them. It isn't taken for the usual
# one: AAC has numbers for the usual layouts, and only lists the loudspeakers of the others
UNKNOWN_LAYOUT = "unknown"
# A downmix leaves out the low-frequency effects (ITU-R BS.775-3, annex 4)
_OMITTED = {"LFE", "LFE2"}
# Layouts to assume if a file states none: those of FLAC (RFC 9639 §9.1.3), in WAV's order
_USUAL = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}


def convert_channels(block: Array, channels: int, layout: str | None = None) -> Array:
    """Convert a block [C, n] to `channels` channels (1 or 2): [channels, n].

    Mono is copied into both stereo channels, stereo becomes mono as its mean, and more channels are mixed
    down by ITU-R BS.775 (from there to mono as the mean). A block that has the channels already is returned
    as it is.

    Args:
        block: the audio.
        channels: the wanted number of channels.
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
    return matrix @ block  # [1 or 2, C] @ [C, n] -> [channels, n]


def downmix_matrix(channels: int, layout: str | None = None) -> Array:
    """Return the gains [2, C] that mix C channels down to stereo, as FFmpeg mixes float samples.

    Args:
        channels: C.
        layout: the loudspeakers in FFmpeg's words, such as "5.1(side)" or "FL+FR+BC"; None is the usual
            layout of C channels. One and two channels are mono and stereo whatever it says.

    Raises:
        StemsplitError: the layout is unknown or has a loudspeaker without a rule.
    """
    # some programs label two channels with any layout of two; they are left and right all the same
    names = _loudspeakers(channels, None if channels <= 2 else layout)
    if not set(names) <= set(_ORDER):
        raise _no_rule(_described(channels, layout))
    native = sorted(names, key=_ORDER.index)  # libswresample only takes the native order
    gains = dict(zip(native, _native_gains("+".join(native)), strict=True))
    if lost := [name for name in names if name not in _OMITTED and not any(gains[name])]:
        raise _no_rule(f"{channels} channels with {' '.join(lost)}")
    return np.array([gains[name] for name in names], np.float32).T  # [C, 2] -> [2, C]


def usual_layout(channels: int) -> str:
    """Return the layout to assume for audio that only states its number of channels.

    Raises:
        StemsplitError: no layout is usual for so many channels.
    """
    if channels not in _USUAL:
        raise _no_rule(f"{channels} channels")
    return _USUAL[channels]


def channel_groups(channels: int, layout: str | None = None) -> list[tuple[int, ...]]:
    """Return the indices of the channels that belong together: a left-right pair, or a single channel.

    Args:
        channels: number of channels.
        layout: the loudspeakers in FFmpeg's words; None is the usual layout of so many channels.

    Raises:
        StemsplitError: the layout is unknown.
    """
    try:
        names = _loudspeakers(channels, layout)
    except StemsplitError:
        raise _no_pairs(channels, layout) from None
    found = dict[int, tuple[int, ...]]()
    for index, name in enumerate(names):
        partner = name.replace("L", "R", 1)  # FL -> FR, TBL -> TBR; LFE -> RFE, which doesn't exist
        if partner != name and partner in names:
            found[index] = (index, names.index(partner))
    paired = {index for pair in found.values() for index in pair}
    return [found.get(index, (index,)) for index in range(channels) if index in found or index not in paired]


def wav_mask(channels: int, layout: str | None = None) -> int:
    """Return the loudspeakers as WAV's bit mask; 0 if the mask can't express them in this order."""
    places = [_ORDER.index(name) for name in _loudspeakers(channels, layout) if name in _ORDER]
    named = len(places) == channels and places == sorted(places) and places[-1] < WAV_LOUDSPEAKERS
    return sum(1 << place for place in places) if named else 0


def _loudspeakers(channels: int, layout: str | None) -> list[str]:
    if layout is None:
        layout = usual_layout(channels)
    try:
        names = [channel.name for channel in av.AudioLayout(layout).channels]
    except ValueError:
        names = []
    if len(names) != channels or len(set(names)) != channels:
        raise _no_rule(_described(channels, layout))
    return names


def _described(channels: int, layout: str | None) -> str:
    """Return channels without a rule in words."""
    if layout == UNKNOWN_LAYOUT:
        return f"{channels} channels in a layout that FFmpeg can't read"
    return f"{channels} channels" if layout is None else f"{channels} channels in the layout {layout}"


def layout_name(layout: av.AudioLayout) -> str | None:
    """Return FFmpeg's name of a layout; None if the layout only has a number of channels."""
    name: str = layout.name
    if "channels (" in name:  # such as "3 channels (FL+FR+LFE2)"
        return "+".join(channel.name for channel in layout.channels)
    return None if name.endswith(" channels") else name


@lru_cache
def _native_gains(layout: str) -> list[tuple[float, float]]:
    """Return the left and right gain of every channel, measured with one impulse per channel.

    Float samples are used because libswresample scales integers by the largest sum of gains, but not floats.
    """
    channels = layout.count("+") + 1
    impulses = np.eye(channels, dtype=np.float32).reshape(1, -1)  # [C samples, C] -> [1, C·C], packed
    frame = av.AudioFrame.from_ndarray(impulses, format="flt", layout=layout)
    frame.sample_rate = 48000
    resampler: Any = av.AudioResampler(format="flt", layout="stereo", rate=48000)
    mixed = [each.to_ndarray() for each in (*resampler.resample(frame), *resampler.resample(None))]
    gains = np.concatenate(mixed, axis=1).reshape(-1, 2)  # [1, 2·C], packed -> [C, 2]
    return [(float(left), float(right)) for left, right in gains]


def _no_rule(what: str) -> StemsplitError:
    return StemsplitError(
        f"{what}: no rule to mix them down",
        hint="mix them down first, for example with ffmpeg -i IN -ac 2 OUT",
    )


def _no_pairs(channels: int, layout: str | None) -> StemsplitError:
    example = f"ffmpeg -i IN -af channelmap=channel_layout={_USUAL.get(channels, 'LAYOUT')} OUT.wav"
    return StemsplitError(
        f"{_described(channels, layout)}: no rule to find their pairs",
        hint=f"name their loudspeakers first, for example with {example}",
    )

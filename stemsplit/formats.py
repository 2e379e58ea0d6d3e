"""Table of the output formats: one row of `FORMATS` has all facts about a format.

Settings, help, encoders, tags and the check of the free disk space use it. It imports no audio library, so
that the help starts quickly; `audio.encoding` tells which formats this machine can encode.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Literal

from stemsplit.errors import SettingsError, UnknownNameError

OutputFormat = Literal[
    "wav", "flac", "mp3", "ogg", "opus", "m4a", "alac", "aiff", "stem.m4a", "stem.mp4", "mka"
]
BitDepth = Literal["16", "24", "32f"]

# Bits per sample
BIT_DEPTHS: dict[BitDepth, int] = {"16": 16, "24": 24, "32f": 32}
# ID3's frame names of tags for which FFmpeg's muxer needs them
ID3_KEYS = {"bpm": "TBPM", "initialkey": "TKEY", "isrc": "TSRC"}

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# Opus also encodes lower rates, but always decodes to 48 kHz
_OPUS_RATES = (48000,)
# Bit rates of layer III in kbit/s: 1 for MPEG-1 (ISO 11172-3), 2 for MPEG-2 and 2.5 (ISO 13818-3)
MP3_KBIT_PER_S = {
    1: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# Nominal bit rates of libvorbis for stereo at 44.1 kHz in kbit/s, for the qualities 0, 0.1 … 1
VORBIS_KBIT_PER_S = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
# Time scale of an MP4's edit list, which cuts off the encoder's padding; FFmpeg's default is 1000 Hz
_SAMPLE_TICKS = {"movie_timescale": "{rate}"}
_MP4_KEYS = {"bpm": "tmpo"}
# Native Instruments' order of the stems, which players show and colour by it
NI_STEMS = ("drums", "bass", "other", "vocals")
_VORBIS_KEYS = {"album_artist": "ALBUMARTIST", "track": "TRACKNUMBER", "disc": "DISCNUMBER"}


def _mp3_bitrates(sample_rate: int, _: int) -> Sequence[int]:
    most = 64 if sample_rate < 16_000 else 320  # LAME's limit in MPEG-2.5
    table = MP3_KBIT_PER_S[1 if sample_rate >= 32_000 else 2]
    return [1000 * rate for rate in table if rate <= most]


def _aac_bitrates(sample_rate: int, channels: int) -> Sequence[int]:
    # A frame has 1024 samples and at most 6144 bits per channel (ISO 14496-3 §4.5.3)
    return range(6 * sample_rate * channels + 1)


@dataclass(frozen=True)
class Encoding:
    """Name of a codec in its library, the sample format that FFmpeg passes to it, and the codec's options."""

    codec: str
    sample_format: str = "flt"
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """One output format.

    Attributes:
        name: the value of `OutputSettings.format`.
        extension: file name extension, without the dot.
        container: the muxer's name in FFmpeg or libsndfile.
        encodings: encodings by bit depth; a lossy one is under None, where a format has both if a bit rate is
            given.
        rates: supported sample rates in Hz, ascending.
        tagging: how tags are written: by FFmpeg's muxer, with the cover as a "picture" or as a Vorbis
            "comment"; partly as "boxes" in MP4's `moov`; all in an ID3 "chunk" behind the audio; or the cover
            as Matroska's "attachment".
        encoder: this package's own for WAV, libsndfile's for Vorbis, or FFmpeg's.
        most_channels: the largest number of channels.
        surround: whether it keeps any loudspeaker layout in its order.
        bitrate: default in bit/s for stereo, nearly transparent for the codec; None for a lossless format.
        bitrates: for a sample rate in Hz and a number of channels, the bit rates that the encoder takes, in
            bit/s, ascending; None for any.
        options: options of the muxer; `{rate}` stands for the sample rate.
        native_tags: keys of tags for which the muxer doesn't derive them from the tag's name.
        together: whether one file holds the mixture and all stems of a track, each as a stream.
        slots: the stems of which such a file holds exactly these; empty for any.
        reaper: Reaper's name of the kind of source; None if not every DAW reads the format.
    """

    name: str
    extension: str
    container: str
    encodings: Mapping[BitDepth | None, Encoding]
    rates: Sequence[int]
    tagging: Literal["picture", "comment", "boxes", "chunk", "attachment"]
    encoder: Literal["wav", "vorbis", "ffmpeg"] = "ffmpeg"
    most_channels: int = 8
    surround: bool = False
    bitrate: int | None = None
    bitrates: Callable[[int, int], Sequence[int]] | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    native_tags: Mapping[str, str] = field(default_factory=dict)
    together: bool = False
    slots: Sequence[str] = ()
    reaper: str | None = None

    @property
    def bit_depths(self) -> tuple[BitDepth, ...]:
        """Supported bit depths; empty for a lossy format."""
        return tuple(depth for depth in self.encodings if depth is not None)

    @property
    def is_pcm(self) -> bool:
        """True if the samples are uncompressed, so that a file's size is known beforehand."""
        return all(each.codec.startswith("pcm_") for each in self.encodings.values())

    def nearest_rate(self, sample_rate: int) -> int:
        """Return the supported rate for audio at `sample_rate`: the same, the next higher, or the highest."""
        return self.rates[min(bisect_left(self.rates, sample_rate), len(self.rates) - 1)]

    def nearest_bitrate(self, bits_per_s: int, sample_rate: int, channels: int) -> int:
        """Return the encoder's bit rate that is nearest to `bits_per_s`."""
        if self.bitrates is None:
            return bits_per_s
        known = self.bitrates(sample_rate, channels)
        place = bisect_left(known, bits_per_s)
        return min(known[max(0, place - 1) : place + 1], key=lambda rate: abs(rate - bits_per_s))

    def check_bit_depth(self, bit_depth: str) -> None:
        """Refuse a bit depth that a lossless format doesn't support.

        Raises:
            SettingsError: the format doesn't support it.
        """
        if self.bit_depths and bit_depth not in self.bit_depths:
            rule = f"{self.name} holds {either(self.bit_depths)}"
            raise SettingsError(f"--bit-depth {bit_depth}: {rule}", setting="--bit-depth")


# Stems are added again by players, so the waveform counts: without noise in place of samples, joint stereo by
# intensity, and shaped noise, the streams sum to the mixture about 10 dB more exactly.
_EXACT_AAC = {"aac_coder": "fast", "aac_pns": "0", "aac_is": "0", "aac_tns": "0"}
_NI_STEM = Format(
    name="stem.m4a",
    extension="stem.m4a",
    container="ipod",
    encodings={
        "16": Encoding("alac", "s16p"),
        "24": Encoding("alac", "s32p"),
        None: Encoding("aac", "fltp", _EXACT_AAC),
    },
    rates=(44100, 48000),
    most_channels=2,
    tagging="boxes",
    bitrates=_aac_bitrates,
    options=_SAMPLE_TICKS,
    native_tags=_MP4_KEYS,
    together=True,
    slots=NI_STEMS,
)

FORMATS = {
    each.name: each
    for each in (
        Format(
            name="wav",
            extension="wav",
            encoder="wav",
            container="wav",
            encodings={
                "16": Encoding("pcm_s16le", "s16"),
                "24": Encoding("pcm_s24le", "s32"),
                "32f": Encoding("pcm_f32le", "flt"),
            },
            rates=range(1, 768_000 + 1),
            most_channels=64,
            surround=True,
            tagging="chunk",
            reaper="WAVE",
        ),
        Format(
            name="flac",
            extension="flac",
            container="flac",
            encodings={"16": Encoding("flac", "s16"), "24": Encoding("flac", "s32")},
            rates=range(1, 655_350 + 1),
            surround=True,
            tagging="picture",
            reaper="FLAC",
        ),
        Format(
            name="mp3",
            extension="mp3",
            container="mp3",
            encodings={None: Encoding("libmp3lame", "fltp")},
            rates=_MP3_RATES,
            most_channels=2,
            tagging="picture",
            bitrate=320_000,
            bitrates=_mp3_bitrates,
            options={"id3v2_version": "3"},
            native_tags=ID3_KEYS,
            reaper="MP3",
        ),
        Format(
            name="ogg",
            extension="ogg",
            encoder="vorbis",
            container="OGG",
            encodings={None: Encoding("VORBIS")},
            rates=range(1, 192_000 + 1),
            tagging="comment",
            bitrate=256_000,
            bitrates=lambda *_: range(1000 * VORBIS_KBIT_PER_S[0], 1000 * VORBIS_KBIT_PER_S[-1] + 1),
            native_tags=_VORBIS_KEYS,
            reaper="VORBIS",
        ),
        Format(
            name="opus",
            extension="opus",
            container="opus",
            encodings={None: Encoding("libopus", "flt")},
            rates=_OPUS_RATES,
            tagging="comment",
            bitrate=192_000,
            bitrates=lambda _, channels: range(256_000 * channels + 1),
        ),
        Format(
            name="m4a",
            extension="m4a",
            container="ipod",
            encodings={None: Encoding("aac", "fltp")},
            rates=_AAC_RATES,
            tagging="boxes",
            bitrate=256_000,
            bitrates=_aac_bitrates,
            options=_SAMPLE_TICKS,
            native_tags=_MP4_KEYS,
        ),
        Format(
            name="alac",
            extension="m4a",
            container="ipod",
            encodings={"16": Encoding("alac", "s16p"), "24": Encoding("alac", "s32p")},
            rates=range(1, 384_000 + 1),
            tagging="boxes",
            options=_SAMPLE_TICKS,
            native_tags=_MP4_KEYS,
        ),
        Format(
            name="aiff",
            extension="aiff",
            container="aiff",
            encodings={
                "16": Encoding("pcm_s16be", "s16"),
                "24": Encoding("pcm_s24be", "s32"),
                "32f": Encoding("pcm_f32be", "flt"),
            },
            rates=range(1, 768_000 + 1),
            most_channels=64,
            tagging="chunk",
            reaper="WAVE",
        ),
        _NI_STEM,
        replace(_NI_STEM, name="stem.mp4", extension="stem.mp4", container="mp4"),
        Format(
            name="mka",
            extension="mka",
            container="matroska",
            encodings={"16": Encoding("flac", "s16"), "24": Encoding("flac", "s32")},
            rates=range(1, 655_350 + 1),
            tagging="attachment",
            together=True,
        ),
    )
}


def find_format(name: str) -> Format:
    """Return the format of that name.

    Raises:
        UnknownNameError: there is no such format.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, list(FORMATS))
    return FORMATS[name]


# Colours that are told apart without regard to colour blindness (Okabe and Ito, 2008)
_COLORS = ("#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#E69F00", "#0072B2", "#F0E442")


def color_of(stem: str) -> str:
    """Return the colour of a stem in stem files and projects, as #RRGGBB; the same name, the same colour."""
    known = NI_STEMS.index(stem) if stem in NI_STEMS else len(NI_STEMS) + sum(stem.encode()) % 3
    return _COLORS[known]


def suffix_of(name: str) -> str:
    """Return the suffix of a file's name with the dot; that of a format may have two parts.

    >>> suffix_of("song.stem.m4a"), suffix_of("song.tar.xz")
    ('.stem.m4a', '.xz')
    """
    known = [f".{each.extension}" for each in FORMATS.values() if name.endswith(f".{each.extension}")]
    return max(known, key=len, default=PurePath(name).suffix)


def either(names: Iterable[str]) -> str:
    """Join names as a choice in words.

    >>> either(["wav", "flac", "mp3"])
    'wav, flac or mp3'
    """
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last

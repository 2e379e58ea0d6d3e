"""Table of the output formats: one row of `FORMATS` has all facts about a format.

Settings, help, encoders, tags and the check of the free disk space use it. It imports no audio library, so
that the help starts quickly; `audio.encoding` tells which formats this machine can encode.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from stemsplit.errors import SettingsError, UnknownNameError

OutputFormat = Literal["wav", "flac", "mp3", "ogg", "opus", "m4a", "alac", "aiff"]
BitDepth = Literal["16", "24", "32f"]

# Bits per sample
BIT_DEPTHS: dict[BitDepth, int] = {"16": 16, "24": 24, "32f": 32}
# ID3's frame names of tags for which FFmpeg's muxer needs them
ID3_KEYS = {"bpm": "TBPM", "initialkey": "TKEY", "isrc": "TSRC"}

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# Opus also encodes lower rates, but always decodes to 48 kHz
_OPUS_RATES = (48000,)
# Time scale of an MP4's edit list, which cuts off the encoder's padding; FFmpeg's default is 1000 Hz
_SAMPLE_TICKS = {"movie_timescale": "{rate}"}
_MP4_KEYS = {"bpm": "tmpo"}
_VORBIS_KEYS = {"album_artist": "ALBUMARTIST", "track": "TRACKNUMBER", "disc": "DISCNUMBER"}


@dataclass(frozen=True)
class Encoding:
    """Name of a codec in its library, and the sample format that FFmpeg passes to it."""

    codec: str
    sample_format: str = "flt"


@dataclass(frozen=True)
class Format:
    """One output format.

    Attributes:
        name: the value of `OutputSettings.format`.
        extension: file name extension, without the dot.
        container: the muxer's name in FFmpeg or libsndfile.
        encodings: encodings by bit depth; a lossy format has one, under None.
        rates: supported sample rates in Hz, ascending.
        tagging: how tags are written: by FFmpeg's muxer, with the cover as a "picture" or as a Vorbis
            "comment"; partly as "boxes" in MP4's `moov`; or all in an ID3 "chunk" behind the audio.
        encoder: this package's own for WAV, libsndfile's for Vorbis, or FFmpeg's.
        most_channels: the largest number of channels.
        surround: whether it keeps any loudspeaker layout in its order.
        bitrate: default in bit/s for stereo, nearly transparent for the codec; None for a lossless format.
        channel_bitrate: largest bit rate per channel in bit/s; None if the encoder limits it by itself.
        options: options of the muxer; `{rate}` stands for the sample rate.
        native_tags: keys of tags for which the muxer doesn't derive them from the tag's name.
    """

    name: str
    extension: str
    container: str
    encodings: Mapping[BitDepth | None, Encoding]
    rates: Sequence[int]
    tagging: Literal["picture", "comment", "boxes", "chunk"]
    encoder: Literal["wav", "vorbis", "ffmpeg"] = "ffmpeg"
    most_channels: int = 8
    surround: bool = False
    bitrate: int | None = None
    channel_bitrate: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    native_tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def bit_depths(self) -> tuple[BitDepth, ...]:
        """Supported bit depths; empty for a lossy format."""
        return tuple(depth for depth in self.encodings if depth is not None)

    @property
    def is_pcm(self) -> bool:
        """True if the samples are uncompressed, so that a file's size is known beforehand."""
        return all(each.codec.startswith("pcm_") for each in self.encodings.values())

    def encoding(self, bit_depth: BitDepth) -> Encoding:
        """Return the encoding for a bit depth, which is ignored for a lossy format."""
        return self.encodings[bit_depth if self.bitrate is None else None]

    def nearest_rate(self, sample_rate: int) -> int:
        """Return the supported rate for audio at `sample_rate`: the same, the next higher, or the highest."""
        return self.rates[min(bisect_left(self.rates, sample_rate), len(self.rates) - 1)]

    def check_bit_depth(self, bit_depth: str) -> None:
        """Refuse a bit depth that a lossless format doesn't support.

        Raises:
            SettingsError: the format doesn't support it.
        """
        if self.bit_depths and bit_depth not in self.bit_depths:
            rule = f"{self.name} holds {either(self.bit_depths)}"
            raise SettingsError(f"--bit-depth {bit_depth}: {rule}", setting="--bit-depth")


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
        ),
        Format(
            name="flac",
            extension="flac",
            container="flac",
            encodings={"16": Encoding("flac", "s16"), "24": Encoding("flac", "s32")},
            rates=range(1, 655_350 + 1),
            surround=True,
            tagging="picture",
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
            options={"id3v2_version": "3"},
            native_tags=ID3_KEYS,
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
            native_tags=_VORBIS_KEYS,
        ),
        Format(
            name="opus",
            extension="opus",
            container="opus",
            encodings={None: Encoding("libopus", "flt")},
            rates=_OPUS_RATES,
            tagging="comment",
            bitrate=192_000,
            channel_bitrate=256_000,
        ),
        Format(
            name="m4a",
            extension="m4a",
            container="ipod",
            encodings={None: Encoding("aac", "fltp")},
            rates=_AAC_RATES,
            tagging="boxes",
            bitrate=256_000,
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


def either(names: Iterable[str]) -> str:
    """Join names as a choice in words.

    >>> either(["wav", "flac", "mp3"])
    'wav, flac or mp3'
    """
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last

"""Interface of the encoders, and a check of the formats that this machine can encode."""

from typing import Protocol

import av
import soundfile

from stemsplit.audio.decoding import Array
from stemsplit.errors import SettingsError
from stemsplit.formats import FORMATS, Format, find_format


class Encoder(Protocol):
    """Encoder of samples into the bytes of one format."""

    def write(self, block: Array) -> None:
        """Encode the next block [C, n]."""
        ...

    def finish(self) -> None:
        """Encode the remaining samples and complete the file."""
        ...

    def abandon(self) -> None:
        """Close the encoder; the file stays incomplete."""
        ...


def encoders() -> dict[str, bool]:
    """Return for every output format whether this machine can encode it."""
    return {name: _available(each) for name, each in FORMATS.items()}


def _available(wanted: Format) -> bool:
    codecs = {each.codec for each in wanted.encodings.values()}
    if wanted.encoder == "vorbis":
        return codecs <= set(soundfile.available_subtypes(wanted.container))
    return wanted.encoder == "wav" or all(_in_ffmpeg(codec) for codec in codecs)


def _in_ffmpeg(codec: str) -> bool:
    try:
        av.codec.Codec(codec, "w")
    except ValueError:
        return False
    return True


def check_encodable(name: str, sample_rate: int, channels: int, bit_depth: str | None = None) -> None:
    """Check before the work that audio can be written in a format.

    Args:
        name: the format.
        sample_rate: in Hz.
        channels: number of channels.
        bit_depth: as in `OutputSettings`; lossy formats ignore it.

    Raises:
        UnknownNameError: there is no such format.
        SettingsError: the format can't hold such audio, or this machine has no encoder for it.
    """
    wanted = find_format(name)
    if not _available(wanted):
        raise SettingsError(f"--format {name}: no encoder for it on this machine", setting="--format")
    if not 1 <= channels <= wanted.most_channels:
        raise SettingsError(
            f"--format {name}: holds 1 to {wanted.most_channels} channels, not {channels}",
            setting="--channels",
        )
    if wanted.nearest_rate(sample_rate) != sample_rate:
        raise SettingsError(
            f"--format {name}: can't hold {sample_rate} Hz",
            setting="--sample-rate",
            hint=f"use --sample-rate {wanted.nearest_rate(sample_rate)}",
        )
    if bit_depth is not None:
        wanted.check_bit_depth(bit_depth)

"""The output formats: what each holds, and which of them can be written on this machine."""

from dataclasses import dataclass

import av
import soundfile

from stemsplit.errors import SettingsError, UnknownNameError

_MP3_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_AAC_RATES = (7350, 8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
# Opus takes lower rates too, and gives 48 kHz back
_OPUS_RATES = (48000,)


@dataclass(frozen=True)
class Format:
    """One output format.

    Attributes:
        name: as in `OutputSettings.format`.
        extension: of its files, without the dot.
        codec: FFmpeg's encoder; None where FFmpeg isn't asked.
        bit_depths: those of `OutputSettings.bit_depth` that it tells apart; empty for a lossy format.
        rates: the sample rates that it can hold, in Hz; None for any up to `highest_hz`.
        highest_hz: the highest sample rate.
        most_channels: how many channels it holds.
    """

    name: str
    extension: str
    codec: str | None
    bit_depths: tuple[str, ...]
    rates: tuple[int, ...] | None
    highest_hz: int
    most_channels: int

    def nearest_rate(self, sample_rate: int) -> int:
        """The rate to write audio of `sample_rate` at: itself, or the next higher, or the highest."""
        if self.rates is None:
            return min(sample_rate, self.highest_hz)
        return min((rate for rate in self.rates if rate >= sample_rate), default=max(self.rates))


FORMATS = {
    each.name: each
    for each in (
        Format("wav", "wav", None, ("16", "24", "32f"), None, 768_000, 64),
        Format("flac", "flac", "flac", ("16", "24"), None, 655_350, 8),
        Format("mp3", "mp3", "libmp3lame", (), _MP3_RATES, 48_000, 2),
        Format("ogg", "ogg", None, (), None, 192_000, 8),
        Format("opus", "opus", "libopus", (), _OPUS_RATES, 48_000, 8),
        Format("m4a", "m4a", "aac", (), _AAC_RATES, 96_000, 8),
        Format("alac", "m4a", "alac", ("16", "24"), None, 384_000, 8),
        Format("aiff", "aiff", None, ("16", "24", "32f"), None, 768_000, 64),
    )
}


def find_format(name: str) -> Format:
    """The format of that name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in FORMATS:
        raise UnknownNameError("format", name, list(FORMATS))
    return FORMATS[name]


def encoders() -> dict[str, bool]:
    """Every output format, and whether it can be written on this machine."""
    return {name: _available(each) for name, each in FORMATS.items()}


def _available(wanted: Format) -> bool:
    if wanted.name == "ogg":
        return "VORBIS" in soundfile.available_subtypes("OGG")
    if wanted.codec is None:
        return True
    try:
        av.codec.Codec(wanted.codec, "w")
    except ValueError:
        return False
    return True


def check_encodable(name: str, sample_rate: int, channels: int, bit_depth: str | None = None) -> None:
    """Fail now where writing would fail later.

    Args:
        name: the format.
        sample_rate: in Hz.
        channels: how many.
        bit_depth: as in `OutputSettings`; lossy formats have none and ignore it.

    Raises:
        UnknownNameError: there is no such format.
        SettingsError: the format can't hold that, or this machine has no encoder for it.
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
    if wanted.bit_depths and bit_depth is not None and bit_depth not in wanted.bit_depths:
        held = " or ".join(wanted.bit_depths)
        raise SettingsError(f"--bit-depth {bit_depth}: {name} holds {held}", setting="--bit-depth")

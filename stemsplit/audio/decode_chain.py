"""Decoder of chained Ogg files (RFC 3533 §4): one decoder per link, one after the other."""

from collections.abc import Iterator
from dataclasses import replace

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.decode_av import AvDecoder
from stemsplit.audio.decode_sndfile import SndfileDecoder, UnsuitableError, recognise
from stemsplit.audio.decoding import Array, Decoder
from stemsplit.audio.input_file import InputFile
from stemsplit.audio.resample import Resampler
from stemsplit.audio.truncation.ogg import Links


class ChainDecoder(Decoder):
    """Decoder of a chained Ogg file as one stream, with the sample rate and channels of its first link.

    Args:
        file: the file.
        links: the byte ranges of its links.

    Raises:
        InputError: the first link holds no audio.
    """

    def __init__(self, file: InputFile, links: Links) -> None:
        self._input, self._ranges = file, links.ranges
        with open_link(file, *self._ranges[0]) as first:
            self.info = replace(first.info, frames=None)  # no link knows the length of the others
        count = len(self._ranges)
        self.notices = [f"{count} Ogg streams one after the other are read as one"] if count > 1 else []

    def pieces(self) -> Iterator[Array]:
        """Yield the audio of all links, [C, n]; see `Decoder`."""
        info = self.info
        for start, end in self._ranges:
            with open_link(self._input, start, end) as link:
                resampler = Resampler(info.channels, link.info.sample_rate, info.sample_rate)
                for piece in link.pieces():
                    yield resampler.push(convert_channels(piece, info.channels, link.info.layout))
                yield resampler.finish()
                self.notices += [notice for notice in link.notices if notice not in self.notices]

    def close(self) -> None:
        """Do nothing: every link is closed once it is read."""


def open_link(file: InputFile, start: int, end: int) -> Decoder:
    """Return the decoder of the bytes of an Ogg file that hold one link.

    Raises:
        InputError: they hold no audio.
    """
    link = file.view(start, end)
    if recognise(link.read(40)):
        link.seek(0)
        try:
            return SndfileDecoder(link, file.name)
        except UnsuitableError:
            pass
    link.seek(0)
    return AvDecoder(link, file.name)

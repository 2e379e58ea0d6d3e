"""Reading chained Ogg files: each link by the decoder that is right for it, one after the other."""

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
    """A chained Ogg file as one stream, at the rate and with the channels of its first link.

    Args:
        file: the file.
        links: where its links are.

    Raises:
        InputError: the first link holds no audio.
    """

    def __init__(self, file: InputFile, links: Links) -> None:
        self._input, self._ranges = file, links.ranges
        with open_link(file, *self._ranges[0]) as first:
            self.info = replace(first.info, frames=None)
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
    """Open the stretch of an Ogg file that holds one link.

    Raises:
        InputError: it holds no audio.
    """
    stretch = file.view(start, end)
    if recognise(stretch.read(40)):
        stretch.seek(0)
        try:
            return SndfileDecoder(stretch, file.name)
        except UnsuitableError:
            pass
    stretch.seek(0)
    return AvDecoder(stretch, file.name)

"""Reader of any audio file as a stream of float32 blocks, exact to the sample."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np

from stemsplit.audio.decode_av import AvDecoder
from stemsplit.audio.decode_chain import ChainDecoder
from stemsplit.audio.decode_sndfile import SndfileDecoder, UnsuitableError, recognise
from stemsplit.audio.decoding import GET_AGAIN_HINT, Array, AudioInfo, Decoder
from stemsplit.audio.input_file import InputFile, opened
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.truncation import cut_short, cut_within, file_sizes, flac, mp3
from stemsplit.audio.truncation.chunks import DataChunk, find_data
from stemsplit.audio.truncation.ogg import find_links
from stemsplit.audio.truncation.tag_bytes import id3_bytes
from stemsplit.errors import InputError, SettingsError

__all__ = ["AudioInfo", "Reader", "open_audio", "probe", "read_audio"]

_BLOCK = 65536


def probe(
    path: str | Path | InputFile, *, stream: int | None = None, name: str | Path | None = None
) -> AudioInfo:
    """Return the description of a file's audio without decoding it.

    Args:
        path: the file, or one that is open already; its content decides how it's read, never its suffix.
        stream: index of the audio stream, from 0; None takes the one that FFmpeg prefers.
        name: the file's name in errors, such as "stdin" for its spooled copy.

    Raises:
        InputError: the file can't be read as audio.
    """
    with opened(path, name) as file, _open_decoder(file, stream) as decoder:
        return decoder.info


def open_audio(
    path: str | Path | InputFile,
    *,
    stream: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    name: str | Path | None = None,
) -> "Reader":
    """Open a file, or the part of it from `start_s` to `end_s` seconds, to be read once.

    Args:
        path: the file, or one that is open already and stays open; its content decides how it's read, never
            its suffix.
        stream: index of the audio stream, from 0; None takes the one that FFmpeg prefers.
        start_s: start in seconds, rounded to the nearest sample.
        end_s: end in seconds; the file may end earlier.
        name: the file's name in errors, such as "stdin" for its spooled copy.

    Raises:
        InputError: the file can't be read as audio.
        SettingsError: the range is empty or negative.
    """
    _require_range(start_s, end_s)
    with ExitStack() as stack:
        file = stack.enter_context(opened(path, name))
        decoder = stack.enter_context(_open_decoder(file, stream))
        return Reader(decoder, start_s, end_s, stack.pop_all())


def read_audio(
    path: str | Path | InputFile,
    *,
    stream: int | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    name: str | Path | None = None,
) -> tuple[Array, int]:
    """Return the whole audio [C, T] and its sample rate; arguments and errors as in `open_audio`."""
    with open_audio(path, stream=stream, start_s=start_s, end_s=end_s, name=name) as reader:
        return np.concatenate(list(reader.blocks()), axis=1), reader.sample_rate


class Reader:
    """Reader of one audio stream, or of a part of it; a context manager.

    Attributes:
        info: description of the whole stream.
        sample_rate: in Hz.
        channels: number of channels.
        notices: remarks about the file, such as a wrong length in its header.
        frames: declared samples per channel of the part that is read, None if the file declares none.
    """

    def __init__(
        self, decoder: Decoder, start_s: float | None, end_s: float | None, stack: ExitStack
    ) -> None:
        self._decoder, self._stack = decoder, stack
        self.info = decoder.info
        self.sample_rate = self.info.sample_rate
        self.channels = self.info.channels
        self._start = round((start_s or 0) * self.sample_rate)
        self._stop = None if end_s is None else round(end_s * self.sample_rate)

    @property
    def notices(self) -> list[str]:
        """Remarks about the file, such as a wrong length in its header; complete once all is read."""
        return self._decoder.notices

    @property
    def frames(self) -> int | None:
        """Declared samples per channel of the part that is read; the true number may differ."""
        if self.info.frames is None:
            return None
        stop = self.info.frames if self._stop is None else min(self._stop, self.info.frames)
        return max(0, stop - self._start)

    def blocks(self, size: int = _BLOCK) -> Iterator[Array]:
        """Yield the audio in blocks [C, size], the last one shorter; only once per reader.

        Raises:
            InputError: the audio is damaged, cut short or empty, or has NaN or infinite samples.
        """
        regrouper = Regrouper(size)
        position = self._start
        for block in chain(chain.from_iterable(map(regrouper.push, self._selected())), regrouper.finish()):
            self._require_finite(block, position)
            position += block.shape[1]
            yield block

    def _selected(self) -> Iterator[Array]:
        """Yield the decoder's pieces within the range, [C, n]."""
        position = self._decoder.seek(self._start)  # at or before the start
        taken = 0
        for piece in self._decoder.pieces():
            begin = max(0, self._start - position)
            end = piece.shape[1] if self._stop is None else min(piece.shape[1], self._stop - position)
            position += piece.shape[1]
            if end > begin:
                taken += end - begin
                yield piece[:, begin:end]
            if self._stop is not None and position >= self._stop:
                break
        if not taken:
            raise self._no_audio(position)

    def _require_finite(self, block: Array, position: int) -> None:
        finite = np.isfinite(block)
        if finite.all():
            return
        first = int(np.argmin(finite.all(axis=0)))  # [C, n] -> [n]; argmin finds the first False
        at_s = (position + first) / self.sample_rate
        raise InputError(
            self.info.path,
            f"has NaN or infinite samples (the first at {at_s:.3f} s)",
            hint="export it again; an effect or a plug-in may have gone wrong",
        )

    def _no_audio(self, position: int) -> InputError:
        if not position:
            return InputError(self.info.path, "has no audio in it (0 samples)", hint=GET_AGAIN_HINT)
        length_s, start_s = position / self.sample_rate, self._start / self.sample_rate
        if position > self._start:  # the range ended before its first sample
            return InputError(self.info.path, f"--start {start_s:g} to --end: holds no sample")
        return InputError(
            self.info.path,
            f"ends at {length_s:.3f} s, before --start {start_s:.3f} s",
            hint="choose an earlier --start",
        )

    def close(self) -> None:
        """Close the file, unless it was open before."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_decoder(file: InputFile, stream: int | None) -> Decoder:
    raw = file.file
    raw.seek(0)
    start = raw.seek(id3_bytes(raw.read(10)))  # some programs put an ID3 tag in front of any kind of file
    head = raw.read(40)
    data = find_data(raw)
    claim = data.claim if data else mp3.find_claim(raw) or file_sizes.find_claim(raw)
    notice = claim and claim.check(file.name)
    special = None if stream else _special_decoder(file, start, head, data)
    decoder = special or AvDecoder(file.view(), file.name, stream)
    if notice:
        decoder.notices.append(notice)
    return decoder


def _special_decoder(file: InputFile, start: int, head: bytes, data: DataChunk | None) -> Decoder | None:
    """Return the decoder of a file that `AvDecoder` alone doesn't read well, None for all other files."""
    if head.startswith(b"OggS"):
        return _open_ogg(file, head)
    if head.startswith(b"fLaC") and (declared := _corrected_count(file)):
        # FFmpeg's decoder, because libFLAC stops at the declared count
        return AvDecoder(file.view(), file.name, declared=declared)
    return _open_sndfile(file, start, data) if recognise(head) else None


def _open_ogg(file: InputFile, head: bytes) -> Decoder | None:
    links = find_links(file.file, file.name)
    if links is None:
        return None
    decoder: Decoder | None
    if len(links.starts) > 1 or links.starts[0]:
        decoder = ChainDecoder(file, links)  # also for a single link behind an ID3 tag
    else:
        plain = _open_sndfile(file, 0, None) if recognise(head) else None
        decoder = plain or AvDecoder(file.view(), file.name)
    decoder.notices += links.notices
    return decoder


def _open_sndfile(file: InputFile, start: int, data: DataChunk | None) -> Decoder | None:
    try:
        # libsndfile steps over a tag only in files that it opens itself
        decoder = SndfileDecoder(file.view(start), file.name, data)
    except UnsuitableError:
        return None
    if decoder.info.channels > 2 and decoder.info.layout is None:
        decoder.info = replace(decoder.info, layout=_stated_layout(file))
    return decoder


def _corrected_count(file: InputFile) -> int | None:
    """Return the length to declare for a FLAC file with a wrong count in its header, None if it is right.

    Raises:
        InputError: the file was cut short.
    """
    found = flac.find_end(file.file)
    if found is None or found.declared in (found.total, found.total + found.partial):
        return None
    if found.partial and found.declared > found.total:
        raise cut_short(file.name, found.total, found.declared)
    if found.partial and not found.declared:
        raise cut_within(file.name, "a frame")
    return found.declared or found.total


def _stated_layout(file: InputFile) -> str | None:
    """Return the layout that FFmpeg reads from a file's channel mask, None if it has none."""
    try:
        with AvDecoder(file.view(), file.name) as decoder:
            return decoder.info.layout
    except InputError:
        return None


def _require_range(start_s: float | None, end_s: float | None) -> None:
    for flag, value in (("--start", start_s), ("--end", end_s)):
        if value is not None and not 0 <= value < float("inf"):
            raise SettingsError(f"{flag} {value}: must be a time from 0 on", setting=flag)
    if end_s is not None and end_s <= (start_s or 0):
        raise SettingsError(f"--end {end_s}: must be after --start {start_s or 0}", setting="--end")

"""Reading any audio file as a stream of float32 blocks, counted and placed to the sample."""

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
from stemsplit.audio.decoding import AGAIN, Array, AudioInfo, Decoder
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
    """Return a file's description of its audio; nothing is decoded.

    Args:
        path: the file, or one that is open already; its content decides how it's read, never its suffix.
        stream: which audio stream of a container, from 0; None is the one that FFmpeg would take.
        name: what errors call the file, such as "stdin" for its spooled copy.

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
    """Open a file, or the part of it from `start_s` to `end_s` seconds, for one pass of reading.

    Args:
        path: the file, or one that is open already and stays so; its content decides how it's read, never its
            suffix.
        stream: which audio stream of a container, from 0; None is the one that FFmpeg would take.
        start_s: where to start; the sample is the nearest one.
        end_s: where to end, at the latest.
        name: what errors call the file, such as "stdin" for its spooled copy.

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
    """Audio being read; a context manager.

    Attributes:
        info: what the whole file declares.
        sample_rate: in Hz.
        channels: how many.
        frames: declared samples per channel of the part that is read, None where the file declares none.
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
        """Notices about the file, such as a wrong claim; complete once all is read."""
        return self._decoder.notices

    @property
    def frames(self) -> int | None:
        """Declared samples per channel of the part that is read; a claim, only reading counts."""
        if self.info.frames is None:
            return None
        stop = self.info.frames if self._stop is None else min(self._stop, self.info.frames)
        return max(0, stop - self._start)

    def blocks(self, size: int = _BLOCK) -> Iterator[Array]:
        """The audio in order, [C, size] each, the last one shorter. One pass per reader.

        Raises:
            InputError: the audio is damaged, cut short, not finite, or there is none.
        """
        regrouper = Regrouper(size)
        position = self._start
        for block in chain(chain.from_iterable(map(regrouper.push, self._selected())), regrouper.finish()):
            self._require_finite(block, position)
            position += block.shape[1]
            yield block

    def _selected(self) -> Iterator[Array]:
        """Pieces within the range."""
        position = self._decoder.seek(self._start)
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
            raise self._nothing(position)

    def _require_finite(self, block: Array, position: int) -> None:
        finite = np.isfinite(block)
        if finite.all():
            return
        first = int(np.argmin(finite.all(axis=0)))
        at_s = (position + first) / self.sample_rate
        raise InputError(
            self.info.path,
            f"has NaN or infinite samples (the first at {at_s:.3f} s)",
            hint="export it again; an effect or a plug-in may have gone wrong",
        )

    def _nothing(self, position: int) -> InputError:
        if not position:
            return InputError(self.info.path, "has no audio in it (0 samples)", hint=AGAIN)
        length_s, start_s = position / self.sample_rate, self._start / self.sample_rate
        return InputError(
            self.info.path,
            f"ends at {length_s:.3f} s, before --start {start_s:.3f} s",
            hint="choose an earlier --start",
        )

    def close(self) -> None:
        """Let go of the file."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open_decoder(file: InputFile, stream: int | None) -> Decoder:
    bytes_ = file.file
    bytes_.seek(0)
    start = bytes_.seek(id3_bytes(bytes_.read(10)))
    head = bytes_.read(40)
    data = find_data(bytes_)
    claim = data.claim if data else mp3.find_claim(bytes_) or file_sizes.find_claim(bytes_)
    notice = claim and claim.check(file.name)
    chosen = None if stream else _first_choice(file, start, head, data)
    decoder = chosen or AvDecoder(file.view(), file.name, stream)
    if notice:
        decoder.notices.append(notice)
    return decoder


def _first_choice(file: InputFile, start: int, head: bytes, data: DataChunk | None) -> Decoder | None:
    """Return a file's decoder where it takes more than FFmpeg's ordinary one; None for all other files."""
    if head.startswith(b"OggS"):
        return _ogg(file, head)
    if head.startswith(b"fLaC") and (declared := _miscounted(file)):
        # libFLAC would stop at the declared count
        return AvDecoder(file.view(), file.name, declared=declared)
    return _sndfile(file, start, data) if recognise(head) else None


def _ogg(file: InputFile, head: bytes) -> Decoder | None:
    links = find_links(file.file, file.name)
    if links is None:
        return None
    decoder: Decoder | None
    if len(links.starts) > 1 or links.starts[0]:
        decoder = ChainDecoder(file, links)
    else:
        decoder = (_sndfile(file, 0, None) if recognise(head) else None) or AvDecoder(file.view(), file.name)
    decoder.notices += links.notices
    return decoder


def _sndfile(file: InputFile, start: int, data: DataChunk | None) -> Decoder | None:
    try:
        # libsndfile steps over a tag only in files that it opens itself
        decoder = SndfileDecoder(file.view(start), file.name, data)
    except UnsuitableError:
        return None
    if decoder.info.channels > 2 and decoder.info.layout is None:
        decoder.info = replace(decoder.info, layout=_stated_layout(file))
    return decoder


def _miscounted(file: InputFile) -> int | None:
    """Return a FLAC file's declared samples if it holds another number; its own number if it declares none.

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
    """Return the loudspeakers that FFmpeg reads from a file's channel mask, None where it states none."""
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

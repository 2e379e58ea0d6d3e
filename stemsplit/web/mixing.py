"""Render a mix from the files of its stems, by the writers of the command."""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.decoding import Array, AudioInfo
from stemsplit.audio.encoding import check_encodable
from stemsplit.audio.reader import open_audio, probe
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.resample import Resampler
from stemsplit.audio.tags import Tags, read_tags
from stemsplit.errors import Cancelled, InputError
from stemsplit.formats import find_format
from stemsplit.separation.files import TrackFiles
from stemsplit.separation.source import Shape
from stemsplit.settings import OutputSettings
from stemsplit.web.answers import ApiError
from stemsplit.web.loudness import aligned

_BLOCK = 1 << 15  # samples
LOWEST_DB, HIGHEST_DB = -100.0, 24.0
# Integers of at most 24 bits, which float32 holds exactly
_EXACT = ("pcm_s8", "pcm_u8", "pcm_16", "pcm_24", "flac", "alac")


@dataclass(frozen=True)
class Lane:
    """A stem of a mix.

    Attributes:
        path: its file.
        gain_db: its gain.
        pan: from -1 (left) to 1 (right). The nearer channel keeps its level, the other one is turned down by
            the cosine of the quarter circle, until it is silent.
    """

    path: Path
    gain_db: float = 0.0
    pan: float = 0.0

    @property
    def gains(self) -> tuple[float, float]:
        """Factors of the left and right channel."""
        gain = 10 ** (self.gain_db / 20)
        left, right = (math.cos(max(0.0, side) * math.pi / 2) for side in (self.pan, -self.pan))
        return gain * (left if self.pan < 1 else 0), gain * (right if self.pan > -1 else 0)

    @property
    def unchanged(self) -> bool:
        """True if the stem is heard as it is."""
        return self.gain_db == 0 and self.pan == 0


def render(
    lanes: Sequence[Lane], target: Path, settings: OutputSettings, stopped: Callable[[], bool]
) -> float:
    """Write a mix to a file, which gets its name when it is complete; return the common gain in dB.

    The sum is computed in float64. A single stem that is unchanged is copied sample by sample.

    Args:
        lanes: the stems that are heard.
        target: the file.
        settings: its format.
        stopped: returns True to give up.

    Raises:
        ApiError: there is no stem, or they have different rates (409).
        InputError: a stem can't be read.
        SettingsError: the format can't hold the mix.
        Cancelled: by `stopped`; no file is left.
    """
    infos = [probe(lane.path, name=lane.path.name) for lane in lanes]
    shape = _shape(lanes, infos, settings)
    single = len(lanes) == 1 and lanes[0].unchanged
    if single and _is_exact(infos[0]) and shape.sample_rate == infos[0].sample_rate:
        settings = replace(settings, clip="none")  # integers fit as they are
    check_encodable(settings.format, shape.sample_rate, shape.channels, settings.bit_depth)
    blocks = _single(lanes[0].path, shape.channels) if single else _sum(lanes, shape.channels)
    files = TrackFiles({"mix": target}, shape.sample_rate, shape.channels, settings, layout=shape.layout)
    with closing(files), closing(blocks):
        files.open({"mix": _tags(lanes[0].path)} if settings.tags else {})
        for block in _resampled(blocks, shape.channels, infos[0].sample_rate, shape.sample_rate):
            if stopped():
                raise Cancelled
            files.write(block[None])  # [1, C, n]
        files.publish()
    return files.gain_db


def _shape(lanes: Sequence[Lane], infos: Sequence[AudioInfo], settings: OutputSettings) -> Shape:
    """Return rate and channels of a mix: mono if nothing makes it stereo, and those of a single stem.

    Raises:
        ApiError: there is no stem, or they have different rates.
    """
    if not lanes:
        raise ApiError(409, "nothing is to be heard in this mix")
    if len({info.sample_rate for info in infos}) > 1:
        raise ApiError(409, "the stems have different sample rates")
    form, first = find_format(settings.format), infos[0]
    rate = form.nearest_rate(first.sample_rate if settings.sample_rate == "keep" else settings.sample_rate)
    if len(lanes) == 1 and lanes[0].unchanged and first.channels <= form.most_channels:
        return Shape(rate, first.channels, first.layout if first.channels > 2 else None)
    mono = all(info.channels == 1 for info in infos) and not any(lane.pan for lane in lanes)
    return Shape(rate, 1 if mono else 2)


def _sum(lanes: Sequence[Lane], channels: int) -> Generator[Array, None, None]:
    """Yield the blocks of a mix, [C, n]."""
    gains = [np.array(lane.gains)[:, None] for lane in lanes]  # [2, 1] each
    for blocks in aligned([lane.path for lane in lanes], _BLOCK):
        total = np.zeros((2, max(block.shape[1] for block in blocks)))
        for gain, block in zip(gains, blocks, strict=True):
            total[:, : block.shape[1]] += gain * block
        yield total[:channels].astype(np.float32)


def _single(path: Path, channels: int) -> Generator[Array, None, None]:
    with open_audio(path, name=path.name) as reader:
        for block in reader.blocks(_BLOCK):
            if block.shape[0] == channels:
                yield block
            else:
                yield convert_channels(block, channels, reader.info.layout)


def _resampled(blocks: Iterator[Array], channels: int, from_hz: int, to_hz: int) -> Iterator[Array]:
    resampler, regrouper = Resampler(channels, from_hz, to_hz), Regrouper(_BLOCK)
    for block in blocks:
        yield from regrouper.push(resampler.push(block))
    yield from regrouper.push(resampler.finish())
    yield from regrouper.finish()


def _is_exact(info: AudioInfo) -> bool:
    return info.codec.startswith(_EXACT)


def _tags(path: Path) -> Tags:
    try:
        return replace(read_tags(path), settings=None)
    except InputError:
        return Tags()

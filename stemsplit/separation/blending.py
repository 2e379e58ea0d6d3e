"""Blend finished files into one, such as the same stem from several models (`stemsplit blend`)."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import zip_longest
from os import fspath
from pathlib import Path

import numpy as np
import torch

from stemsplit.audio.channels import convert_channels
from stemsplit.audio.encoding import check_encodable
from stemsplit.audio.reader import probe
from stemsplit.audio.regroup import Regrouper
from stemsplit.audio.resample import Resampler
from stemsplit.blend_names import DEFAULT_BLEND, check_weights
from stemsplit.core.blends import make_blend
from stemsplit.errors import OutputError, SettingsError
from stemsplit.events import Callback, Notice, emit
from stemsplit.formats import FORMATS
from stemsplit.separation.files import TrackFiles
from stemsplit.separation.source import Audio, FileSource, Shape, output_shape
from stemsplit.settings import OutputSettings

_BLOCK = 1 << 16  # samples


def blend_files(
    inputs: Sequence[str | Path],
    target: str | Path,
    *,
    blend: str = DEFAULT_BLEND,
    weights: Sequence[float] | None = None,
    output: OutputSettings = OutputSettings(),
    overwrite: bool = False,
    callback: Callback | None = None,
) -> Path:
    """Blend audio files into one that is as long as the longest; memory doesn't grow with their length.

    Args:
        inputs: two files or more. They are brought to the rate of the first; shorter ones end in silence.
        target: the file to write.
        blend: one of `blend_names.BLENDS`.
        weights: one for each file, for `avg_wave` and `avg_fft` only.
        output: the format of the target.
        overwrite: replace an existing target.
        callback: receives notices; returning False cancels.

    Returns:
        The path of the target.

    Raises:
        SettingsError: fewer than two files, or weights that don't fit.
        UnknownNameError: there is no such blend.
        InputError: a file can't be read.
        OutputError: the target exists, is an input, or can't be written.
        Cancelled: the callback returned False.
    """
    target = Path(target)
    if len(inputs) < 2:
        raise SettingsError("a blend needs two files or more", setting="INPUT")
    blender = make_blend(blend, check_weights(len(inputs), blend, weights, "files"))
    sources = [FileSource(Path(path), probe(path)) for path in inputs]
    _check_target(target, sources, overwrite)
    shape = Shape(output_shape(sources[0], output).sample_rate, _channels(sources, output))
    check_encodable(output.format, shape.sample_rate, shape.channels, output.bit_depth)
    files = TrackFiles({"blend": target}, shape.sample_rate, shape.channels, output)
    with closing(files), ExitStack() as stack:
        sources = [stack.enter_context(source.opened()) for source in sources]
        files.open({"blend": sources[0].tags()} if output.tags else {})
        lengths = [0] * len(sources)
        for parts in _aligned(sources, shape, lengths):
            files.write(blender.push([torch.from_numpy(part) for part in parts]).numpy()[None])  # [1, C, n]
        files.write(blender.finish().numpy()[None])  # [1, C, n]
        files.publish()
    for notice in _notices(sources, shape, lengths, files):
        emit(callback, notice)
    return target


def format_of(target: str | Path) -> str:
    """Return the format of a file's suffix.

    Raises:
        SettingsError: no format has this suffix.
    """
    suffix = Path(target).suffix.lower().lstrip(".")
    single = [each for each in FORMATS.values() if not each.together]
    found = next((each.name for each in single if each.extension == suffix), None)
    if found is None:
        known = ", ".join(sorted({f".{each.extension}" for each in single}))
        raise SettingsError(f"-o {target}: no format has this suffix", setting="-o", hint=f"there is {known}")
    return found


def _check_target(target: Path, sources: Sequence[FileSource], overwrite: bool) -> None:
    if any(target.exists() and target.samefile(source.path) for source in sources):
        raise OutputError(target, "is an input", hint="choose another file with -o")
    if target.exists() and not overwrite:
        raise OutputError(target, "exists", hint="-y overwrites it")


def _channels(sources: Sequence[FileSource], output: OutputSettings) -> int:
    """Return the channels that are asked for; otherwise mono if every file is mono, else stereo."""
    if output.channels in (1, 2):
        return output.channels
    return min(2, max(source.channels for source in sources))


def _aligned(sources: Sequence[FileSource], shape: Shape, lengths: list[int]) -> Iterator[list[Audio]]:
    """Yield consecutive blocks of all files, [C, n] for each file; add the files' samples to `lengths`."""
    nothing = np.zeros((shape.channels, 0), np.float32)
    for blocks in zip_longest(*(_converted(source, shape) for source in sources), fillvalue=nothing):
        longest = max(block.shape[1] for block in blocks)
        for i, block in enumerate(blocks):
            lengths[i] += block.shape[1]
        yield [np.pad(block, ((0, 0), (0, longest - block.shape[1]))) for block in blocks]


def _converted(source: FileSource, shape: Shape) -> Iterator[Audio]:
    """Yield a file at the rate and channels of the output, [C, _BLOCK] each, the last one shorter."""
    regrouper = Regrouper(_BLOCK)
    resampler = Resampler(shape.channels, source.sample_rate, shape.sample_rate)
    for block in source.blocks():
        converted = convert_channels(block, shape.channels, source.layout)
        yield from regrouper.push(resampler.push(converted))
    yield from regrouper.push(resampler.finish())
    yield from regrouper.finish()


def _notices(
    sources: Sequence[FileSource], shape: Shape, lengths: Sequence[int], files: TrackFiles
) -> Iterator[Notice]:
    for source, length in zip(sources, lengths, strict=True):
        name = fspath(source.path)
        yield from (Notice(notice, name) for notice in source.notices)
        if source.sample_rate != shape.sample_rate:
            yield Notice(f"resampled from {source.sample_rate} to {shape.sample_rate} Hz", name)
        if missing := max(lengths) - length:
            yield Notice(f"{missing / shape.sample_rate:.3f} s shorter than the longest: silence there", name)
    if files.other_bitrate:
        yield Notice(files.other_bitrate)
    if files.gain != 1:
        yield Notice(f"{files.gain_db:.2f} dB, so that nothing clips")

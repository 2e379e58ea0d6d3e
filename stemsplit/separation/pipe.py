"""Write the only output of one track to a stream such as a pipe (`-o -`).

Float WAV is written while the track is separated; other formats are completed in a temporary folder first.
"""

import shutil
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import BinaryIO

from stemsplit.audio.resample import resampled_frames
from stemsplit.audio.tags import Tags
from stemsplit.audio.wav import WavStream
from stemsplit.events import Callback, Notice, TrackStart, emit
from stemsplit.separation.files import TrackFiles, clipped
from stemsplit.separation.jobs import examine
from stemsplit.separation.remote import fetched
from stemsplit.separation.report import TrackResult, announce
from stemsplit.separation.run import Session
from stemsplit.separation.source import Audio, FileSource, Shape
from stemsplit.settings import OutputSettings


def write_stream(session: Session, file: BinaryIO, callback: Callback | None = None) -> TrackResult:
    """Separate the only track of a session and write its only output to `file`.

    The header of the float WAV has the exact length, so the track is read once to be counted if its models
    don't measure it anyway.

    Args:
        session: prepared with `to_stream`.
        file: receives the bytes; it is neither sought nor closed.
        callback: receives events; returning False cancels.

    Returns:
        The result of the track.

    Raises:
        InputError: the track can't be read.
        BrokenPipeError: the reader is gone.
    """
    output, batch, began = session.request.output, session.request.batch, monotonic()
    with fetched(session.plan.jobs[0].input) as entry, ExitStack() as stack:
        ready = examine(session.plan.jobs[0], batch, output, entry)
        shape, source = ready.shape, stack.enter_context(ready.source.opened())
        blocks, frames = _separated(session, source, shape, callback)
        with closing(blocks):
            if output.format == "wav" and output.is_float:
                gain_db = _write_wav(blocks, frames, shape, output, file)
            else:
                gain_db = _write_file(session, source, shape, blocks, file, callback)
    result = TrackResult(
        str(session.plan.jobs[0].input),
        "done",
        {session.outputs[0].name: "-"},
        duration_s=frames / shape.sample_rate,
        sample_rate=shape.sample_rate,
        channels=shape.channels,
        gain_db=gain_db,
        wall_s=monotonic() - began,
    )
    announce(result, callback)
    return result


def _separated(
    session: Session, source: FileSource, shape: Shape, callback: Callback | None
) -> tuple[Generator[Audio, None, None], int]:
    """Return the output's blocks, [1, C, n] each, and the number of samples of all of them."""
    runner = session.load(callback)
    measured = runner.measure(source, shape)
    frames = measured.frames
    if frames is None:
        frames = sum(block.shape[-1] for block in source.blocks())
    total_s, name = frames / source.sample_rate, str(session.plan.jobs[0].input)
    emit(callback, TrackStart(name, 1, 1, total_s))
    blocks = runner.run(
        source, session.outputs, shape, measured=measured, name=name, total_s=total_s, callback=callback
    )
    return blocks, resampled_frames(frames, source.sample_rate, shape.sample_rate)


def _write_wav(
    blocks: Iterator[Audio], frames: int, shape: Shape, output: OutputSettings, file: BinaryIO
) -> float:
    """Write the blocks as they come; return the gain in dB."""
    wav = WavStream(file, shape.sample_rate, shape.channels, frames, layout=shape.layout)
    for block in blocks:
        wav.write(clipped(block[0], output))  # [C, n]
    wav.close()
    return 0.0


def _write_file(
    session: Session,
    source: FileSource,
    shape: Shape,
    blocks: Iterator[Audio],
    file: BinaryIO,
    callback: Callback | None,
) -> float:
    """Write a file and copy it; return the gain in dB."""
    name, output = session.outputs[0].name, session.request.output
    tags = source.tags() if output.tags else Tags()
    if tags.notice:
        emit(callback, Notice(tags.notice, str(source.info.path)))
    with TemporaryDirectory(prefix="stemsplit-") as folder:
        path = Path(folder) / name
        files = TrackFiles({name: path}, shape.sample_rate, shape.channels, output, layout=shape.layout)
        if files.other_bitrate:
            emit(callback, Notice(files.other_bitrate, str(source.info.path)))
        with closing(files):
            files.open({name: tags})
            for block in blocks:
                files.write(block)
            files.publish()
        if files.gain != 1:
            emit(callback, Notice(f"{files.gain_db:.2f} dB, so that it doesn't clip", str(source.info.path)))
        with open(path, "rb") as done:
            shutil.copyfileobj(done, file)
    file.flush()
    return files.gain_db

"""Digest of a file's audio, by which outputs are told from those of another recording of the same name."""

from hashlib import blake2b
from pathlib import Path

import av

from stemsplit.audio.decode_av import open_container
from stemsplit.audio.input_file import InputFile, opened
from stemsplit.errors import InputError

_HASHED_BYTES = 4_000_000  # of compressed audio, or 20 s of a WAV file: reading all of a film takes long


def content_of(path: Path | InputFile, stream: int | None = None) -> str | None:
    """Return a digest of the audio at the beginning of a file; tags and the container don't change it.

    Args:
        path: the file, or one that is open already.
        stream: index of the audio stream, from 0; None takes the one that FFmpeg prefers.

    Returns:
        The digest; None if FFmpeg can't read the file.
    """
    digest, left = blake2b(digest_size=16), _HASHED_BYTES
    try:
        with opened(path) as file, open_container(file.view(), file.name) as container:
            streams = container.streams.audio
            chosen = container.streams.best("audio") if stream is None else streams[stream]
            for packet in container.demux(chosen):
                data = bytes(packet)[:left]
                digest.update(data)
                left -= len(data)
                if not left:
                    break
    except (av.error.FFmpegError, InputError, OSError, IndexError, ValueError):
        return None
    return digest.hexdigest() if left < _HASHED_BYTES else None

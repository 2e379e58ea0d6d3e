"""Cover pictures: choose a file's cover from its pictures, and write it to other formats."""

import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import av
from av.stream import Disposition

from stemsplit.audio.containers import container_facts

FRONT, OTHER = "Cover (front)", "Other"
# Picture types of ID3 and FLAC by number, as FFmpeg names them (ID3v2.4 frames §4.14, RFC 9639 §8.8)
KINDS = (
    *(OTHER, "32x32 pixels 'file icon'", "Other file icon", FRONT, "Cover (back)", "Leaflet page"),
    *("Media (e.g. label side of CD)", "Lead artist/lead performer/soloist", "Artist/performer", "Conductor"),
    *("Band/Orchestra", "Composer", "Lyricist/text writer", "Recording Location", "During recording"),
    *("During performance", "Movie/video screen capture", "A bright coloured fish", "Illustration"),
    *("Band/artist logotype", "Publisher/Studio logotype"),
)
_KIND_OF = {kind.lower(): kind for kind in KINDS}

# First bytes of the pictures that every output format can carry, and of others that occur
_CARRIED = {b"\xff\xd8\xff": "image/jpeg", b"\x89PN": "image/png"}
_LEFT_OUT = {b"RIF": "WebP", b"GIF": "GIF", b"BM": "BMP", b"II*": "TIFF", b"MM\0": "TIFF"}
# FLAC's metadata blocks have a 24-bit length; the rest is for the other fields of the picture block
_MAX_BYTES = (1 << 24) - 4096


@dataclass(frozen=True)
class Cover:
    """An encoded picture, its MIME type ("image/jpeg" or "image/png") and its picture type from `KINDS`."""

    data: bytes
    mime: str
    kind: str = FRONT


def read_cover(container: Any) -> tuple[Cover | None, str | None]:
    """Return a file's best picture that can be copied, and the reason if a better one can't be copied.

    A front cover is better than a picture without a stated type, which is better than any other.
    """
    pictures = [(stream, _kind(container, stream)) for stream in container.streams if is_picture(stream)]
    if not pictures:
        return None, None
    data = read_pictures(container, {stream.index for stream, _ in pictures})
    pictures.sort(key=lambda picture: (picture[1] != FRONT, picture[1] != OTHER))
    flaws = [_flaw(stream, data.get(stream.index, b"")) for stream, _ in pictures]
    for (stream, kind), flaw in zip(pictures, flaws, strict=True):
        if flaw is None:
            encoded = data[stream.index]
            return Cover(encoded, _CARRIED[encoded[:3]], kind), flaws[0]
    return None, flaws[0]


def is_picture(stream: Any) -> bool:
    """Return whether a stream is a picture: not a video, nor the chapter pictures of an MP4."""
    if stream.type == "attachment":  # of a type that FFmpeg has no decoder for, such as WebP in Matroska
        return str(stream.metadata.get("mimetype", "")).startswith("image/")
    attached = Disposition.attached_pic in stream.disposition
    return attached and Disposition.timed_thumbnails not in stream.disposition


def _kind(container: Any, stream: Any) -> str:
    """Return a picture's type, which ID3, FLAC and ASF write as "Cover (back)", APE as "Cover Art (Back)"."""
    names = [stream.metadata.get("comment", ""), *(key.replace(" Art", "") for key in stream.metadata)]
    for name in names:
        if kind := _KIND_OF.get(name.lower()):
            return kind
    # MP4 has no picture types, only covers; Matroska has file names: cover.jpg, cover_land.png
    file = PurePosixPath(stream.metadata.get("filename", "")).name.lower()
    return FRONT if container_facts(container).one_artwork or file.startswith("cover") else OTHER


def read_pictures(container: Any, indices: set[int]) -> dict[int, bytes]:
    """Return the pictures' bytes by stream index; FFmpeg demuxes them before all other packets."""
    data: dict[int, bytes] = {}
    try:
        for packet in container.demux():
            if packet.stream.index not in indices:
                break
            data.setdefault(packet.stream.index, bytes(packet))
    except (av.error.FFmpegError, MemoryError, IndexError):
        pass  # keep the pictures that were read before the failure
    return data


def _flaw(stream: Any, data: bytes) -> str | None:
    """Return the reason why a picture can't be copied, None if it can."""
    kind = next((name for magic, name in _LEFT_OUT.items() if data.startswith(magic)), None)
    if stream.type == "attachment":
        kind = stream.metadata["mimetype"].removeprefix("image/").replace("webp", "WebP")
    if kind is not None:
        return f"it is {kind}, and only JPEG and PNG are copied"
    if len(data) >= _MAX_BYTES:
        return "it is larger than the 16 MiB that FLAC holds"
    return None if _open_image(data) else "it is damaged"


def _open_image(data: bytes) -> Any | None:
    """Open an encoded JPEG or PNG with PyAV; None for other or damaged pictures."""
    if data[:3] not in _CARRIED:
        return None
    try:
        image = av.open(io.BytesIO(data), "r")
        return image if image.streams.video[0].codec_context.width else None
    except (av.error.FFmpegError, IndexError, MemoryError):
        return None


def attach_cover(container: Any, cover: Cover | None) -> Any | None:
    """Add a picture stream to an output container that already has its audio stream.

    Returns:
        The packet to mux after the header is written, None without a cover or with a damaged one.
    """
    image = _open_image(cover.data) if cover else None
    if cover is None or image is None:
        return None
    try:
        with image:
            source = image.streams.video[0]
            packet = next(image.demux(source))
            stream = container.add_stream_from_template(source)
    except (av.error.FFmpegError, StopIteration, MemoryError):
        return None
    stream.disposition = Disposition.attached_pic.value
    stream.metadata["comment"] = cover.kind
    packet.stream = stream
    return packet


def attach_file(container: Any, cover: Cover) -> None:
    """Attach a picture to a Matroska file, under the name that its readers take for a cover."""
    name = f"{'cover' if cover.kind == FRONT else 'picture'}.{cover.mime.rpartition('/')[2]}"
    container.add_attachment(name, cover.mime, cover.data)

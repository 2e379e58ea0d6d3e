"""What a file says about its music (title, artist, cover …), and what this program notes beside it."""

import base64
import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition

from stemsplit.audio import mp4_boxes
from stemsplit.audio.decode_av import open_container
from stemsplit.audio.xing import id3_bytes
from stemsplit.errors import InputError

# the key of this program's own note
SETTINGS_KEY = "STEMSPLIT"

_FIELDS = (
    "title artist album album_artist composer performer conductor lyricist publisher copyright genre date "
    "track disc comment description grouping compilation lyrics bpm initialkey isrc"
).split()
# other spellings of the same fields, as FFmpeg passes them on from ID3, Vorbis comments, MP4, APE and RIFF
_ALIASES = {
    "albumartist": "album_artist",
    "album artist": "album_artist",
    "tracknumber": "track",
    "discnumber": "disc",
    "year": "date",
    "tdrc": "date",
    "tbpm": "bpm",
    "tmpo": "bpm",
    "tkey": "initialkey",
    "initial key": "initialkey",
    "key": "initialkey",
    "tsrc": "isrc",
    "icmt": "comment",
}
# where a format has a native key that FFmpeg doesn't derive from the field's name
_ID3 = {"bpm": "TBPM", "initialkey": "TKEY", "isrc": "TSRC"}
_NATIVE = {"mp3": _ID3, "aiff": _ID3, "wav": _ID3, "m4a": {"bpm": "tmpo"}, "alac": {"bpm": "tmpo"}}
# what FFmpeg's MP4 muxer drops; iTunes and the DJ programs keep them as free-form texts
_FREEFORM = ("performer", "conductor", "lyricist", "publisher", "initialkey", "isrc")

# how the pictures begin that every format can carry
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PN": "image/png"}
_FRONT_COVER = 3
# FLAC counts a picture's bytes in 24 bits
_LARGEST_COVER = (1 << 24) - 4096


@dataclass(frozen=True)
class Cover:
    """A picture: its encoded bytes, and their kind, "image/jpeg" or "image/png"."""

    data: bytes
    mime: str


@dataclass(frozen=True)
class Tags:
    """Tags of one file.

    Attributes:
        fields: lower-case names in FFmpeg's spelling (title, artist, album_artist, date …) and their texts.
        cover: the front cover.
        settings: this program's note of how the file was made, under a key of its own.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    cover: Cover | None = None
    settings: str | None = None

    def metadata(self, fmt: str) -> dict[str, str]:
        """The texts under the keys that FFmpeg's muxer of the format `fmt` wants."""
        native = _NATIVE.get(fmt, {})
        texts = {native.get(name, name): text for name, text in self.fields.items()}
        return texts if self.settings is None else {**texts, SETTINGS_KEY: self.settings}

    def mp4_boxes(self) -> bytes:
        """What `metadata` can't bring into an MP4 file, as boxes for its `ilst`."""
        texts = {name: self.fields[name] for name in _FREEFORM if name in self.fields}
        texts |= {} if self.settings is None else {SETTINGS_KEY: self.settings}
        boxes = b"".join(mp4_boxes.freeform(name, text) for name, text in texts.items())
        return boxes + (mp4_boxes.cover(self.cover.data, self.cover.mime) if self.cover else b"")


def read_tags(path: str | Path, *, stream: int | None = None, name: str | Path | None = None) -> Tags:
    """The tags of a file.

    Args:
        path: the file, of any kind that can be decoded.
        stream: the audio stream whose tags complete the file's, from 0.
        name: what errors call the file.

    Raises:
        InputError: FFmpeg doesn't know the file.
    """
    with open_container(Path(path), Path(name or path)) as container:
        streams = container.streams.audio
        chosen = streams[stream or 0] if len(streams) > (stream or 0) else None
        texts = _known_texts({**(chosen.metadata if chosen else {}), **container.metadata})
        settings = texts.pop(SETTINGS_KEY, None)
        return Tags(texts, _read_cover(container), settings)


def read_settings(path: str | Path) -> str | None:
    """This program's note in a file, None where there's none or the file can't be read."""
    try:
        with open_container(Path(path), Path(path)) as container:
            streams = container.streams.audio
            texts = {**(streams[0].metadata if streams else {}), **container.metadata}
    except (InputError, OSError):
        return None
    return _known_texts(texts).get(SETTINGS_KEY)


def _known_texts(texts: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, text in texts.items():
        name = key.lower()
        name = _ALIASES.get(name, "lyrics" if name.startswith("lyrics-") else name)
        name = SETTINGS_KEY if name == SETTINGS_KEY.lower() else name
        text = text.replace("\0", "").strip()
        if text and (name in _FIELDS or name == SETTINGS_KEY):
            found.setdefault(name, text)
    return found


def _read_cover(container: Any) -> Cover | None:
    for stream in container.streams.video:
        if stream.disposition & Disposition.attached_pic:
            try:
                data = bytes(next(container.demux(stream)))
            except (av.error.FFmpegError, StopIteration, MemoryError, IndexError):
                return None
            mime = _MAGIC.get(data[:3])
            return Cover(data, mime) if mime and len(data) < _LARGEST_COVER else None
    return None


def picture_comment(cover: Cover) -> dict[str, str]:
    """A cover as Ogg carries it: FLAC's picture block (RFC 9639 §8.8), without the sizes, as a comment."""
    mime = cover.mime.encode()
    head = struct.pack(">II", _FRONT_COVER, len(mime)) + mime
    block = head + struct.pack(">6I", 0, 0, 0, 0, 0, len(cover.data)) + cover.data
    return {"METADATA_BLOCK_PICTURE": base64.b64encode(block).decode()}


def attach_cover(container: Any, cover: Cover | None) -> Any | None:
    """Add a picture's stream to an output container that has its audio stream already.

    Returns:
        The packet to be muxed once the header is written; None without a cover, or with a damaged one.
    """
    if cover is None or cover.data[:3] not in _MAGIC:
        return None
    try:
        with av.open(io.BytesIO(cover.data), "r") as image:
            source = image.streams.video[0]
            packet = next(image.demux(source))
            if not source.codec_context.width:
                return None
            stream = container.add_stream_from_template(source)
    except (av.error.FFmpegError, IndexError, StopIteration, MemoryError):
        return None
    stream.disposition = Disposition.attached_pic.value
    stream.metadata["comment"] = "Cover (front)"
    packet.stream = stream
    return packet


def id3_chunk(tags: Tags, order: str) -> bytes:
    """The tags as WAV (`order` "<") and AIFF (">") carry them: a chunk that holds an ID3v2.3 block.

    The block is cut from the start of an MP3 file that FFmpeg writes. Empty without tags.
    """
    metadata = tags.metadata("wav")
    if not metadata and tags.cover is None:
        return b""
    file = io.BytesIO()
    with av.open(file, "w", format="mp3", options={"id3v2_version": "3", "write_xing": "0"}) as container:
        stream: Any = container.add_stream("libmp3lame", rate=44100, layout="stereo", format="fltp")
        container.metadata.update(metadata)
        picture = attach_cover(container, tags.cover)
        container.start_encoding()
        if picture is not None:
            container.mux(picture)
        container.mux(stream.encode(None))
    block = file.getvalue()
    size = id3_bytes(block)
    name = b"id3 " if order == "<" else b"ID3 "
    return struct.pack(f"{order}4sI", name, size) + block[:size] + bytes(size % 2)

"""Tags of audio files (title, artist, cover …), and the STEMSPLIT tag, which records how a file was made."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stemsplit.audio.decode_av import open_container
from stemsplit.audio.input_file import InputFile, opened
from stemsplit.audio.tags import id3, mp4
from stemsplit.audio.tags.covers import Cover, read_cover
from stemsplit.errors import InputError
from stemsplit.formats import ID3_KEYS
from stemsplit.urls import Place

# The key of the tag that records how this program made the file
SETTINGS_KEY = "STEMSPLIT"

_FIELDS = (
    "title artist album album_artist composer performer conductor lyricist publisher copyright genre date "
    "track disc comment description grouping compilation lyrics bpm initialkey isrc"
).split()
# Other names of the same fields, as FFmpeg passes them on from ID3, Vorbis comments, MP4, APE and RIFF
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
# Fields that FFmpeg's MP4 muxer drops; iTunes and DJ programs store them as free-form texts
_FREEFORM = ("performer", "conductor", "lyricist", "publisher", "initialkey", "isrc")


@dataclass(frozen=True)
class Tags:
    """Tags of one file.

    Attributes:
        fields: texts by lower-case name in FFmpeg's spelling (title, artist, album_artist, date …).
        cover: the cover picture.
        settings: text of the STEMSPLIT tag, which records how the file was made.
        notice: remark about a tag that couldn't be read, with the reason.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    cover: Cover | None = None
    settings: str | None = None
    notice: str | None = None

    def metadata(self, native: Mapping[str, str]) -> dict[str, str]:
        """Return the texts by the muxer's keys, which are those in `native` or else their names."""
        texts = {native.get(name, name): text for name, text in self.fields.items()}
        return texts if self.settings is None else {**texts, SETTINGS_KEY: self.settings}

    def mp4_boxes(self) -> bytes:
        """Return the tags that FFmpeg's muxer doesn't write to an MP4 file, as boxes for its `ilst`."""
        texts = {name: self.fields[name] for name in _FREEFORM if name in self.fields}
        texts |= {} if self.settings is None else {SETTINGS_KEY: self.settings}
        boxes = b"".join(mp4.freeform(name, text) for name, text in texts.items())
        return boxes + (mp4.cover(self.cover.data, self.cover.mime) if self.cover else b"")

    def id3_chunk(self, order: Literal["<", ">"]) -> bytes:
        """Return all tags as the ID3 chunk of a WAV (`order` "<") or AIFF (">") file, empty without tags."""
        return id3.chunk(self.metadata(ID3_KEYS), self.cover, order)


def read_tags(
    path: str | Path | InputFile, *, stream: int | None = None, name: str | Path | None = None
) -> Tags:
    """Return the tags of a file, combined with those of one of its audio streams.

    Args:
        path: the file, or one that is open already, in any format that FFmpeg knows.
        stream: index of the audio stream, from 0; None takes the one that FFmpeg prefers.
        name: the file's name in errors.

    Raises:
        InputError: the file can't be opened, or FFmpeg doesn't know it.
    """
    with opened(path, name) as file:
        with open_container(file.view(), file.name) as container:
            texts = _texts(container, stream)
            cover, flaw = read_cover(container)
        several = id3.read_several(file.file)
    for field_name, values in several.items():
        if texts.get(field_name) == values[0]:
            texts[field_name] = ";".join(values)  # as FFmpeg joins repeated Vorbis comments
    settings = texts.pop(SETTINGS_KEY, None)
    return Tags(texts, cover, settings, f"its cover is left out: {flaw}" if flaw else None)


def _texts(container: Any, index: int | None) -> dict[str, str]:
    """Return the tags of a file, combined with those of one audio stream.

    The file's tags take precedence, because the title of a stream is often just a label ("English",
    "Surround 5.1"). A stream with an artist is a song of its own, so its tags take precedence.
    """
    streams = container.streams.audio
    best = container.streams.best("audio") if index is None else None
    chosen = best or (streams[index or 0] if len(streams) > (index or 0) else None)
    of_file, of_stream = _known_texts(container.metadata), _known_texts(chosen.metadata if chosen else {})
    return {**of_file, **of_stream} if "artist" in of_stream else {**of_stream, **of_file}


def read_settings(path: str | Place) -> str | None:
    """Return the text of a file's STEMSPLIT tag, None if it has none or can't be read."""
    try:
        with opened(path) as file, open_container(file.view(), file.name, header_only=True) as container:
            return _texts(container, 0).get(SETTINGS_KEY)
    except (InputError, OSError):
        return None


def _known_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """Return the texts of the known fields under their names in `_FIELDS`; the first of several wins."""
    found: dict[str, str] = {}
    for key, text in texts.items():
        name = key.lower()
        # FFmpeg appends the language of an ID3 text: lyrics-eng
        name = _ALIASES.get(name, "lyrics" if name.startswith("lyrics-") else name)
        name = SETTINGS_KEY if name == SETTINGS_KEY.lower() else name
        text = text.replace("\0", "").strip()
        if text and (name in _FIELDS or name == SETTINGS_KEY):
            found.setdefault(name, text)
    return found

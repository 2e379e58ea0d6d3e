"""What a file says about its music (title, artist, cover …), and what this program writes beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cover:
    """A picture: its encoded bytes, and their kind such as "image/jpeg"."""

    data: bytes
    mime: str


@dataclass(frozen=True)
class Tags:
    """Tags of one file.

    Attributes:
        fields: FFmpeg's lower-case names (title, artist, album, date, track …) and their texts.
        cover: the front cover.
        settings: this program's note of how the file was made, under its own key.
    """

    fields: Mapping[str, str] = field(default_factory=dict)
    cover: Cover | None = None
    settings: str | None = None

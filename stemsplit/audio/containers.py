"""The containers that FFmpeg may open, one row each with the facts that decoding depends on.

Playlists and scripts (hls, concat, dash …) stay out: they would open further files and connections that
nobody asked for.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Container:
    """Facts about a container as FFmpeg reads it.

    Attributes:
        length: the kind of its declared length: an "estimate"; a "count" of samples, backed by an index of
            frames or pages; or a bare "note" of that count in a header.
        indexed: whether it knows every packet's size beforehand.
        continuous: whether it is a stream without an index, that may begin and end in the middle of a packet.
        padding: how samples that only fill an encoder's last packet show: beyond the "count", or beyond the
            last packet's "end"; None where nothing tells.
        gapless: whether it may hold iTunes' gapless note, and its index counts samples.
        counts_skip: whether the declared length includes what an Opus decoder skips at the start.
        mistakes_skip: whether FFmpeg 8 counts that skip at the rate before encoding.
        one_artwork: whether all its pictures are covers.
    """

    length: Literal["estimate", "count", "note"] = "estimate"
    indexed: bool = False
    continuous: bool = False
    padding: Literal["count", "end"] | None = None
    gapless: bool = False
    counts_skip: bool = False
    mistakes_skip: bool = False
    one_artwork: bool = False


_STREAM, _COUNTED, _PLAIN = Container(continuous=True), Container(length="count"), Container()

# by the first of the demuxer's names
CONTAINERS = {
    "aac": _STREAM,
    "ac3": _STREAM,
    "ac4": _STREAM,
    "aiff": _PLAIN,
    "amr": _PLAIN,
    "ape": _COUNTED,
    "asf": Container(indexed=True),
    "au": _PLAIN,
    "avi": _PLAIN,
    "caf": _PLAIN,
    "dsf": _COUNTED,
    "dts": _STREAM,
    "dtshd": _PLAIN,
    "eac3": _STREAM,
    "flac": Container(length="note"),
    "flv": _PLAIN,
    "iff": _PLAIN,
    "loas": _STREAM,
    "matroska": Container(indexed=True, mistakes_skip=True),
    "mlp": _STREAM,
    "mov": Container(length="count", indexed=True, padding="end", gapless=True, one_artwork=True),
    "mp3": _STREAM,
    "mpc": _PLAIN,
    "mpc8": _PLAIN,
    "mpeg": _STREAM,
    "mpegts": _STREAM,
    "mxf": _PLAIN,
    "nut": _PLAIN,
    "ogg": Container(length="count", padding="count", counts_skip=True),
    "oma": _PLAIN,
    "qcp": _PLAIN,
    "rm": _PLAIN,
    "sox": _PLAIN,
    "tak": _COUNTED,
    "truehd": _STREAM,
    "tta": _COUNTED,
    "voc": _PLAIN,
    "w64": _PLAIN,
    "wav": _PLAIN,
    "wtv": _PLAIN,
    "wv": Container(length="note"),
    "xwma": _PLAIN,
}


def container_name(opened: Any) -> str:
    """Return the name in `CONTAINERS` of an open PyAV container, such as "mov" for an MP4."""
    name: str = opened.format.name
    return name.partition(",")[0]


def container_facts(opened: Any) -> Container:
    """Return the row of an open PyAV container."""
    return CONTAINERS[container_name(opened)]

"""Table of the containers that FFmpeg may open, with the facts that decoding depends on.

Playlists and scripts (hls, concat, dash …) are left out, because they open further files and connections.
"""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Container:
    """Facts about a container as FFmpeg reads it.

    Attributes:
        length: the kind of its declared length: an "estimate"; a "count" of samples, backed by an index of
            frames or pages; or that count in a "header" only.
        indexed: whether it stores the size of every packet.
        continuous: whether it is a stream without an index, which may begin and end within a packet.
        padding: how to find the samples that only fill an encoder's last packet: those after the declared
            "count", or after the "end" of the last packet; None if they can't be found.
        gapless: whether it may have iTunes' iTunSMPB tag, and its index counts samples.
        counts_skip: whether the declared length includes the samples that an Opus decoder skips at the start.
        miscounts_skip: whether FFmpeg 8 counts these samples at the rate before encoding.
        one_artwork: whether all its pictures are covers.
    """

    length: Literal["estimate", "count", "header"] = "estimate"
    indexed: bool = False
    continuous: bool = False
    padding: Literal["count", "end"] | None = None
    gapless: bool = False
    counts_skip: bool = False
    miscounts_skip: bool = False
    one_artwork: bool = False


_STREAM, _COUNTED, _PLAIN = Container(continuous=True), Container(length="count"), Container()

# The key is the first of the demuxer's names, such as "mov" of "mov,mp4,m4a,3gp,3g2,mj2"
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
    "flac": Container(length="header"),
    "flv": _PLAIN,
    "iff": _PLAIN,
    "loas": _STREAM,
    "matroska": Container(indexed=True, miscounts_skip=True),
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
    "wv": Container(length="header"),
    "xwma": _PLAIN,
}


def container_name(opened: Any) -> str:
    """Return the name in `CONTAINERS` of an open PyAV container, such as "mov" for an MP4."""
    name: str = opened.format.name
    return name.partition(",")[0]


def container_facts(opened: Any) -> Container:
    """Return the facts about the format of an open PyAV container."""
    return CONTAINERS[container_name(opened)]

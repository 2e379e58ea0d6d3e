"""Projects for DAWs: a track for each stem, with its name and colour, all starting at 0.

| kind | what it is |
|---|---|
| rpp | Reaper's project, plain text |
| dawproject | the open exchange format of Bitwig and PreSonus: XML in a ZIP file |

The tempo isn't written, and positions are in seconds: the DAW keeps its own tempo. Audio stays where it is,
and the project names it relative to itself, so that the folder can be moved.
"""

import io
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from stemsplit import __version__
from stemsplit.audio.reader import probe
from stemsplit.files import os_errors, write_whole
from stemsplit.formats import FORMATS, color_of, suffix_of
from stemsplit.separation.plan import Job

_REAPER_SOURCES = {f".{each.extension}": each.reaper for each in FORMATS.values() if each.reaper}


@dataclass(frozen=True)
class Clip:
    """A stem on its track.

    Attributes:
        name: the stem.
        file: its path, relative to the project.
        sample_rate, channels: of the file.
        duration_s: its length in seconds.
    """

    name: str
    file: str
    sample_rate: int
    channels: int
    duration_s: float


def write_project(path: Path, files: Mapping[str, Path]) -> None:
    """Write the project of a track whose stems are finished; the suffix says which kind.

    Args:
        path: the project, replaced if it exists.
        files: the file of each stem.

    Raises:
        InputError: a file can't be read.
        OutputError: the project can't be written.
        ResourceError: the disk is full.
    """
    clips = [_clip(name, file, path.parent) for name, file in files.items()]
    content = rpp(clips) if path.suffix == ".rpp" else dawproject(path.stem, clips)
    with os_errors(path):
        write_whole(path, content)


def add_project(status: str, job: Job) -> None:
    """Write the project of a track that was skipped, unless there is one.

    Raises:
        Others: as `write_project`.
    """
    if status == "skipped" and job.project and not job.project.exists():
        write_project(job.project, {name: path for name, path in job.files.items() if isinstance(path, Path)})


def _clip(name: str, file: Path, folder: Path) -> Clip:
    info = probe(file)
    place = Path(os.path.relpath(file, folder)).as_posix()
    return Clip(name, place, info.sample_rate, info.channels, info.duration_s or 0.0)


def rpp(clips: Sequence[Clip]) -> bytes:
    """Return a Reaper project."""
    lines = [f'<REAPER_PROJECT 0.1 "stemsplit/{__version__}" 0']
    for clip in clips:
        lines += [
            "  <TRACK",
            f"    NAME {_quoted(clip.name)}",
            f"    PEAKCOL {_reaper_color(clip.name)}",
            "    <ITEM",
            "      POSITION 0",
            f"      LENGTH {clip.duration_s!r}",
            f"      NAME {_quoted(clip.name)}",
            f"      <SOURCE {_REAPER_SOURCES[suffix_of(clip.file)]}",
            f"        FILE {_quoted(clip.file)}",
            "      >",
            "    >",
            "  >",
        ]
    return os.fsencode("\n".join([*lines, ">", ""]))


def _quoted(text: str) -> str:
    """Return a text in quotes that don't occur in it; Reaper has three kinds and no escapes."""
    quote = next((mark for mark in "\"'`" if mark not in text), "`")
    return f"{quote}{text.replace('`', chr(39)) if quote == '`' else text}{quote}"


def _reaper_color(name: str) -> int:
    """Return a colour as Reaper stores it: blue, green and red, and a bit that says it is set."""
    red, green, blue = bytes.fromhex(color_of(name)[1:])
    return 1 << 24 | blue << 16 | green << 8 | red


def dawproject(title: str, clips: Sequence[Clip]) -> bytes:
    """Return a DAWproject file."""
    meta = Element("MetaData")
    SubElement(meta, "Title").text = _text(title)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, root in (("project.xml", _project(clips)), ("metadata.xml", meta)):
            indent(root)
            # without the time, the same stems give the same bytes
            archive.writestr(zipfile.ZipInfo(name), tostring(root, "UTF-8", xml_declaration=True))
    return packed.getvalue()


def _project(clips: Sequence[Clip]) -> Element:
    project = Element("Project", {"version": "1.0"})
    SubElement(project, "Application", {"name": "stemsplit", "version": __version__})
    structure = SubElement(project, "Structure")
    for number, clip in enumerate(clips):
        shown = {"name": clip.name, "color": color_of(clip.name)}
        _add_track(structure, f"{number}", shown, {"role": "regular", "destination": "channel_master"}, clip)
    _add_track(structure, "_master", {"name": "Master"}, {"role": "master"}, clips[0])
    arrangement = SubElement(project, "Arrangement", {"id": "arrangement"})
    lanes = SubElement(arrangement, "Lanes", {"id": "lanes", "timeUnit": "seconds"})
    for number, clip in enumerate(clips):
        lane = SubElement(lanes, "Lanes", {"id": f"lanes{number}", "track": f"track{number}"})
        _add_clip(SubElement(lane, "Clips", {"id": f"clips{number}"}), number, clip)
    return project


def _add_track(
    structure: Element, number: str, shown: dict[str, str], of_channel: dict[str, str], clip: Clip
) -> None:
    of_track = {"id": f"track{number}", "contentType": "audio", "loaded": "true"}
    track = SubElement(structure, "Track", of_track | shown)
    of_channel = {"id": f"channel{number}", "audioChannels": str(clip.channels)} | of_channel
    SubElement(track, "Channel", of_channel)


def _add_clip(clips: Element, number: int, clip: Clip) -> None:
    length = repr(clip.duration_s)
    of_clip = {"time": "0.0", "duration": length, "playStart": "0.0", "contentTimeUnit": "seconds"}
    placed = SubElement(clips, "Clip", {"name": clip.name} | of_clip)
    of_audio = {"channels": str(clip.channels), "sampleRate": str(clip.sample_rate), "duration": length}
    audio = SubElement(placed, "Audio", {"id": f"audio{number}"} | of_audio)
    SubElement(audio, "File", {"path": _text(clip.file), "external": "true"})


def _text(name: str) -> str:
    """Return a name as XML can hold it; bytes of a file name that aren't UTF-8 become question marks."""
    return name.encode(errors="replace").decode()

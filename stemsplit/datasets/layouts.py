"""Find the tracks of a data set and the files of each stem, from the names of folders and files.

No audio is opened here, only manifests; `datasets.tracks` reads the files. The layouts:

    <track>/<stem>.wav                 MUSDB18-HQ and most others; `mixture`, `mix` or `input` is the mixture
    <track>/<stem>/<any>.wav           MoisesDB; the files of a stem are summed
    <track>.stem.mp4                   MUSDB18; five streams: mixture, drums, bass, other, vocals
    stems.json, manifest.json          {track: {stem: [file, …]}}
    manifest.csv                       track,stem,path, one line per file
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stemsplit.datasets.names import KNOWN_STEMS, MIXTURE, MIXTURE_NAMES, left_out_by
from stemsplit.errors import InputError
from stemsplit.listing import AUDIO_SUFFIXES, is_hidden
from stemsplit.stems import canonical

STREAMS = (MIXTURE, "drums", "bass", "other", "vocals")


@dataclass(frozen=True, order=True)
class Location:
    """An audio file, or one audio stream of a container."""

    path: Path
    stream: int | None = None


@dataclass(frozen=True)
class Layout:
    """The files of a track.

    Attributes:
        name: the track's folder below the root, or its name in the manifest.
        stems: for each stem, the files whose sum it is; no file means that the stem is silent.
        mixture: the files whose sum is the mixture; None if the data set has no mixture.
    """

    name: str
    stems: dict[str, tuple[Location, ...]]
    mixture: tuple[Location, ...] | None


def find_layouts(root: str | Path) -> list[Layout]:
    """Return all tracks of a data set, sorted by name.

    Args:
        root: a folder of tracks at any depth, one track's folder, a `.stem.mp4`, or a manifest.

    Raises:
        InputError: there is no track, or a manifest or folder contradicts itself.
    """
    root = Path(root)
    if (root / "stems.json").is_file():
        root = root / "stems.json"
    found = _read_file(root) if root.is_file() else sorted(_walk(root, root), key=lambda layout: layout.name)
    if not found:
        raise InputError(
            root,
            "no multitrack found" if root.exists() else "no such file or folder",
            hint="expected <track>/<stem>.wav, <track>/<stem>/*.wav, <track>.stem.mp4 or a manifest",
        )
    return found


def _read_file(path: Path) -> list[Layout]:
    if path.suffix.lower() == ".json":
        return _read_json(path)
    if path.suffix.lower() == ".csv":
        return _read_csv(path)
    if _is_container(path):
        return [_from_container(path, path.parent)]
    raise InputError(path, "neither a manifest (.json, .csv) nor a .stem.mp4")


# ---------------------------------------------------------------- folders


def _walk(folder: Path, root: Path, above: frozenset[str] = frozenset()) -> Iterator[Layout]:
    """Yield the tracks in and below a folder; `above` are the real paths of the folders that lead to it."""
    here = os.path.realpath(folder)
    if here in above:  # following a link to a folder above this one would never end
        return
    files, folders = _audio_files(folder), _folders(folder)
    yield from (_from_container(f, root) for f in files if _is_container(f))
    files = [f for f in files if not _is_container(f)]
    names = {f.stem.lower() for f in files}
    # Files of unknown names beside folders, such as a demo of the data set, don't make the folder a track.
    stray = folders and not names & (KNOWN_STEMS | MIXTURE_NAMES)
    if names - MIXTURE_NAMES and not stray:
        yield _layout(_track_name(folder, root), folder, ((f.stem, [f]) for f in files))
    elif _holds_stem_folders(folder, folders):
        # The mixture may be a file beside the folders of the stems.
        pairs = [(f.stem, [f]) for f in files if f.stem.lower() in MIXTURE_NAMES]
        pairs += [(sub.name, _audio_files(sub)) for sub in folders]
        yield _layout(_track_name(folder, root), folder, (pair for pair in pairs if pair[1]))
    else:
        for sub in folders:
            yield from _walk(sub, root, above | {here})


def _holds_stem_folders(folder: Path, folders: Iterable[Path]) -> bool:
    """Tell whether each subfolder with audio is a stem: by its name, or by MoisesDB's `data.json`."""
    full = [sub for sub in folders if _audio_files(sub)]
    known = KNOWN_STEMS | MIXTURE_NAMES
    named = all(sub.name.lower() in known or left_out_by(sub.name) is not None for sub in full)
    return bool(full) and (named or (folder / "data.json").is_file())


def _is_container(path: Path) -> bool:
    return path.name.lower().endswith((".stem.mp4", ".stem.m4a"))


def _from_container(path: Path, root: Path) -> Layout:
    # MUSDB18 fixes the order of the streams.
    streams = {name: (Location(path, stream),) for stream, name in enumerate(STREAMS)}
    name = path.relative_to(root).with_suffix("").with_suffix("").as_posix()  # without .stem.mp4
    return Layout(name, {stem: streams[stem] for stem in STREAMS[1:]}, streams[MIXTURE])


def _track_name(folder: Path, root: Path) -> str:
    return folder.resolve().name if folder == root else folder.relative_to(root).as_posix()


def _layout(name: str, where: Path, pairs: Iterable[tuple[str, list[Path]]]) -> Layout:
    """Return a track from pairs of a stem's name, as the file or manifest has it, and the stem's files.

    Raises:
        InputError: two names mean the same stem; the error names `where`.
    """
    stems: dict[str, tuple[Location, ...]] = {}
    for given_name, paths in pairs:
        stem = MIXTURE if given_name.lower() in MIXTURE_NAMES else canonical(given_name)
        if stem in stems:
            names = sorted(p.name for p in [*(location.path for location in stems[stem]), *paths])
            raise InputError(where, f"{' and '.join(names)} are both {stem}")
        stems[stem] = tuple(sorted(Location(path) for path in paths))
    mixture = stems.pop(MIXTURE, None)
    return Layout(name, dict(sorted(stems.items())), mixture)


def _visible(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if not is_hidden(p.name))


def _audio_files(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.suffix.lower() in AUDIO_SUFFIXES and p.is_file()]


def _folders(folder: Path) -> list[Path]:
    return [p for p in _visible(folder) if p.is_dir()]


# ---------------------------------------------------------------- manifests


def _read_json(path: Path) -> list[Layout]:
    try:
        tracks = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"not JSON ({error})") from None
    if not _is_manifest(tracks):
        raise InputError(path, "a manifest is {track: {stem: [file, …]}}")
    return _from_manifest(path, tracks)


def _is_manifest(tracks: Any) -> bool:
    return isinstance(tracks, dict) and all(
        isinstance(stems, dict)
        and all(
            isinstance(files, list) and all(isinstance(f, str) for f in files) for files in stems.values()
        )
        for stems in tracks.values()
    )


def _read_csv(path: Path) -> list[Layout]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            tracks = _by_track(path, csv.DictReader(lines))
    except (UnicodeError, csv.Error) as error:
        raise InputError(path, f"not a CSV in UTF-8 ({error})") from None
    return _from_manifest(path, tracks)


def _by_track(path: Path, rows: "csv.DictReader[str]") -> dict[str, dict[str, list[str]]]:
    tracks: dict[str, dict[str, list[str]]] = {}
    if not {"track", "stem", "path"} <= set(rows.fieldnames or ()):
        raise InputError(path, "the first line must name the columns track, stem and path")
    for row in rows:
        if not (row["track"] and row["stem"] and row["path"]):
            raise InputError(path, f"line {rows.line_num}: track, stem and path must be given")
        tracks.setdefault(row["track"], {}).setdefault(row["stem"], []).append(row["path"])
    return tracks


def _from_manifest(path: Path, tracks: Mapping[str, Mapping[str, list[str]]]) -> list[Layout]:
    return [
        _layout(
            name, path, ((stem, [_resolve(path, name, f) for f in files]) for stem, files in stems.items())
        )
        for name, stems in sorted(tracks.items())
    ]


def _resolve(manifest: Path, track: str, file: str) -> Path:
    """Return a manifest's file: absolute, or relative to the track's folder or to the manifest's folder.

    Raises:
        InputError: there is no such file.
    """
    for path in (manifest.parent / track / file, manifest.parent / file):
        if path.is_file():
            return path
    raise InputError(manifest, f"{track}: no file {file}")

"""Materials of songs: recordings, MIDI files and SoundFonts, split into training and held-out parts."""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from songmaker.sampler import Instrument, Kit, find_instrument, find_kit, sound_files
from stemsplit.datasets.tracks import Track, find_tracks
from stemsplit.errors import InputError
from stemsplit.listing import is_hidden

# Kept out of training, by parts of names: a song, singers, drum loops, drummers, General MIDI songs.
# Recorded notes, drum hits and SoundFonts are shared by both sides.
HELD_OUT = (
    "3.Sodium", "vocadito_14", "antagata", "male1_vibrato", "rtvc_p2", "Singer2_Clear", "POP-ROK/125bpm",
    "JAZ-DRM/1", "HH-TRP/12", "EDM-HSE/123", "drummer10", "drummer5", "d_e3m", "d_map1",
)  # fmt: skip
# pitched recordings: a folder, and the prefixes of file names that make up one instrument each
_BASSES = (("bass_gm_finger", ("",)), ("bass_growly", ("",)), ("bass_meat", ("arco", "pizz")))
_GUITARS = (
    ("other_blackgreenguitar", ("black_ord", "black_stac", "green")), ("other_emilyguitar", ("",)),
    ("other_shinyguitar", ("acoustic", "electric")),
)  # fmt: skip
_OTHERS = (
    ("other_gm", ("martin", "pizzstr", "rhodes", "tremstr")), ("other_gm_piano_ccby", ("",)),
    ("other_horsepulse", ("",)), ("other_weresax", ("",)),
)  # fmt: skip
_VOWELS = (
    ("vocals_olpc", ("femalevoice_aa", "femalevoice_oo", "femalevoices_aa", "femalevoices_oo", "malevoice_aa",
                     "malevoice_oo", "malevoices_aa", "malevoices_oo")),
)  # fmt: skip


@dataclass
class Materials:
    """Materials that a song may use; each list may be empty.

    Attributes:
        fonts: General MIDI SoundFonts. takes: MIDI of drummers. songs: General MIDI songs.
        kit: drum hits of all folders. kits: drum hits of one folder each. loops: recordings of drums alone.
        basses, guitars, others, vowels: recorded notes.
        singers, speakers: recordings of one voice each.
        textures: recordings without drums, bass and vocals.
        album: multitracks whose vocals are used.
    """

    fonts: list[Path] = field(default_factory=list)
    takes: list[Path] = field(default_factory=list)
    songs: list[Path] = field(default_factory=list)
    kit: Kit = field(default_factory=Kit)
    kits: list[Kit] = field(default_factory=list)
    loops: list[Path] = field(default_factory=list)
    basses: list[Instrument] = field(default_factory=list)
    guitars: list[Instrument] = field(default_factory=list)
    others: list[Instrument] = field(default_factory=list)
    vowels: list[Instrument] = field(default_factory=list)
    singers: list[Path] = field(default_factory=list)
    speakers: list[Path] = field(default_factory=list)
    textures: list[Path] = field(default_factory=list)
    album: list[Track] = field(default_factory=list)


def is_held_out(name: str) -> bool:
    """Return True if a file or track is kept out of training."""
    return any(word in name for word in HELD_OUT)


def _split(paths: Iterable[Path], held_out: bool) -> list[Path]:
    """Return the training part or the held-out part; the same for both if nothing of a kind is held out."""
    paths = sorted(p for p in paths if not is_hidden(p.name))
    wanted = [p for p in paths if is_held_out("/".join(p.parts[-2:])) == held_out]
    return wanted or paths


def _instruments(root: Path, folders: Sequence[tuple[str, Sequence[str]]]) -> list[Instrument]:
    found = (find_instrument(root / folder, p) for folder, prefixes in folders for p in prefixes)
    return [instrument for instrument in found if instrument is not None]


def find_materials(
    fonts: Sequence[Path], samples: Path | None, album: Path | None, held_out: bool = False
) -> Materials:
    """Collect materials from files and folders.

    Args:
        fonts: SoundFont files.
        samples: folder of folders named by their content (`drums_…`, `bass_…`, `vocals_…`, `midi_…`).
        album: folder of multitracks with vocals.
        held_out: take the held-out part instead of the training part.

    Raises:
        InputError: a file or folder that was given isn't there.
    """
    for path in (*fonts, samples, album):
        if path is not None and not path.exists():
            raise InputError(path, "no such file or folder")
    tracks = [track.without_sums() for track in find_tracks(album)] if album is not None else []
    materials = Materials(fonts=list(fonts), album=[t for t in tracks if is_held_out(t.name) == held_out])
    if samples is not None:
        _add_samples(materials, samples, held_out)
    return materials


def _add_samples(materials: Materials, root: Path, held_out: bool) -> None:
    materials.takes = _split(root.glob("midi_groove/*.mid"), held_out)
    materials.songs = _split(root.glob("midi_freedoom/d_*.mid"), held_out)
    names = ("muldjord", "gogodze", "uzu", "sonicpi", "olpc", "frankensnare")
    folders = [root / f"drums_{name}" for name in names]
    materials.kit = find_kit(folders)
    materials.kits = [kit for folder in folders[:4] if (kit := find_kit([folder])).sounds]
    materials.loops = _split((root / "drums_waivops").rglob("*.ogg"), held_out)
    materials.basses = _instruments(root, _BASSES)
    materials.guitars = _instruments(root, _GUITARS)
    materials.others = _instruments(root, _OTHERS)
    materials.vowels = _instruments(root, _VOWELS)
    singing = [p for p in root.glob("vocals_*/*.ogg") if "voice" not in p.name and "spoken" not in p.name]
    materials.singers = _split(singing, held_out)
    materials.speakers = _split(sound_files(root / "voice_speech"), held_out)
    materials.textures = _split(
        [*root.glob("other_smstools/*.ogg"), *root.glob("other_sonicpi/*.ogg")], held_out
    )


def seed_of(name: str, seed: int) -> int:
    """Return the seed of a song, from its name and the run's seed alone."""
    return zlib.crc32(f"{seed}/{name}".encode())

"""Check the materials of tiny and make its data sets: python examples/tiny/prepare.py OUT --samples DIR."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import soundfile

from make_songs import make_songs
from songmaker.compose import compose, pick
from songmaker.effects import RATE, Audio, filtered, level
from songmaker.materials import Materials, find_materials, is_held_out, seed_of
from songmaker.mixing import LEVELS, bass
from songmaker.sampler import sound_files
from stemsplit.audio.channels import convert_channels
from stemsplit.audio.reader import read_audio
from stemsplit.audio.resample import resample
from stemsplit.datasets.tracks import Part, Source, Track, find_tracks
from stemsplit.errors import StemsplitError

FOLDERS = (
    "midi_groove", "midi_freedoom", "drums_muldjord", "drums_gogodze", "drums_frankensnare", "drums_uzu",
    "drums_sonicpi", "drums_olpc", "drums_waivops", "bass_gm_finger", "bass_growly", "bass_meat", "other_gm",
    "other_gm_piano_ccby", "other_blackgreenguitar", "other_emilyguitar", "other_shinyguitar",
    "other_horsepulse", "other_weresax", "other_smstools", "other_sonicpi", "other_sectoid", "vocals_olpc",
    "vocals_smstools", "vocals_vocalset_vocadito", "vocals_emvd", "vocals_dagstuhl", "vocals_choir_misc",
    "vocals_oatsu", "voice_speech",
)  # fmt: skip
SONGS = ("1.Hydrogen", "2.Lithium", "3.Sodium", "4.Potassium", "5.Rubidium", "6.Caesium", "7.Francium")
# In these songs the bass line lies inside a track of `other`; of the fourth, that track is pad and bass.
BASS_IN_SYNTHESISER = ("1.Hydrogen", "5.Rubidium", "6.Caesium", "7.Francium")
BASS_HZ = 250.0
RECIPE = Path(__file__).resolve().with_name("tiny.yaml")
SHORTEST_S = 5.0  # of a recording; training takes segments of 4.5 s


def missing(samples: Path, album: Path, fonts: Sequence[Path]) -> list[str]:
    """Return what isn't there or is empty, one line each."""
    folders = [samples / name for name in FOLDERS] if samples.is_dir() else [samples]
    lines = [f"{f}: no such folder, or empty" for f in folders if not f.is_dir() or not any(f.iterdir())]
    names = {track.name for track in find_tracks(album)} if album.is_dir() else set()
    songs = [song for song in SONGS if song not in names]
    lines += [f"{album}: no song {song}" for song in songs] if names else [f"{album}: no album"]
    return [*lines, *(f"{font}: no such file" for font in fonts if not font.is_file())]


def album_stems(track: Track) -> dict[str, Audio]:
    """Return the stems of a song of the album, without the bass lines that lie in `other`."""
    stems = {}
    for stem, source in track.stems.items():
        parts = [part for part in source.parts if "PAD + BASS" not in part.where.path.name]
        if parts:
            stems[stem] = np.zeros((2, source.frames), np.float32)
        for part in parts:
            stems[stem] += _without_bass(track.name, part, source.frames)
    return stems


def _without_bass(song: str, part: Part, frames: int) -> Audio:
    """Return a file of the album, [2, T], or what is above the bass line of its synthesiser."""
    audio = Source((part,), frames, RATE, 2).read()
    if "MINILOGUE" in part.where.path.name and song in BASS_IN_SYNTHESISER:
        audio = filtered(audio, {BASS_HZ / 2: -48.0, BASS_HZ: 0.0})
    return audio


def electronic_bass(name: str, duration_s: float, materials: Materials) -> Audio:
    """Return a bass line by an 808 or a synthesiser, at the level of a mix, [2, T]."""
    rng = np.random.default_rng(seed_of(name, 17))
    (part,) = (part for part in compose(name, duration_s, materials.takes, rng).parts if part.stem == "bass")
    source = pick(rng, ("boom", "formula"))
    return level(bass(part, duration_s, materials, rng, source, dull=0.2), LEVELS["bass"][0])


def recording(path: Path) -> Audio:
    """Return a recording at `RATE`, [2, T]."""
    audio, rate = read_audio(path)
    return convert_channels(resample(audio, rate, RATE), 2)


def write(folder: Path, stems: dict[str, Audio]) -> None:
    """Write `<folder>/<stem>.flac` with one gain, so that no stem clips; keep a folder that is there."""
    if folder.exists():
        return
    gain = 1 / max(1.0, *(float(np.abs(audio).max()) for audio in stems.values()))
    part = folder.with_name(f".{folder.name}.part")
    part.mkdir(parents=True, exist_ok=True)
    for stem, audio in stems.items():
        soundfile.write(part / f"{stem}.flac", gain * audio.T, RATE, subtype="PCM_16")
    part.rename(folder)


def prepare(out: Path, samples: Path, album: Path, fonts: Sequence[Path], songs: int) -> Iterator[Path]:
    """Write the data sets of training and validation; yield every folder.

    The validation songs sing with voices that are never trained on, and without the album.
    """
    for track in find_tracks(album, sample_rate=RATE):
        if not is_held_out(track.name):
            write(out / "album" / track.name, album_stems(track))
            yield out / "album" / track.name
    materials = find_materials(fonts, samples, album)
    alone = [path for path in materials.singers if path.parent.name != "vocals_choir_misc"]
    guitars = sound_files(samples / "other_sectoid")
    recordings = (
        ("singing", "vocals", alone),
        ("speech", "vocals", materials.speakers),
        ("guitars", "other", guitars),
    )
    for kind, stem, paths in recordings:
        for path in paths:
            audio = recording(path)
            if audio.shape[1] >= SHORTEST_S * RATE:
                write(out / kind / path.stem, {stem: audio})
                yield out / kind / path.stem
    names = [f"song-{number:04d}" for number in range(songs)]
    for name in names[: songs // 8]:
        write(out / "basses" / name, {"bass": electronic_bass(name, 40.0, materials)})
        yield out / "basses" / name
    yield from make_songs(out / "songs", names, 40.0, materials, seed=11)
    unheard = find_materials(fonts, samples, None, held_out=True)
    for folder in make_songs(out / "songs-valid", names[:8], 20.0, unheard, seed=3):
        stems = {path.stem: read_audio(path)[0] for path in folder.glob("*.flac")}
        mono = {stem: audio.mean(0, keepdims=True).repeat(2, 0) for stem, audio in stems.items()}
        write(out / "songs-valid-mono" / folder.name, mono)
        yield folder


def run_training(out: Path) -> None:
    """Train in the folder `out`, or continue there, and exit with the exit code of `stemsplit train`."""
    command = [sys.executable, "-m", "stemsplit", "train", "--config", str(RECIPE), "--resume"]
    # one thread for each of the two processes
    raise SystemExit(subprocess.run(command, cwd=out, env={**os.environ, "OMP_NUM_THREADS": "1"}).returncode)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--samples", required=True, type=click.Path(path_type=Path), help="Folder of recorded sounds.")
@click.option("--album", required=True, type=click.Path(path_type=Path), help="Folder of the album's songs.")
@click.option(
    "--font", "fonts", multiple=True, required=True, type=click.Path(path_type=Path), help="SoundFont."
)
@click.option("--songs", type=click.IntRange(8), default=160, show_default=True, help="Songs to make.")
@click.option("--check", is_flag=True, help="Only check that all materials are there.")
@click.option("--train", is_flag=True, help="Then train with tiny.yaml.")
def main(
    out: Path, samples: Path, album: Path, fonts: tuple[Path, ...], songs: int, check: bool, train: bool
) -> None:
    """Check the materials, and write the data sets that tiny.yaml trains on and validates with.

    What exists is kept, and training continues, so the command can be repeated after an interruption.

    Example: python examples/tiny/prepare.py out --samples samples --album album --font Fluid.sf2 --train
    """
    try:
        if lines := missing(samples, album, fonts):
            raise click.ClickException("\n  ".join(["materials are missing:", *lines]))
        for folder in () if check else prepare(out, samples, album, fonts, songs):
            click.echo(str(folder))
    except StemsplitError as error:
        raise click.ClickException(str(error)) from error
    if train and not check:
        run_training(out)


if __name__ == "__main__":
    main()

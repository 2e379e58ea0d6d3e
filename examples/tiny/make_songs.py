"""Make a folder of multitracks: python examples/tiny/make_songs.py OUT --songs N --seed S."""

from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import soundfile

from songmaker.compose import arrange, compose, pick
from songmaker.effects import RATE, Audio
from songmaker.materials import Materials, find_materials, seed_of
from songmaker.mixing import render
from stemsplit.errors import StemsplitError


def make_song(name: str, seconds: float, materials: Materials, seed: int) -> dict[str, Audio]:
    """Return the stems of a song, which depend on its name, its length, the materials and the seed alone."""
    rng = np.random.default_rng(seed_of(name, seed))
    if materials.songs and rng.random() < 0.35:
        song = arrange(pick(rng, materials.songs), name, seconds, rng)
    else:
        song = compose(name, seconds, materials.takes, rng)
    return render(song, materials, rng)


def make_songs(
    out: Path, names: list[str], seconds: float, materials: Materials, seed: int
) -> Iterator[Path]:
    """Write `<out>/<name>/<stem>.flac` for each name that doesn't exist yet, and yield all folders."""
    for name in names:
        folder = out / name
        if not folder.exists():
            part = out / f".{name}.part"
            part.mkdir(parents=True, exist_ok=True)
            for stem, audio in make_song(name, seconds, materials, seed).items():
                soundfile.write(part / f"{stem}.flac", audio.T, RATE, subtype="PCM_16")
            part.rename(folder)
        yield folder


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("out", type=click.Path(file_okay=False, path_type=Path))
@click.option("--songs", type=click.IntRange(1), default=10, show_default=True, help="Number of songs.")
@click.option("--seed", type=int, default=0, show_default=True, help="Random seed.")
@click.option(
    "--first", type=click.IntRange(0), default=0, show_default=True, help="Number of the first song."
)
@click.option(
    "--seconds", type=click.FloatRange(1), default=60.0, show_default=True, help="Length of a song."
)
@click.option(
    "--font",
    "fonts",
    multiple=True,
    type=click.Path(path_type=Path),
    help="General MIDI SoundFont; repeatable.",
)
@click.option(
    "--samples", type=click.Path(path_type=Path), help="Folder of recorded sounds, MIDI files and voices."
)
@click.option("--album", type=click.Path(path_type=Path), help="Folder of multitracks whose vocals are used.")
@click.option("--held-out", is_flag=True, help="Use the held-out materials, to make validation songs.")
def main(
    out: Path,
    songs: int,
    seed: int,
    first: int,
    seconds: float,
    fonts: tuple[Path, ...],
    samples: Path | None,
    album: Path | None,
    held_out: bool,
) -> None:
    """Make songs with four stems each, as OUT/song-0000/drums.flac and so on.

    The same options make the same songs; existing songs are kept. Without --font, --samples and --album,
    everything is synthesised.

    Example: python examples/tiny/make_songs.py songs --songs 3 --font FluidR3_GM.sf2
    """
    try:
        materials = find_materials(fonts, samples, album, held_out)
        names = [f"song-{i:04d}" for i in range(first, first + songs)]
        for folder in make_songs(out, names, seconds, materials, seed):
            click.echo(str(folder))
    except StemsplitError as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()

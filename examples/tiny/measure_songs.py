"""Compare generated songs with real music: python examples/tiny/measure_songs.py SONGS."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import numpy as np
import torch
from numpy.typing import NDArray

from songmaker.effects import RATE, Audio, rms
from stemsplit.datasets.tracks import find_tracks
from stemsplit.errors import StemsplitError

AUDIBLE = 0.005  # RMS of the quietest stem that counts
WINDOW, HOP = 4096, RATE // 20  # samples
LOWEST_DB = -60.0  # of a share of energy; a mono stem has a side of that level
LOW_END_HZ = 150.0


class Sound:
    """A stem, as powers in time and frequency: [2, F, frames] of middle and side, and [blocks] of 50 ms."""

    def __init__(self, audio: Audio) -> None:
        views = torch.from_numpy(np.stack([audio.mean(0), (audio[0] - audio[-1]) / 2]))  # [2, T]
        window = torch.hann_window(WINDOW)
        spectra = torch.stft(views, WINDOW, HOP, window=window, pad_mode="constant", return_complex=True)
        self.powers = spectra.abs().square().numpy()
        blocks = views[:, : views.shape[1] // HOP * HOP].unflatten(1, (-1, HOP))  # [2, blocks, HOP]
        self.blocks = blocks.square().mean(-1).sum(0).numpy()

    def band(self, low_hz: float = 20, high_hz: float = 20_000) -> NDArray[np.float32]:
        """Return the powers of middle and side between two frequencies, [2, frames]."""
        bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
        return np.asarray(self.powers[:, (bins >= low_hz) & (bins < high_hz)].sum(1))


class Statistic(NamedTuple):
    """Something that is measured in a stem.

    Attributes:
        stem: drums, bass, other or vocals.
        name: of the row.
        real: median over excerpts of real multitracks, measured by another program; a range is over bands.
        measure: function of a stem.
    """

    stem: str
    name: str
    real: str
    measure: Callable[[Sound], float]


def _db(part: float, whole: float) -> float:
    return max(LOWEST_DB, 10 * float(np.log10(max(part, 1e-20) / max(whole, 1e-20))))


def share_db(sound: Sound, low_hz: float, high_hz: float) -> float:
    """Return the energy between two frequencies in dB relative to that from 20 Hz to 20 kHz."""
    return _db(sound.band(low_hz, high_hz).sum(), sound.band().sum())


def side_db(sound: Sound, low_hz: float = 20, high_hz: float = 20_000) -> float:
    """Return the energy of the side (L − R)/2 in dB relative to that of the middle (L + R)/2."""
    middle, side = sound.band(low_hz, high_hz).sum(1)
    return _db(side, middle)


def crest_db(sound: Sound) -> float:
    """Return the power of the loudest 50 ms in dB relative to the mean power."""
    return _db(sound.blocks.max(), sound.blocks.mean())


def loud_low_end(sound: Sound) -> float:
    """Return the percentage of time in which the low end is louder than its mean power."""
    power = sound.band(20, LOW_END_HZ).sum(0)  # [frames]
    return 100 * float((power > power.mean()).mean())


STATISTICS = (
    Statistic("bass", "500–2000 Hz, dB of all", "−28.5", lambda s: share_db(s, 500, 2000)),
    Statistic("bass", "side, dB of the middle", "−30", side_db),
    Statistic("drums", "loudest 50 ms, dB above the mean", "11.2", crest_db),
    Statistic("drums", "low end louder than its mean, % of the time", "16", loud_low_end),
    Statistic("drums", "side 0.5–8 kHz, dB of the middle", "−8.5", lambda s: side_db(s, 500, 8000)),
    Statistic("vocals", "side, dB of the middle", "−16…−20", side_db),
    Statistic("other", "below 150 Hz, dB of all", "−9.8", lambda s: share_db(s, 20, LOW_END_HZ)),
)


def stems_of(folder: Path) -> Iterator[tuple[str, Audio]]:
    """Yield the name and the audio [C, T] of every audible stem in a folder of multitracks.

    Raises:
        InputError: there are no multitracks in the folder.
    """
    for track in find_tracks(folder, sample_rate=RATE):
        for stem, source in track.stems.items():
            audio = source.read()
            if rms(audio) > AUDIBLE:
                yield stem, audio


def measure(folder: Path) -> list[list[float]]:
    """Return the values of each of `STATISTICS` over the songs of a folder; silent stems have none."""
    values: list[list[float]] = [[] for _ in STATISTICS]
    for stem, audio in stems_of(folder):
        sound = Sound(audio)
        for statistic, found in zip(STATISTICS, values, strict=True):
            if statistic.stem == stem:
                found.append(statistic.measure(sound))
    return values


def _cell(values: Sequence[float]) -> str:
    """Return the median and the first and last decile in words."""
    if not values:
        return "–"
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return f"{middle:.1f} ({low:.1f} to {high:.1f})".replace("-", "−")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(folders: tuple[Path, ...]) -> None:
    """Print medians over the songs of each folder beside those of real music, as a table in Markdown.

    In brackets: the range from the first to the last decile, which tells how different the songs are.

    Example: python examples/tiny/measure_songs.py songs
    """
    try:
        columns = [measure(folder) for folder in folders]
    except StemsplitError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"| stem | statistic | real | {' | '.join(f'`{folder.name}`' for folder in folders)} |")
    click.echo("|---|---|---|" + "---|" * len(folders))
    for row, statistic in enumerate(STATISTICS):
        cells = (statistic.stem, statistic.name, statistic.real, *(_cell(values[row]) for values in columns))
        click.echo(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""Scores models on excerpts: python tests/benchmarks/score_excerpts.py DATASET -m tiny -m classic.

Every track is cut into excerpts, every excerpt separated by itself. The score of a stem is the median of
the SDR of the whole excerpt over those in which the stem sounds (rms above 0.005), and the last column is the
mean over the stems. The mixture, taken for every stem, is always scored too. `--image` scores the excerpts in
mono, nearly mono, or on the left channel alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

from stemsplit.core.stream import separate_array
from stemsplit.datasets.tracks import Track, find_tracks
from stemsplit.evaluation.metrics import usdr
from stemsplit.hub.load import load_model

AUDIBLE = 0.005
STEMS = ("drums", "bass", "other", "vocals")
# matrices of the channels, [C, C]; narrow has the side 20 dB lower
IMAGES = {
    "stereo": torch.eye(2),
    "mono": torch.full((2, 2), 0.5),
    "narrow": torch.tensor([[0.55, 0.45], [0.45, 0.55]]),
    "left": torch.tensor([[1.0, 0.0], [0.0, 0.0]]),
}


def excerpts(track: Track, seconds: float) -> Iterator[Tensor]:
    """The stems of one excerpt after the other, [S, C, T]; a stem that the track lacks is silent."""
    length = int(seconds * track.sample_rate)
    for start in range(0, max(track.frames - length, 0) + 1, length):
        found = [
            torch.from_numpy(track.stems[s].read(start, length))
            if s in track.stems
            else torch.zeros(2, length)
            for s in STEMS
        ]
        yield torch.stack(found)


def sdr(stems: Tensor, estimate: Tensor) -> Tensor:
    """[S, C, T] twice to [S] in dB; NaN where the stem doesn't sound."""
    audible = stems.square().mean((1, 2)).sqrt() > AUDIBLE
    return usdr(stems, estimate).masked_fill(~audible, torch.nan)


def estimates(model: str, stems: Tensor, cache: dict) -> Tensor:
    """[S, C, T] from [S, C, T]; `mixture` is the mix for every stem."""
    mix = stems.sum(0)
    if model == "mixture":
        return mix.expand_as(stems)
    if model not in cache:
        cache[model] = load_model(model)
    network = cache[model]
    separated = separate_array(network, mix)
    return separated[[network.stems.index(s) for s in STEMS]]


@click.command()
@click.argument("datasets", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-m", "--model", "models", multiple=True, default=("tiny", "classic"), show_default=True)
@click.option("--seconds", default=12.0, show_default=True, help="Length of an excerpt.")
@click.option("--every", default=1, show_default=True, help="Take every N-th excerpt only.")
@click.option("--only", multiple=True, help="Names of tracks; default all.")
@click.option("--image", type=click.Choice(list(IMAGES)), default="stereo", show_default=True)
def main(
    datasets: tuple[Path, ...],
    models: tuple[str, ...],
    seconds: float,
    every: int,
    only: tuple[str, ...],
    image: str,
) -> None:
    """Print a table of scores, and the same as one line of JSON."""
    tracks = [t for root in datasets for t in find_tracks(root) if not only or t.name in only]
    cache: dict = {}
    scores: dict[str, list[Tensor]] = {name: [] for name in ("mixture", *models)}
    for track in tracks:
        for stereo in list(excerpts(track, seconds))[::every]:
            stems = IMAGES[image] @ stereo  # [S, C, T]
            for name, found in scores.items():
                found.append(sdr(stems, estimates(name, stems, cache)))
    rows = {name: torch.stack(found).nanmedian(0).values.tolist() for name, found in scores.items()}
    for name, row in rows.items():
        mean = torch.tensor(row).nanmean().item()
        click.echo(
            f"{name:10}"
            + "".join(f"{s:>8} {x:6.2f}" for s, x in zip(STEMS, row, strict=True))
            + f"    mean {mean:6.2f}"
        )
    click.echo(json.dumps({"excerpts": len(scores["mixture"]), "scores": rows}))


if __name__ == "__main__":
    main()

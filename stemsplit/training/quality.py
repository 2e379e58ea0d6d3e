"""Finding mislabelled stems with a separator ("Hybrid Transformers for Music Source Separation", 2022).

Each stem x_i of a song is itself separated: y_ij is the output j of f(x_i). With perfect labels and a perfect
f all of x_i comes out at i. So P_ij, the share of the seconds in which x_i sounds where y_ij is less than
10 dB below x_i, is the identity for a clean song, and its other entries say what a stem really holds.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from stemsplit.core.compute import Compute, place, resolve
from stemsplit.core.stream import separate_array
from stemsplit.errors import AudioError
from stemsplit.events import Callback, TrackStart, emit
from stemsplit.hub.load import load_model
from stemsplit.models.bag import Bag
from stemsplit.models.network import Network
from stemsplit.settings import DEFAULT_MODEL, ChunkSettings, ComputeSettings
from stemsplit.training.config import DataSetConfig
from stemsplit.training.library import Wanted, WholeSong, find_folders, open_folder

SILENT_DB = -40.0  # quieter seconds don't count
WITHIN_DB = 10.0  # an output that near to its input holds a part of it
LEAST_ACTIVE = 0.3  # of the seconds, for every stem
LEAST_OWN = 0.7  # P_ii
MOST_OTHER = 0.3  # P_ij


@dataclass(frozen=True)
class Quality:
    """What the separator says of one song.

    Attributes:
        stems: of the song, in the order of the model's.
        active: [S], the share of seconds in which each stem sounds.
        matrix: [S, S], P_ij; NaN in the row of a stem that never sounds.
    """

    stems: tuple[str, ...]
    active: Tensor
    matrix: Tensor

    def doubts(self) -> list[str]:
        """What speaks against the labels, a sentence each; none for a song that passes the paper's test."""
        found = []
        for i, stem in enumerate(self.stems):
            share = float(self.active[i])
            if share < LEAST_ACTIVE:
                found.append(f"{stem} sounds in only {share:.0%} of the song")
            if share > 0:
                found += self._row(i)
        return found

    def _row(self, i: int) -> list[str]:
        own = float(self.matrix[i, i])
        found = [f"{self.stems[i]} is found again in {own:.0%} of it"] if own <= LEAST_OWN else []
        others = [(j, float(self.matrix[i, j])) for j in range(len(self.stems)) if j != i]
        return found + [
            f"{self.stems[i]} holds {self.stems[j]} in {share:.0%} of it"
            for j, share in others
            if share >= MOST_OTHER
        ]


def volumes_db(audio: Tensor, window: int) -> Tensor:
    """V(z) = 10·log10(AveragePool(z²)) over consecutive windows; a rest shorter than a window is left out.

    Audio shorter than one window is filled up with silence.

    Args:
        audio: [..., C, T].
        window: in samples.

    Returns:
        [..., windows] in dB, −∞ for silence.
    """
    power = audio.square().mean(dim=-2)
    power = F.pad(power, (0, max(0, window - power.shape[-1])))
    pooled = F.avg_pool1d(power.reshape(-1, 1, power.shape[-1]), window)
    return 10 * torch.log10(pooled.view(*power.shape[:-1], -1))


def measure(
    separate: Callable[[Tensor], Tensor], stems: Mapping[str, Tensor], names: tuple[str, ...], window: int
) -> Quality:
    """The quality matrix of one song.

    Args:
        separate: [C, T] to [S, C, T] in the order of `names`.
        stems: [C, T] each. Only those that `names` has are measured.
        names: the separator's stems.
        window: one second in samples.
    """
    known = [(i, name) for i, name in enumerate(names) if name in stems]
    indices = [i for i, _ in known]
    active, rows = [], []
    for _, name in known:
        outputs = volumes_db(separate(stems[name])[indices], window)
        volume = volumes_db(stems[name], window)
        sounding = volume >= SILENT_DB
        active.append(sounding.float().mean())
        near = outputs[:, sounding] - volume[sounding] > -WITHIN_DB
        rows.append(near.float().mean(dim=1))
    return Quality(tuple(name for _, name in known), torch.stack(active), torch.stack(rows))


def check_song(network: Network | Bag, song: WholeSong, settings: ChunkSettings, compute: Compute) -> Quality:
    """The quality matrix of a song by a network that is on the device of `compute`."""
    audio = {name: torch.from_numpy(stem.read(0, song.frames)) for name, stem in song.stems.items()}
    separate = partial(separate_array, network, chunks=settings, compute=compute)
    return measure(separate, audio, network.stems, network.sample_rate)


@dataclass(frozen=True)
class CheckedSong:
    """What came of one song.

    Attributes:
        name: in its data set.
        quality: what the separator says of it; None if it can't be read.
        problems: what is irregular about its files, a sentence each.
        error: why it can't be read.
    """

    name: str
    quality: Quality | None = None
    problems: tuple[str, ...] = ()
    error: AudioError | None = None


def check_songs(
    folder: str | Path,
    model: str | Path = DEFAULT_MODEL,
    *,
    only: Sequence[str] = (),
    compute: ComputeSettings = ComputeSettings(),
    offline: bool = False,
    callback: Callback | None = None,
) -> Iterator[CheckedSong]:
    """Look for mislabelled stems with a separator, as `stemsplit train check-data` does; song by song.

    Args:
        folder: a data set in any of the layouts of `datasets.layouts`, or a manifest.
        model: the separator: a name from the registry, a path, or hf:OWNER/REPO.
        only: patterns of track names; none for all songs.
        compute: device, precision and threads.
        offline: never open a connection.
        callback: receives the events of a download, and a `TrackStart` for every song; returning False
            cancels.

    Raises:
        InputError: there is no song.
        DeviceError: no such device.
        UnknownNameError: no such model.
        ModelUnavailableError: the weights can't be had or can't be read.
        Cancelled: by the callback.
    """
    songs = find_folders(DataSetConfig(str(folder), only=tuple(only)))
    computing = resolve(compute)
    network = place(load_model(model, offline=offline, callback=callback), computing)
    want = Wanted(network.stems, {}, network.sample_rate, network.channels)
    for number, layout in enumerate(songs, 1):
        emit(callback, TrackStart(layout.name, number, len(songs), None))
        try:
            song = open_folder(layout, want)
            quality = check_song(network, song, ChunkSettings(), computing)
        except AudioError as error:
            yield CheckedSong(layout.name, error=error)
        else:
            yield CheckedSong(song.name, quality, song.problems)

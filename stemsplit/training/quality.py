"""Detection of mislabelled stems (Rouard et al. 2022, "Hybrid Transformers for Music Source Separation").

Each stem xᵢ of a song is itself separated; yᵢⱼ is output j of f(xᵢ). With perfect labels and a perfect f, all
of xᵢ comes out at i. Of the seconds in which xᵢ is active, Pᵢⱼ is the share in which yᵢⱼ is less than 10 dB
below xᵢ. P is the identity for a clean song; other entries show what a stem contains. `S` stems, `C`
channels, `T` samples.
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
from stemsplit.training.library import DataSpec, WholeSong, find_folders, open_folder
from stemsplit.training.sampling import DataSetConfig

ACTIVE_DB = -40.0  # a second is active from this volume on
PRESENT_DB = 10.0  # output j is present in seconds where it is less than this below the input
MIN_ACTIVE = 0.3  # smallest share of active seconds of every stem
MIN_OWN = 0.7  # Pᵢᵢ of a clean song exceeds this
MAX_OTHER = 0.3  # Pᵢⱼ of a clean song is below this


@dataclass(frozen=True)
class Quality:
    """Quality matrix of one song.

    Attributes:
        stems: of the song, in the model's order.
        active: [S], share of active seconds of each stem.
        matrix: [S, S], Pᵢⱼ; NaN in the row of a stem that is never active.
    """

    stems: tuple[str, ...]
    active: Tensor
    matrix: Tensor

    def doubts(self) -> list[str]:
        """Return reasons to doubt the labels, one sentence each; none if the song passes the paper's test."""
        found = []
        for i, stem in enumerate(self.stems):
            share = float(self.active[i])
            if share < MIN_ACTIVE:
                found.append(f"{stem} sounds in only {share:.0%} of the song")
            if share > 0:
                found += self._row(i)
        return found

    def _row(self, i: int) -> list[str]:
        """Return the doubts about stem i."""
        own = float(self.matrix[i, i])
        found = [f"{self.stems[i]} is found again in {own:.0%} of it"] if own <= MIN_OWN else []
        others = [(j, float(self.matrix[i, j])) for j in range(len(self.stems)) if j != i]
        return found + [
            f"{self.stems[i]} holds {self.stems[j]} in {share:.0%} of it"
            for j, share in others
            if share >= MAX_OTHER
        ]


def volumes_db(audio: Tensor, window: int) -> Tensor:
    """Return the volume V(z) = 10·log₁₀(AveragePool(z²)) in consecutive windows.

    An incomplete last window is dropped; audio shorter than one window is padded with silence.

    Args:
        audio: [..., C, T].
        window: in samples.

    Returns:
        [..., windows] in dB, −∞ for silence.
    """
    power = audio.square().mean(dim=-2)  # [..., T]
    power = F.pad(power, (0, max(0, window - power.shape[-1])))
    pooled = F.avg_pool1d(power.reshape(-1, 1, power.shape[-1]), window)  # [·, 1, T] → [·, 1, windows]
    return 10 * torch.log10(pooled.view(*power.shape[:-1], -1))  # [..., windows]


def measure(
    separate: Callable[[Tensor], Tensor], stems: Mapping[str, Tensor], names: tuple[str, ...], window: int
) -> Quality:
    """Return the quality matrix of one song.

    Args:
        separate: maps [C, T] to [S, C, T] in the order of `names`.
        stems: [C, T] each; those that aren't in `names` are ignored.
        names: stems of the separator.
        window: one second in samples.
    """
    known = [(i, name) for i, name in enumerate(names) if name in stems]
    indices = [i for i, _ in known]
    active, rows = [], []
    for _, name in known:
        outputs = volumes_db(separate(stems[name])[indices], window)  # [S, seconds]
        volume = volumes_db(stems[name], window)  # [seconds]
        audible = volume >= ACTIVE_DB
        active.append(audible.float().mean())
        present = outputs[:, audible] - volume[audible] > -PRESENT_DB  # [S, active seconds]
        rows.append(present.float().mean(dim=1))  # [S]
    return Quality(tuple(name for _, name in known), torch.stack(active), torch.stack(rows))  # [S], [S, S]


def check_song(network: Network | Bag, song: WholeSong, settings: ChunkSettings, compute: Compute) -> Quality:
    """Return the quality matrix of a song; the network is on the device of `compute`."""
    audio = {name: torch.from_numpy(stem.read(0, song.frames)) for name, stem in song.stems.items()}
    separate = partial(separate_array, network, chunks=settings, compute=compute)
    return measure(separate, audio, network.stems, network.sample_rate)


@dataclass(frozen=True)
class CheckedSong:
    """Result of one song.

    Attributes:
        name: in its data set.
        quality: quality matrix; None if the song can't be read.
        problems: irregularities of its files, one sentence each.
        error: reason why it can't be read.
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
    """Look for mislabelled stems with a separator, song by song, as `stemsplit train check-data` does.

    Args:
        folder: data set in any of the layouts of `datasets.layouts`, or a manifest.
        model: the separator: a name from the registry, a path, or hf:OWNER/REPO.
        only: patterns of track names; none means all songs.
        compute: device, precision and threads.
        offline: never open a connection.
        callback: receives the events of a download, and a `TrackStart` for every song; returning False
            cancels.

    Yields:
        The result of each song.

    Raises:
        InputError: there is no song.
        DeviceError: no such device.
        UnknownNameError: no such model.
        ModelUnavailableError: the weights can't be fetched or can't be read.
        Cancelled: by the callback.
    """
    songs = find_folders(DataSetConfig(str(folder), only=tuple(only)))
    computing = resolve(compute)
    network = place(load_model(model, offline=offline, callback=callback), computing)
    spec = DataSpec(network.stems, {}, network.sample_rate, network.channels)
    for number, layout in enumerate(songs, 1):
        emit(callback, TrackStart(layout.name, number, len(songs), None))
        try:
            song = open_folder(layout, spec)
            quality = check_song(network, song, ChunkSettings(), computing)
        except AudioError as error:
            yield CheckedSong(layout.name, error=error)
        else:
            yield CheckedSong(song.name, quality, song.problems)

"""Checks of a configuration against its network and the names of its data; no audio is read."""

import os
from collections.abc import Iterator, Sequence

from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.mpi import MPIEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from stemsplit.models.network import Network
from stemsplit.models.spectral import SpectralNetwork
from stemsplit.training.config import Config
from stemsplit.training.configfile import ConfigFile
from stemsplit.training.library import find_folders
from stemsplit.training.losses import L1_SNR_SIZES, LOSSES

# Launchers that Lightning recognises, and what it needs where there is none.
LAUNCHERS = (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment)
BY_HAND = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


def check_nodes(file: ConfigFile) -> None:
    """Check that the processes of several machines can find each other; else they wait for ever.

    Raises:
        SettingsError: the environment names neither a launcher nor the first machine.
    """
    if file.config.fit.nodes == 1 or any(launcher.detect() for launcher in LAUNCHERS):
        return
    if missing := sorted(set(BY_HAND) - os.environ.keys()):
        rule = f"needs torchrun or SLURM, or on each machine {', '.join(BY_HAND)} in the environment"
        raise file.error("fit.nodes", f"{rule}; {', '.join(missing)} not set")


def check_stems(file: ConfigFile, stems: Sequence[str]) -> None:
    """Check that groups and sampling weights name stems of the training mixes.

    Raises:
        SettingsError: one doesn't; the message names the line.
    """
    data, rule = file.config.data, f"mixes are made of {', '.join(stems)}"
    for group in data.groups:
        if group not in stems:
            raise file.error(f"data.groups.{group}", rule)
    for index, one in enumerate(data.train):
        for stem in one.stem_weights:
            if stem not in stems:
                raise file.error(f"data.train.{index}.stem_weights.{stem}", rule)


def check_members(file: ConfigFile) -> None:
    """Check that some song has each member of the groups.

    Raises:
        SettingsError: none has one; the message names the line.
        InputError: a data set has no tracks.
    """
    data = file.config.data
    if not data.groups:
        return
    layouts = (layout for config in (*data.train, *data.valid) for layout in find_folders(config))
    named = {stem for layout in layouts for stem in layout.stems}
    for group, members in data.groups.items():
        for member in members:
            if member != group and member not in named:
                raise file.error(f"data.groups.{group}", f"no song has {member}; they have {_listed(named)}")


def _listed(names: set[str], most: int = 12) -> str:
    first = sorted(names)[:most]
    return ", ".join(first) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_segment(file: ConfigFile, network: Network, samples: int) -> None:
    """Check that the network and the loss take training samples of this length.

    Raises:
        SettingsError: one doesn't; the message names the line.
    """
    rate, longest = network.sample_rate, network.longest_segment_samples()
    if samples < 1:
        raise file.error("data.segment_s", f"is less than one sample at {rate} Hz")
    if longest is not None and samples > longest:
        raise file.error("data.segment_s", f"the network takes at most {longest / rate:g} s")
    for key, size in _windows(file.config, network):
        if size // 2 >= samples:  # an STFT reflects half a window at each end
            rule = f"a window of {size} samples needs segments of more than {size // 2}"
            raise file.error(f"loss.{key}", f"{rule}; data.segment_s gives {samples}")


def _windows(config: Config, network: Network) -> Iterator[tuple[str, int]]:
    """Yield the windows of the loss terms with their keys."""
    terms, loss = config.loss.terms, config.loss
    own = isinstance(network, SpectralNetwork)  # it has a transform of its own
    if not own and any(LOSSES[name].spectral for name in terms if name in LOSSES):
        yield "fft", loss.fft
    if "multi_stft" in terms or "spectral_convergence" in terms:
        yield from (("resolutions", size) for size in loss.resolutions)
    if "l1_snr_stft" in terms:
        yield from (("terms.l1_snr_stft", size) for size in L1_SNR_SIZES)

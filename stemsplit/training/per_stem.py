"""One network per stem: how a configuration becomes that of each, and how the results become a bag."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import yaml

from stemsplit.events import Callback
from stemsplit.files import replacing, write_whole
from stemsplit.models.network import Network
from stemsplit.training.configfile import ConfigFile
from stemsplit.training.folder import RunFolder
from stemsplit.training.prepare import build_network, check_network, mix_stems

BAG = "bag.yaml"


def stems_to_train(file: ConfigFile, network: Network) -> tuple[str, ...]:
    """The stems that have a run each.

    Args:
        file: the configuration of all.
        network: that it describes.

    Raises:
        SettingsError: changes are for another stem.
    """
    stems = network.stems if len(network.stems) > 1 else mix_stems(file.config, network)
    for stem in {} if file.config.per_stem is None else file.config.per_stem.changes:
        if stem not in stems:
            raise file.error(f"per_stem.changes.{stem}", f"no such stem; there is {', '.join(stems)}")
    return stems


def part_for(file: ConfigFile, stem: str, callback: Callback | None = None) -> ConfigFile:
    """The configuration of one stem's run, in a folder below.

    A network of several stems is trained for this one alone; a network of one stem must be this one's, which
    the changes under `per_stem` see to.

    Raises:
        SettingsError: it doesn't fit together, or the network is another stem's.
    """
    config = file.config
    own = {} if config.per_stem is None else config.per_stem.changes.get(stem, {})
    place = file.place(f"per_stem.changes.{stem}")
    part = file.changed({"per_stem": None, "folder": f"{config.folder}/{stem}", **own}, place)
    network = build_network(part, callback)
    if len(network.stems) > 1:
        weights = {name: float(name == stem) for name in network.stems}
        part = part.changed({"loss.weights": weights}, place)
    elif network.stems != (stem,):
        raise file.error(f"per_stem.changes.{stem}", f"its network estimates {network.stems[0]}")
    check_network(part, network)
    return part


def write_bag(folder: Path, stems: Sequence[str]) -> None:
    """Put the models of all stems' runs together, so that the folder stands for the bag of them.

    Args:
        folder: of the whole; the runs lie in it by their stems.
        stems: in the order of the networks.
    """
    for stem in stems:
        with replacing(folder / f"{stem}.safetensors") as part:
            shutil.copyfile(RunFolder(folder / stem).model, part)
    weights = [[float(stem == other) for other in stems] for stem in stems]
    bag = {"models": list(stems), "weights": weights}
    write_whole(folder / BAG, yaml.safe_dump(bag, sort_keys=False))

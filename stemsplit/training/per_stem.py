"""One network per stem: the configuration of each stem's run, and the bag of the resulting models."""

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
    """Return the stems that get a run of their own.

    Args:
        file: configuration of the whole.
        network: built from it.

    Raises:
        SettingsError: `per_stem.changes` names another stem.
    """
    stems = network.stems if len(network.stems) > 1 else mix_stems(file.config, network)
    for stem in {} if file.config.per_stem is None else file.config.per_stem.changes:
        if stem not in stems:
            raise file.error(f"per_stem.changes.{stem}", f"no such stem; there is {', '.join(stems)}")
    return stems


def part_for(file: ConfigFile, stem: str, callback: Callback | None = None) -> ConfigFile:
    """Return the configuration of one stem's run, whose folder is inside the run's folder.

    A network of several stems is trained with a weight of 1 for this stem and 0 for the others. A network of
    one stem must estimate this one, which `per_stem.changes` has to configure.

    Raises:
        SettingsError: the configuration is invalid, or the network estimates another stem.
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
    """Copy the models of all stems' runs into a folder and write the bag, so that the folder is a model.

    Args:
        folder: of the whole; each stem's run is in the folder of its name.
        stems: in the order of the bag's networks.
    """
    for stem in stems:
        with replacing(folder / f"{stem}.safetensors") as part:
            shutil.copyfile(RunFolder(folder / stem).model, part)
    weights = [[float(stem == other) for other in stems] for stem in stems]
    bag = {"models": list(stems), "weights": weights}
    write_whole(folder / BAG, yaml.safe_dump(bag, sort_keys=False))

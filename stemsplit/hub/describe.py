"""What a model is, before it's loaded: cheap for registry entries, without torch and without a connection."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stemsplit.errors import CheckpointError
from stemsplit.events import Callback
from stemsplit.hub import bags, download, snapshots, verified
from stemsplit.hub.recipes import Recipe, is_recipe, read_recipe
from stemsplit.hub.registry import ModelSpec, find_model, members, registry

SUFFIXES = {".safetensors", ".th", ".pt", ".pth", ".ckpt", *bags.YAML}


@dataclass(frozen=True)
class Description:
    """A model, or a recipe of several, before anything is loaded.

    Attributes:
        name: as it was asked for.
        stems: that it gives, the residual last; of a recipe's file none, which are known once its models are.
        sha256: of its weights; of a registry entry as the registry has it, perhaps its beginning only; of
            several files the digest of their digests; None for a model without weights.
        sample_rate: in Hz; of a recipe's file 0.
        residual: the stem that the others leave of the mix, None for none.
        size: of the weights in bytes, as far as it is known.
        recipe: the models that are combined, None for a single model.
    """

    name: str
    stems: tuple[str, ...]
    sha256: str | None
    sample_rate: int = 0
    residual: str | None = None
    size: int = 0
    recipe: Recipe | None = None


def describe_model(
    source: str | Path, *, offline: bool = False, callback: Callback | None = None
) -> Description:
    """Describe a model; `source` as for `load.load_model`. Only `hf:` sources open a connection.

    Raises:
        UnknownNameError: no such model.
        ModelUnavailableError: a file that can't be had or read.
    """
    found = locate(str(source), offline=offline, callback=callback)
    if isinstance(found, ModelSpec) and found.recipe is not None:
        return Description(found.name, found.stems, None, found.sample_rate, recipe=found.recipe)
    if isinstance(found, ModelSpec):
        files = [file for member in members(found) for file in member.files]
        digest = joint_digest([file.sha256 or "" for file in files])
        size = sum(file.size or 0 for file in files)
        return Description(found.name, found.all_stems, digest, found.sample_rate, found.residual, size)
    if found.suffix in bags.YAML and is_recipe(found):
        return Description(str(source), (), None, recipe=read_recipe(found))
    import torch

    from stemsplit.hub.checkpoints import empty_network, read_package

    paths = bags.read(found).files if found.suffix in bags.YAML else (found,)
    package = read_package(paths[0])
    with torch.device("meta"):  # no memory and no arithmetic
        network = empty_network(package)
    digest = joint_digest([verified.digest(path) for path in paths])
    size = sum(path.stat().st_size for path in paths)
    return Description(str(source), network.stems, digest, network.sample_rate, size=size)


def locate(source: str, *, offline: bool, callback: Callback | None) -> ModelSpec | Path:
    """The registry entry that a model's name means, or the file: a checkpoint or a bag.

    Raises:
        UnknownNameError: no such model.
        ModelUnavailableError: a file that can't be had.
    """
    if source in registry():
        return find_model(source)
    path = Path(source).expanduser()
    if source.startswith("hf:"):
        repo, _, revision = source.removeprefix("hf:").partition("@")
        path = snapshots.fetch(repo, revision or "main", offline or download.is_offline(), callback)
    if path.is_dir():
        return bags.main_file(path)
    if path.is_file():
        return path
    if {"/", os.sep} & set(source) or path.suffix in SUFFIXES:
        raise CheckpointError(path, "no such file")
    return find_model(source)


def joint_digest(digests: Sequence[str]) -> str | None:
    """The digest of several files together; of a single file its own."""
    if len(digests) < 2:
        return digests[0] if digests else None
    return verified.digest_of_text("\n".join(digests))

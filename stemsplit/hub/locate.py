"""Where a model is, found once for its description and for loading it; without torch."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stemsplit.errors import CheckpointError
from stemsplit.events import Callback
from stemsplit.hub import bags, download, snapshots
from stemsplit.hub.bags import BagFile
from stemsplit.hub.recipes import Recipe, is_recipe, read_recipe
from stemsplit.hub.registry import ModelSpec, find_model, registry

if TYPE_CHECKING:
    from stemsplit.hub.checkpoints import Package

SUFFIXES = {".safetensors", ".th", ".pt", ".pth", ".ckpt", *bags.YAML}
_State = tuple[int, int, int]


class Packages:
    """Checkpoints that are read once, to be described and to be loaded, while their files stay the same.

    Pickled, it is empty: their tensors stay in this process.
    """

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[_State | None, Package]] = {}

    def look(self, path: Path) -> "Package":
        """Return a checkpoint, and keep it for `take`; errors as of `checkpoints.read_package`."""
        self._kept[path] = _state(path), self.take(path)
        return self._kept[path][1]

    def take(self, path: Path) -> "Package":
        """Return a checkpoint, and keep it no longer; errors as of `checkpoints.read_package`."""
        from stemsplit.hub.checkpoints import read_package

        state, package = self._kept.pop(path, (None, None))
        if package is not None and state is not None and state == _state(path):
            return package
        return read_package(path)

    def forget(self) -> None:
        """Let go of all checkpoints that are kept."""
        self._kept.clear()

    def __reduce__(self) -> tuple[type["Packages"], tuple[()]]:
        return Packages, ()


def _state(path: Path) -> _State | None:
    """Return what changes with a file, None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Located:
    """A model that was found.

    Attributes:
        model: its entry in the registry, its checkpoint, its bag, or a recipe's file as it was read.
        packages: the checkpoints that were read to describe it.
    """

    model: ModelSpec | Path | BagFile | Recipe
    packages: Packages = field(default_factory=Packages, compare=False)


def locate(source: str, *, offline: bool, callback: Callback | None) -> Located:
    """Find the registry entry that a model's name means, or the file: a checkpoint, a bag or a recipe.

    Raises:
        UnknownNameError: no such model.
        ModelUnavailableError: a file that can't be had.
        SettingsError: a recipe or a bag is malformed.
    """
    if source in registry():
        return Located(find_model(source))
    path = Path(source).expanduser()
    if source.startswith("hf:"):
        repo, _, revision = source.removeprefix("hf:").partition("@")
        path = snapshots.fetch(repo, revision or "main", offline or download.is_offline(), callback)
    if path.is_dir():
        path = bags.main_file(path)
    elif not path.is_file():
        if {"/", os.sep} & set(source) or path.suffix in SUFFIXES:
            raise CheckpointError(path, "no such file")
        return Located(find_model(source))
    if path.suffix not in bags.YAML:
        return Located(path)
    return Located(read_recipe(path) if is_recipe(path) else bags.read(path))

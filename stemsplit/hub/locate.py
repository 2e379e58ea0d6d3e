"""Find a model once, to describe and to load it, without torch."""

import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stemsplit.errors import CheckpointError, ModelUnavailableError
from stemsplit.events import Callback, Notice, emit
from stemsplit.hub import bags, download, snapshots
from stemsplit.hub.access import NOT_STATED, Access
from stemsplit.hub.bags import BagFile
from stemsplit.hub.entries import ModelSpec
from stemsplit.hub.recipes import Recipe, is_recipe, read_recipe
from stemsplit.hub.registry import find_model, is_known, registry
from stemsplit.hub.settle import settle
from stemsplit.stems import BEST

if TYPE_CHECKING:
    from stemsplit.hub.checkpoints import Package

SUFFIXES = bags.WEIGHTS | bags.YAML
_FileState = tuple[int, int, int]


class Packages:
    """Cache of checkpoints that are described first and loaded later, valid while their files don't change.

    A pickled copy is empty, so that no tensors are sent to other processes.
    """

    def __init__(self) -> None:
        self._packages: dict[Path, tuple[_FileState | None, Package]] = {}

    def look(self, path: Path) -> "Package":
        """Return a checkpoint and keep it for `take`; errors as in `checkpoints.read_package`."""
        self._packages[path] = _file_state(path), self.take(path)
        return self._packages[path][1]

    def take(self, path: Path) -> "Package":
        """Return a checkpoint and drop it from the cache; errors as in `checkpoints.read_package`."""
        from stemsplit.hub.checkpoints import read_package

        state, package = self._packages.pop(path, (None, None))
        if package is not None and state is not None and state == _file_state(path):
            return package
        return read_package(path)

    def forget(self) -> None:
        """Drop all checkpoints."""
        self._packages.clear()

    def __reduce__(self) -> tuple[type["Packages"], tuple[()]]:
        return Packages, ()


def _file_state(path: Path) -> _FileState | None:
    """Return inode, size and time of change of a file, None if it doesn't exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Located:
    """Location of a model.

    Attributes:
        model: its registry entry, the path of its checkpoint, its bag, or its recipe.
        packages: checkpoints that were read to describe it.
    """

    model: ModelSpec | Path | BagFile | Recipe
    packages: Packages = field(default_factory=Packages, compare=False)


def locate(source: str, access: Access, callback: Callback | None) -> Located:
    """Find a model's registry entry and complete it, or find its file: a checkpoint, a bag or a recipe.

    Raises:
        UnknownNameError: there is no such model.
        ModelUnavailableError: a file can't be downloaded or read.
        SettingsError: a recipe or a bag is malformed.
    """
    if source.startswith(BEST):
        from stemsplit.hub.choose import best  # which few runs need

        spec, why = best(source.removeprefix(BEST), access.licenses)
        emit(callback, Notice(why))
        source = spec.name
    if re.match("[a-z]+://", source, re.IGNORECASE):
        web = source.lower().startswith("http")
        raise ModelUnavailableError(
            f"{source}: an address is no model",
            model=source,
            hint=f"stemsplit models import {shlex.quote(source)}" if web else "give the file's path",
        )
    path = Path(source).expanduser()
    if source in registry() or (is_known(source) and not path.is_file()):
        return Located(settle(find_model(source), access, callback))
    if source.lower().startswith("hf:"):
        repo, _, revision = source[len("hf:") :].partition("@")
        access.require_license(source, NOT_STATED)
        offline = access.offline or download.is_offline()
        path = snapshots.fetch(repo, revision or "main", offline, callback)
    if path.is_dir():
        path = bags.main_file(path)
    elif not path.is_file():
        if {"/", os.sep} & set(source) or path.suffix in SUFFIXES:
            raise CheckpointError(path, "no such file")
        return Located(find_model(source))
    if path.suffix not in bags.YAML:
        return Located(path)
    return Located(read_recipe(path) if is_recipe(path) else bags.read(path))

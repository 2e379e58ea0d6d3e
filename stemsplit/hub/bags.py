"""Bags as files: a YAML file beside its members, as demucs writes and reads them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stemsplit import reading
from stemsplit.documents import load
from stemsplit.errors import CheckpointError, SettingsError
from stemsplit.hub import verified
from stemsplit.hub.stand_ins import refuse_stand_in
from stemsplit.listing import is_hidden
from stemsplit.reading import Invalid, Names, Number, Rows

MAIN = "model.safetensors"
YAML = {".yaml", ".yml"}


class BagFile(NamedTuple):
    """A bag, and where its members are.

    Attributes:
        path: its YAML file.
        names: the members' signatures.
        weights: a row per member, empty for equal ones.
        segment_s: the chunk length, None for the members' own.
        files: the members, in order.
    """

    path: Path
    names: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    segment_s: float | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Content:
    """The keys of a bag's file; see `BagFile`."""

    models: Names
    weights: Rows = ()
    segment: Number | None = None

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.models):
            raise Invalid("", "models and weights differ in length")


def main_file(folder: Path) -> Path:
    """What a folder means: its `model.safetensors`, or its one bag.

    Raises:
        CheckpointError: it holds neither.
    """
    return folder / main_name(sorted(p.name for p in folder.iterdir()), folder)


def main_name(names: list[str], where: str | Path) -> str:
    """The one of some files that stands for all of them; see `main_file`."""
    if MAIN in names:
        return MAIN
    found = [name for name in names if Path(name).suffix in YAML and not is_hidden(name)]
    if len(found) == 1:
        return found[0]
    raise CheckpointError(where, f"holds no {MAIN}, and {len(found)} .yaml files where one is a bag")


def read(path: Path) -> BagFile:
    """Return a bag and where its members are.

    Raises:
        CheckpointError: it's malformed, or a member isn't beside it.
        ChecksumError: a member isn't what its name says.
    """
    bag = parse(path)
    files = tuple(_member(path, name) for name in bag.models)
    return BagFile(path, bag.models, bag.weights, bag.segment, files)


def parse(path: Path) -> Content:
    """Return what a bag's file says.

    Raises:
        CheckpointError: it's malformed.
    """
    try:
        refuse_stand_in(path)
        return reading.read(Content, load(path, path.name))
    except (OSError, SettingsError) as error:
        raise CheckpointError(path, f"not a bag of models ({error})") from error


def _member(bag: Path, signature: str) -> Path:
    """`SIGNATURE.safetensors`, `SIGNATURE.th` or `SIGNATURE-HASH.th`; the hash is checked."""
    if Path(signature).name != signature:
        raise CheckpointError(bag, f"its member {signature} isn't beside it")
    for suffix in (".safetensors", ".th"):
        if (plain := bag.with_name(signature + suffix)).is_file():
            return plain
    pattern = re.escape(signature) + r"-([0-9a-f]{8,64})\.th"
    found = [(p, match[1]) for p in bag.parent.iterdir() if (match := re.fullmatch(pattern, p.name))]
    if len(found) != 1:
        raise CheckpointError(bag, f"its member {signature} is there {len(found)} times, not once")
    verified.check(*found[0])
    return found[0][0]

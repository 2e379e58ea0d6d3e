"""Bags as files: a YAML file beside its members, as demucs writes and reads them."""

import re
from pathlib import Path
from typing import NamedTuple

from stemsplit.errors import CheckpointError, SettingsError
from stemsplit.hub import verified
from stemsplit.hub.arguments import read_yaml
from stemsplit.hub.fields import Fields
from stemsplit.listing import is_hidden

MAIN = "model.safetensors"
YAML = {".yaml", ".yml"}


class BagFile(NamedTuple):
    """What a bag says.

    Attributes:
        names: the members' signatures.
        weights: a row per member, empty for equal ones.
        segment_s: the chunk length, None for the members' own.
        files: the members, in order.
    """

    names: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    segment_s: float | None
    files: tuple[Path, ...]


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
    """A bag and where its members are.

    Raises:
        CheckpointError: it's malformed, or a member isn't beside it.
        ChecksumError: a member isn't what its name says.
    """
    names, weights, segment_s = parse(path)
    return BagFile(names, weights, segment_s, tuple(_member(path, name) for name in names))


def parse(path: Path) -> tuple[tuple[str, ...], tuple[tuple[float, ...], ...], float | None]:
    """Names, weights and segment of a bag.

    Raises:
        CheckpointError: it's malformed.
    """
    try:
        content = Fields(read_yaml(path), path.name)
        names, rows = content.names("models", unique=False), content.rows("weights")
        segment_s = content.number("segment", None)
        content.require(not rows or len(rows) == len(names), "models and weights differ in length")
        content.done()
    except SettingsError as error:
        raise CheckpointError(path, f"not a bag of models ({error.reason})") from error
    return names, rows, segment_s


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

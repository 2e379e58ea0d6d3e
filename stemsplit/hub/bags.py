"""Read bags: a YAML file beside the checkpoints of its members, as demucs has them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stemsplit import reading
from stemsplit.documents import load
from stemsplit.errors import CheckpointError, SettingsError
from stemsplit.hub import verified
from stemsplit.hub.placeholders import refuse_placeholder
from stemsplit.listing import is_hidden
from stemsplit.reading import Invalid, Names, Number, Rows

MAIN = "model.safetensors"
INDEX = ".index"
YAML = {".yaml", ".yml"}
WEIGHTS = {".safetensors", ".th", ".pt", ".pth", ".ckpt", ".chpt", ".onnx", ".h5", INDEX}


class BagFile(NamedTuple):
    """A bag file, with the paths of its members.

    Attributes:
        path: the bag's YAML file.
        names: the members' signatures.
        weights: a row per member, empty for equal ones.
        segment_s: chunk length in seconds, None for the members' own.
        files: the members' checkpoints, in order.
    """

    path: Path
    names: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]
    segment_s: float | None
    files: tuple[Path, ...]


@dataclass(frozen=True)
class BagContent:
    """Keys of a bag's YAML file; see `BagFile`."""

    models: Names
    weights: Rows = ()
    segment: Number | None = None

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.models):
            raise Invalid("", "models and weights differ in length")


def main_file(folder: Path) -> Path:
    """Return the file that a folder stands for: its `model.safetensors`, its only bag, or only `.index`.

    Raises:
        CheckpointError: it has none of these.
    """
    names = sorted(p.name for p in folder.iterdir())
    indices = [name for name in names if name.endswith(INDEX) and not is_hidden(name)]
    if len(indices) == 1 and MAIN not in names:  # of a checkpoint of TensorFlow
        return folder / indices[0]
    return folder / main_name(names, folder)


def main_name(names: list[str], where: str | Path) -> str:
    """Return the name among `names` that stands for the whole folder `where`; see `main_file`."""
    if MAIN in names:
        return MAIN
    found = [name for name in names if Path(name).suffix in YAML and not is_hidden(name)]
    if len(found) == 1:
        return found[0]
    raise CheckpointError(where, f"holds no {MAIN}, and {len(found)} .yaml files instead of one bag")


def read(path: Path) -> BagFile:
    """Read a bag file, and find its members beside it.

    Raises:
        CheckpointError: the file is malformed, or a member is missing.
        ChecksumError: a member doesn't have the hash in its name.
    """
    bag = parse(path)
    files = tuple(_member(path, name) for name in bag.models)
    return BagFile(path, bag.models, bag.weights, bag.segment, files)


def parse(path: Path) -> BagContent:
    """Return the content of a bag's YAML file.

    Raises:
        CheckpointError: the file is malformed.
    """
    try:
        refuse_placeholder(path)
        return reading.read(BagContent, load(path, path.name))
    except (OSError, SettingsError) as error:
        raise CheckpointError(path, f"not a bag of models ({error})") from error


def _member(bag: Path, signature: str) -> Path:
    """Return the path of a member: `SIGNATURE.safetensors`, `SIGNATURE.th` or `SIGNATURE-HASH.th`."""
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

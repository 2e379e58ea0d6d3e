"""Reading pickled checkpoints so that they can run nothing.

PyTorch's restricted unpickler builds tensors and plain containers. Beyond those, a fixed table of names is
let through, and each becomes something inert: a class of another project a marker, a NumPy scalar a husk.
Whatever else a file asks for, it's refused.
"""

import re
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from stemsplit.errors import CheckpointError


class Klass:
    """Stands for a network class that a package names; can't do anything."""

    path = ""


class Husk:
    """Stands for a value that the package doesn't use, such as a metric as a NumPy scalar."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def fraction(*parts: Any) -> Fraction:
    """A fraction as it was pickled: of its text, or of two integers.

    `Fraction` itself would also take "1e999999999", and never come back.
    """
    if len(parts) == 1 and re.fullmatch(r"-?\d{1,18}(/\d{1,18})?", str(parts[0])):
        return Fraction(str(parts[0]))
    if len(parts) == 2 and all(type(part) is int for part in parts):
        return Fraction(*parts)
    raise ValueError("not a fraction")


KLASSES = {
    path: type(path.rsplit(".", 1)[-1], (Klass,), {"path": path})
    for path in (
        "demucs.demucs.Demucs",
        "demucs.hdemucs.HDemucs",
        "demucs.htdemucs.HTDemucs",
        "demucs.model.Demucs",
        "demucs.tasnet.ConvTasNet",
    )
}

_NUMPY = (
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    *(f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Float32", "Float64", "Int32", "Int64")),
)


def load(path: Path) -> Any:
    """What a `torch.save` file holds: tensors (in memory mapped from the file), containers, numbers, text.

    Raises:
        CheckpointError: the file is damaged, is of another kind, or asks for anything beyond the table.
    """
    allowed: list[Any] = [(klass, name) for name, klass in KLASSES.items()]
    allowed += [(Husk, name) for name in _NUMPY] + [(fraction, "fractions.Fraction")]
    try:
        with torch.serialization.safe_globals(allowed):
            # Only the zip format can be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise CheckpointError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    text = str(error)
    if asked := re.search(r"(?:GLOBAL|unrecognized function|class) `?([A-Za-z_][\w.]*)", text):
        return f"not safe to open: it asks for {asked[1]}, which weights don't need"
    line = re.split(r"(?<=\w)\.\s|\n", text.strip())[0][:100].rstrip(".")
    return f"not a readable checkpoint ({line or type(error).__name__})"

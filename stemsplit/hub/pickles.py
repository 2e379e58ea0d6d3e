"""Read pickled checkpoints, perhaps compressed by gzip, without executing anything in them.

PyTorch's restricted unpickler builds tensors and plain containers. Beyond those, a fixed table of names is
allowed, each of which becomes an inert placeholder: a class of another project a `NetworkClass`, a NumPy
scalar or the name of an activation an `Ignored`, a kind of mapping a plain one. A file with any other name is
refused.
"""

import io
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, Self

import torch

from stemsplit.errors import CheckpointError
from stemsplit.hub import arguments
from stemsplit.hub.compressed import opened

WHOLE = "a whole network, pickled with its code, instead of its weights"


class NetworkClass:
    """Placeholder for a network class that a package names."""

    path = ""

    def __new__(cls, *args: Any) -> Self:
        """Refuse to make a network, which a file asks for that has a whole one instead of its weights."""
        raise pickle.UnpicklingError(WHOLE)


class Ignored:
    """Placeholder for a value that isn't used, such as a NumPy scalar or a training's settings."""

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class Container:
    """Placeholder for a kind of mapping, which becomes a plain one."""

    def __new__(cls, *args: Any) -> Any:
        """Return an empty mapping, which the unpickler fills."""
        return {}


def fraction(*parts: Any) -> Fraction:
    """Return a pickled fraction, from its text or from two integers.

    `Fraction` itself also accepts "1e999999999", which would compute for ever.
    """
    if len(parts) == 1 and re.fullmatch(r"-?\d{1,18}(/\d{1,18})?", str(parts[0])):
        return Fraction(str(parts[0]))
    if len(parts) == 2 and all(type(part) is int for part in parts):
        return Fraction(*parts)
    raise ValueError("not a fraction")


KLASSES = {path: type(path.rsplit(".", 1)[-1], (NetworkClass,), {"path": path}) for path in arguments.KLASSES}

_UNUSED = (
    "argparse.Namespace",
    "diffq.diffq.DiffQuantizer",
    "diffq.uniform.UniformQuantizer",
    *(f"pathlib.{home}{kind}Path" for home in ("", "_local.") for kind in ("Posix", "Windows")),
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{how}" for core in ("core", "_core") for how in ("scalar", "_reconstruct")),
    "torch._C._nn.gelu",  # neuraloperator keeps its arguments among the tensors, as `_metadata`
    *(f"numpy.dtypes.{kind}DType" for kind in ("Bool", "Float32", "Float64", "Int32", "Int64")),
    "torch.torch_version.TorchVersion",
    # classes by which Lightning's checkpoints until 1.4 name what its callbacks save
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    # settings of a training in Lightning's checkpoints
    *(f"omegaconf.{kind}" for kind in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{kind}" for kind in ("Metadata", "ContainerMetadata")),
    *(f"omegaconf.nodes.{kind}Node" for kind in ("Any", "String", "Integer", "Float", "Boolean")),
    "ml_collections.config_dict.config_dict.ConfigDict",
    # types that these settings name
    "typing.Any",
    *(f"builtins.{kind}" for kind in ("bool", "int", "float", "str", "list", "tuple", "dict")),
)
_CONTAINERS = (
    "collections.defaultdict",
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)

_ALLOWED: dict[str, Any] = {
    **KLASSES,
    **dict.fromkeys(_UNUSED, Ignored),
    **dict.fromkeys(_CONTAINERS, Container),
    "fractions.Fraction": fraction,
}


def load(path: Path) -> Any:
    """Return the content of a `torch.save` file: tensors (memory-mapped if possible), containers, scalars.

    Raises:
        CheckpointError: the file is damaged, isn't a checkpoint, or uses a name that isn't in the table.
    """
    try:
        if zipfile.is_zipfile(path):
            return _restricted(path, mmap=True)
        with opened(path) as file:
            try:
                return _restricted(file, mmap=False)  # only the zip format can be mapped
            except pickle.UnpicklingError as error:
                if "persistent_load" not in str(error):
                    raise
                file.seek(0)
                return _with_classes(file)
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler raise anything
        raise CheckpointError(path, _reason(error)) from error


def loads(data: bytes, path: Path) -> Any:
    """Return the content of a `torch.save` file that is inside another one, at `path`; see `load`."""
    try:
        return _restricted(io.BytesIO(data), mmap=False)
    except MemoryError:
        raise
    except Exception as error:
        raise CheckpointError(path, _reason(error)) from error


def _restricted(path: Path | IO[bytes], *, mmap: bool) -> Any:
    allowed: list[Any] = [(value, name) for name, value in _ALLOWED.items()]
    with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the protocol, of what may not even be a checkpoint
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


class _Unpickler(pickle.Unpickler):
    """Unpickler that knows the names in the table and those of tensors only."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the placeholder, or the part of a tensor, that a name stands for."""
        wanted = f"{module}.{name}"
        if wanted not in _ALLOWED | _TENSORS:
            raise pickle.UnpicklingError(f"GLOBAL {wanted}")
        return (_ALLOWED | _TENSORS)[wanted]


_TENSORS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": Ignored,  # the bytes of NumPy scalars
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    **{f"torch.{kind}Storage": getattr(torch, f"{kind}Storage") for kind in ("Float", "Half", "Long", "Int")},
}


def _with_classes(file: IO[bytes]) -> Any:
    """Return the content of a file that names network classes, in PyTorch's format before 1.6.

    That format refers to a class together with its source code, which PyTorch's restricted unpickler refuses.
    Here the class becomes a placeholder, and the code stays text.
    """

    def read(source: IO[bytes], **settings: Any) -> Any:
        return _Unpickler(source, **settings).load()

    module = SimpleNamespace(__name__="pickle", Unpickler=_Unpickler, load=read)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a placeholder has no source code to compare with
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=module)


def _reason(error: Exception) -> str:
    text = str(error)
    if asked := re.search(r"(?:GLOBAL|unrecognized function|class) `?([A-Za-z_][\w.]*)", text):
        return f"not safe to open: it asks for {asked[1]}, which weights don't need"
    if WHOLE in text:
        return WHOLE
    if "TorchScript" in text:
        return "a TorchScript program, not weights"
    if text.startswith("Weights only load failed"):
        return "not a readable checkpoint (its pickle is damaged or holds no tensors)"
    line = re.split(r"(?<=\w)\.\s|\n", text.strip())[0][:100].rstrip(".")
    if line.isdecimal():  # an opcode, or a place in the memo, which tells nobody anything
        line = "its pickle is damaged or holds no tensors"
    return f"not a readable checkpoint ({line or type(error).__name__})"

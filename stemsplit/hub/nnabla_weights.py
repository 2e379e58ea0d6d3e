"""Read the weights of X-UMX and D3Net from files of NNabla: HDF5, perhaps in a zip archive.

NNabla names a parameter by its scopes and the kind of its layer: `vocals/features_init/0/conv/W`. Links to
other files, which HDF5 knows, aren't followed.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stemsplit.errors import CheckpointError, StemsplitError
from stemsplit.hub import archives
from stemsplit.hub.fitting import State

MAGIC = b"\x89HDF\r\n\x1a\n"
SUFFIX = ".h5"
MOST_BYTES = 1 << 30  # of all parameters; X-UMX has 140 MB
MOST_PARAMETERS = 50_000

_KINDS = {
    "conv/W": "weight",
    "conv/b": "bias",
    "deconv/W": "weight",
    "deconv/b": "bias",
    "bn/gamma": "weight",
    "bn/beta": "bias",
    "bn/mean": "running_mean",
    "bn/var": "running_var",
}
_XUMX = re.compile(r"(?:(fc[123]|lstm)_(.+?)/(affine|bn|lstm)/(\w+)|((?:input|output)_(?:mean|scale)_.+))")
_DENSE = {"fc1": ("layer_enc", "enc", 0), "fc2": ("layer_dec", "dec", 0), "fc3": ("layer_dec", "dec", 3)}


class Found(NamedTuple):
    """Content of a file.

    Attributes:
        family: xumx or d3net.
        arguments: what the file says of the network.
        state: tensors by the names of the family.
    """

    family: str
    arguments: Mapping[str, Any]
    state: State


def is_nnabla(path: Path) -> bool:
    """Return whether a file is HDF5, or a zip archive with such files."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return True
    return archives.has(path, _is_file)


def read(path: Path) -> Found:
    """Return the weights in a file, and what it says of its network.

    Raises:
        CheckpointError: the file is damaged, too large, or another network.
        StemsplitError: the package h5py isn't installed.
    """
    try:
        import h5py  # noqa: F401
    except ImportError as error:
        hint = "pip install 'stemsplit-cli[hdf5]'"
        raise StemsplitError(f"{path}: reading files of NNabla needs h5py", hint=hint) from error
    try:
        parameters = dict(_parameters(path))
        return _xumx(parameters) if any(map(_XUMX.fullmatch, parameters)) else _d3net(parameters)
    except MemoryError:
        raise
    except StemsplitError as error:
        raise CheckpointError(path, error.reason) from error
    except Exception as error:  # a damaged file can make HDF5 raise anything
        raise CheckpointError(path, "not a readable file of NNabla (it is damaged)") from error


def _parameters(path: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the names and values of a file's parameters, in the order in which they were made."""
    with path.open("rb") as file:
        plain = file.read(len(MAGIC)) == MAGIC
    if plain:
        yield from _of_file(path)
        return
    for _, content in archives.contents(path, _is_file):
        yield from _of_file(io.BytesIO(content))


def _is_file(name: str) -> bool:
    return name.endswith(SUFFIX)


def _of_file(file: Path | IO[bytes]) -> Iterator[tuple[str, NDArray[np.float32]]]:
    import h5py

    with h5py.File(file, "r") as content:
        sets: list[tuple[str, Any]] = []
        _collect(content, "", sets)
        if sum(one.nbytes for _, one in sets) > MOST_BYTES:
            raise StemsplitError("its parameters are larger than those of any network")
        for name, one in sorted(sets, key=lambda pair: int(pair[1].attrs.get("index", 0))):
            yield name, np.asarray(one[()], np.float32)


def _collect(group: Any, place: str, found: list[tuple[str, Any]], depth: int = 0) -> None:
    """Add the data sets below a group to `found`, without those that are elsewhere."""
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise StemsplitError("refers to another file or place, which isn't followed")
        inside = group[name]
        if isinstance(inside, h5py.Group):
            if depth > 20:
                raise StemsplitError("its groups are nested too deeply")
            _collect(inside, f"{place}{name}/", found, depth + 1)
        elif inside.external or inside.is_virtual:
            raise StemsplitError("keeps its weights in another file, which isn't read")
        elif inside.dtype.kind == "f":
            found.append((place + name, inside))
        if len(found) > MOST_PARAMETERS:
            raise StemsplitError("more parameters than any network has")


def _d3net(parameters: Mapping[str, NDArray[np.float32]]) -> Found:
    """Return D3Net's tensors, whose names are those of its layers without their kinds."""
    from stemsplit.models.d3net import RELEASED

    targets = dict.fromkeys(name.split("/")[0] for name in parameters if name.endswith("/decode_bias"))
    if not targets:
        shown = ", ".join(list(parameters)[:2]) or "none"
        raise StemsplitError(f"its parameters don't belong to a known network ({shown} …)")
    state: State = {}
    for name, value in parameters.items():
        place, _, kind = name.partition("/")[2].rpartition("/")
        layer, _, form = place.rpartition("/")
        part = _KINDS.get(f"{form}/{kind}")
        own = f"{layer}/{part}" if part else name.partition("/")[2]
        tensor = torch.from_numpy(value)
        key = f"targets.{name.split('/')[0]}.{own.replace('/', '.')}"
        state[key] = tensor.flatten() if form == "bn" else tensor
        if kind == "mean":
            state[key.replace("running_mean", "num_batches_tracked")] = torch.tensor(0)
    arguments = {"targets": {name: RELEASED.get(name, {}) for name in targets}, "filter": len(targets) > 1}
    return Found("d3net", arguments, state)


def _xumx(parameters: Mapping[str, NDArray[np.float32]]) -> Found:
    """Return X-UMX's tensors under asteroid's names, and its sizes."""
    state: State = {}
    sources: dict[str, None] = {}
    for name, value in parameters.items():
        match = _XUMX.fullmatch(name)
        if match is None:
            raise StemsplitError(f"its parameters don't belong to a known network ({name})")
        layer, stem, form, kind, scale = match.groups()
        tensor = torch.from_numpy(value)
        if scale:
            state[f"mean_scale.{scale}"] = tensor
        elif layer == "lstm":
            sources[stem] = None
            state |= _lstm(f"layer_lstm.{stem}", kind, tensor)
        else:
            state |= _dense(layer, stem, form, kind, tensor)
    first = next(iter(sources))
    bins = len(state[f"mean_scale.output_mean_{first}"])
    seen = len(state[f"mean_scale.input_mean_{first}"])
    weight = state[f"layer_enc.{first}.enc.0.weight"]  # [hidden, C·max_bin]
    layers = [name for name in state if name.startswith(f"layer_lstm.{first}.bias_ih_l")]
    backwards = f"layer_lstm.{first}.bias_ih_l0_reverse" in state
    arguments = {
        "sources": tuple(sources),
        "nb_channels": weight.shape[1] // seen,
        "hidden_size": len(weight),
        "nb_layers": len(layers) // (2 if backwards else 1),
        "max_bin": seen,
        "bidirectional": backwards,
        "in_chan": 2 * (bins - 1),
        "n_hop": (bins - 1) // 2,  # a quarter of the frame
    }
    return Found("xumx", arguments, state)


def _dense(layer: str, stem: str, form: str, kind: str, tensor: Tensor) -> State:
    """Return the tensor of a dense layer, [in, out], or of its normalisation, [1, 1, out]."""
    home, inside, place = _DENSE[layer]
    key = f"{home}.{stem}.{inside}.{place + (form == 'bn')}"
    if form == "affine":
        return {f"{key}.weight": tensor.T.contiguous()}
    counted = {f"{key}.num_batches_tracked": torch.tensor(0)} if kind == "mean" else {}
    return {f"{key}.{_KINDS[f'bn/{kind}']}": tensor.flatten(), **counted}


def _lstm(home: str, kind: str, tensor: Tensor) -> State:
    """Return the weights of an LSTM: for input and state together, with one bias where PyTorch has two.

    `weight_l0` is [directions, 4, hidden, in + hidden], `weight` [layers − 1, …], `bias` [layers, directions,
    4, hidden].
    """
    found: State = {}
    layers = tensor[None] if kind == "weight_l0" else tensor
    for i, layer in enumerate(layers, 1 if kind == "weight" else 0):
        for direction, gates in enumerate(layer):
            name = f"l{i}{'_reverse' if direction else ''}"
            if kind == "bias":
                bias = gates.reshape(-1)
                found |= {f"{home}.bias_ih_{name}": bias, f"{home}.bias_hh_{name}": torch.zeros_like(bias)}
                continue
            hidden = gates.shape[1]
            both = gates.flatten(0, 1)  # [4·hidden, in + hidden]
            found[f"{home}.weight_ih_{name}"] = both[:, :-hidden].contiguous()
            found[f"{home}.weight_hh_{name}"] = both[:, -hidden:].contiguous()
    return found

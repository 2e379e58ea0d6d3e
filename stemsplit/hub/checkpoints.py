"""Read checkpoints of every kind, and write this package's own.

| kind | content |
|---|---|
| safetensors of demucs ≥ 4.1 and of this package | tensors; `klass`, `args`, `kwargs` as metadata |
| package of demucs 2, 3 and 4 (`.th`) | a pickled mapping of `klass`, `args`, `kwargs`, `state` |
| package of demucs 1 (`.th`, `.th.gz`) | the same as a tuple; see `first_demucs` |
| bare state dict | tensors by name, pickled or as safetensors, wrapped or not (see `fitting`) |
| file of asteroid | the same, with `model_name` and `model_args` |
| ONNX file of an MDX-Net or of Spleeter | a graph with weights (see `onnx_weights`) |
| copy of Spleeter in PyTorch or ONNX | tensors by name, perhaps a file per stem (see `spleeter_copies`) |
| checkpoint of TensorFlow, perhaps in an archive | tensors by name (see `tensor_bundles`) |
| file of NNabla (HDF5), perhaps in an archive | parameters by name (see `nnabla_weights`) |

Nothing in a file is ever executed or imported; see `pickles`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stemsplit import models
from stemsplit.errors import CheckpointError, ResourceError, StemsplitError
from stemsplit.hub import (
    archives,
    bare,
    diffq,
    first_demucs,
    nnabla_weights,
    onnx_weights,
    pickles,
    spleeter_copies,
    tensor_bundles,
    tensorflow_names,
    torchaudio_names,
)
from stemsplit.hub import arguments as args
from stemsplit.hub.fitting import State, different_shape, fit, flat, no_numbers, require_finite, shortened
from stemsplit.hub.placeholders import refuse_placeholder
from stemsplit.hub.uninitialised import Uninitialised
from stemsplit.hub.writing import write
from stemsplit.models.network import Network
from stemsplit.settings import MAX_OVERLAP


@dataclass(frozen=True)
class Package:
    """Content of a checkpoint.

    Attributes:
        path: the file.
        family: network family, a key of `models.FAMILIES`.
        arguments: arguments of the family; missing ones have their defaults.
        state: tensors by name, which may be memory-mapped from the file.
        metadata: other data in the file, such as the training recipe; `overlap` is the network's own.
        described: whether family and arguments come from outside the file.
        parts: other files that it was read from.
    """

    path: Path
    family: str
    arguments: Mapping[str, Any]
    state: State
    metadata: Mapping[str, Any] = field(default_factory=dict)
    described: bool = False
    parts: tuple[Path, ...] = ()


def read_package(
    path: str | Path,
    *,
    family: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    member: str = "",
) -> Package:
    """Read a checkpoint without building the network.

    Args:
        path: a safetensors file, one that `torch.save` wrote, an ONNX file, or a checkpoint of TensorFlow
            or NNabla.
        family: family of a bare state dict; None looks for a description in a YAML file beside it, or in the
            registry entry with its hash.
        arguments: arguments of a bare state dict.
        config: YAML file that describes a bare state dict.
        member: the file of an archive, or its folder, that is the checkpoint; empty for a checkpoint's own.

    Raises:
        CheckpointError: the file doesn't exist, is damaged, of an unknown kind, or not safe to open.
        StemsplitError: the package isn't installed that reads ONNX (onnx), NNabla (h5py) or 7z (py7zr).
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(path, "no such file")
    refuse_placeholder(path)
    if archives.is_7z(path):
        path, member = archives.unpacked(path, member), ""
    if not _is_safetensors(path) and onnx_weights.is_onnx(path):
        return _exported(path, family, dict(arguments or {}), config)
    if member or (not _is_safetensors(path) and tensor_bundles.is_bundle(path)):
        return _of_tensorflow(path, family, arguments, config, member)
    if not _is_safetensors(path) and nnabla_weights.is_nnabla(path):
        return _of_nnabla(path, family, arguments, config)
    content = _content(path)
    if "klass" in content:
        return _package(path, content)
    quantised = diffq.is_quantised(content)
    state = {} if quantised else _bare(path, content)
    if spleeter_copies.is_copy(state):
        return _copy_of_spleeter(path, state, arguments or {}, config)
    metadata: Mapping[str, Any] = {}
    if family is None:
        found = None if config else bare.of_asteroid(path, content)
        family, arguments, metadata = found or bare.describe(path, state, config)
    if quantised:
        state = _dequantised(path, family, arguments or {}, content)
    return Package(path, family, dict(arguments or {}), state, metadata, described=True)


def _exported(
    path: Path, family: str | None, arguments: Mapping[str, Any], config: str | Path | None
) -> Package:
    """Return the package of an ONNX file, with the arguments that its graph shows.

    Raises:
        CheckpointError: nothing says what the graph doesn't show.
    """
    found = onnx_weights.read(path)
    if spleeter_copies.is_copy(found.state):
        return _copy_of_spleeter(path, found.state, {**found.arguments, **arguments}, config)
    if family is None:
        family, arguments, _ = bare.describe(path, found.state, config)
    if family != onnx_weights.FAMILY:
        return Package(path, family, arguments, found.state, described=True)
    # A wrong default would be heard as noise, or give a stem the name of the other.
    if missing := [name for name in ("n_fft", "stems") if name not in arguments]:
        raise CheckpointError(
            path, f"its graph doesn't show {' and '.join(missing)}: state them as arguments"
        )
    return Package(path, family, {**found.arguments, **arguments}, found.state, described=True)


def _copy_of_spleeter(
    path: Path, state: State, arguments: Mapping[str, Any], config: str | Path | None
) -> Package:
    """Return the package of a copy of Spleeter, described by itself and perhaps by a YAML file."""

    def read(file: Path) -> State:
        return onnx_weights.read(file).state if onnx_weights.is_onnx(file) else _bare(file, _content(file))

    found = spleeter_copies.whole(path, state, read)
    if config or bare.configs_beside(path):
        arguments = {**arguments, **bare.describe(path, found.state, config).arguments}
    given = {**found.arguments, **arguments}
    return Package(path, spleeter_copies.FAMILY, given, found.state, described=True, parts=found.parts)


def _of_tensorflow(
    path: Path,
    family: str | None,
    arguments: Mapping[str, Any] | None,
    config: str | Path | None,
    member: str,
) -> Package:
    """Return the package of a checkpoint of TensorFlow, described by a YAML file or by its tensors."""
    state = tensorflow_names.named(path, tensor_bundles.read(path, member))
    if family is None:
        described = config or bare.configs_beside(path)
        family, arguments = (
            bare.describe(path, state, config)[:2] if described else tensorflow_names.describe(path, state)
        )
    return Package(path, family, dict(arguments or {}), state, described=True)


def _of_nnabla(
    path: Path, family: str | None, arguments: Mapping[str, Any] | None, config: str | Path | None
) -> Package:
    """Return the package of a file of NNabla, described by the registry, a YAML file or itself."""
    found = nnabla_weights.read(path)
    if family is None and (config or bare.configs_beside(path)):
        family, stated, _ = bare.describe(path, found.state, config)
        arguments = {**found.arguments, **stated}
    if family is None:
        family, arguments = found.family, found.arguments
    return Package(path, family, dict(arguments or {}), found.state, described=True)


def empty_network(package: Package) -> Network:
    """Build the network of a package with uninitialised weights, which `fill` sets.

    Until something is written into them, they take no memory. To ask for stems alone this is quicker than the
    meta device, whose operators in Python import PyTorch's compiler.

    Raises:
        CheckpointError: the family is unknown, or doesn't take the arguments.
        ResourceError: it doesn't fit into memory.
    """
    try:
        with torch.random.fork_rng(devices=[]), Uninitialised():
            network = models.build(package.family, package.arguments).eval()
    except Exception as error:  # a constructor may fail in any way with the arguments of a file
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise ResourceError(f"{package.path}: its network doesn't fit into memory") from error
        raise CheckpointError(package.path, f"can't be built as a {package.family} ({error})") from error
    if (overlap := package.metadata.get("overlap")) is not None:
        if not (isinstance(overlap, int | float) and 0 <= overlap <= MAX_OVERLAP):
            raise CheckpointError(package.path, f"its metadata is malformed (overlap {overlap})")
        network.overlap = overlap
    return network


def fill(network: Network, package: Package) -> Network:
    """Load the weights of a package into a network, converted to the network's dtype.

    Raises:
        CheckpointError: the weights don't fit, or are NaN or infinite.
    """
    found = fit(package.state, network.state_dict().keys())
    if said := no_numbers(found.state, network.state_dict()):
        raise CheckpointError(package.path, f"its weights aren't floating-point numbers{said}")
    try:
        missing, surplus = network.load_state_dict(found.state, strict=False)
    except (RuntimeError, StemsplitError) as error:
        said = different_shape(found.state, network.state_dict()) or f" ({str(error).splitlines()[0]})"
        raise CheckpointError(package.path, f"its weights don't fit a {package.family}{said}") from error
    parts = (("missing", missing), ("unexpected", (*surplus, *found.foreign)))
    if said := " and ".join(f"{how} {shortened(keys)}" for how, keys in parts if keys):
        where = f" (its names begin with {found.prefix})" if found.prefix else ""
        raise CheckpointError(package.path, f"its weights don't fit a {package.family}: {said}{where}")
    require_finite(package.path, network.state_dict().items())
    return network


def build_network(package: Package) -> Network:
    """Build the network of a package with its weights in fp32, in evaluation mode.

    Raises:
        CheckpointError: the family is unknown, doesn't take the arguments, or the weights don't fit.
    """
    return fill(empty_network(package), package)


def save_package(
    path: str | Path,
    network: Network,
    *,
    state: State | None = None,
    metadata: Mapping[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write a network as safetensors; demucs can read it too if it has the family.

    Args:
        path: the file, replaced if it exists.
        network: with all its stems, not prepared for inference.
        state: its weights; None takes its own.
        metadata: JSON-ready data, such as the training recipe.
        half: store floating-point weights in fp16.

    Raises:
        StemsplitError: the network's class isn't a family, or it was narrowed to some stems.
        OSError: the file can't be written.
    """
    family = _family_of(network)
    if network.narrowed:
        raise StemsplitError("a network narrowed to some of its stems can't be saved")
    state = network.state_dict() if state is None else state
    write(Path(path), family, network.arguments, halved(state) if half else state, metadata or {})


def convert(source: str | Path, target: str | Path, *, half: bool = False) -> Package:
    """Convert a checkpoint of any kind to this package's own; the weights keep their dtype.

    Args:
        source: the checkpoint.
        target: the `.safetensors` file, replaced if it exists.
        half: store floating-point weights in fp16 instead.

    Returns:
        The content of `source`.

    Raises:
        CheckpointError: the checkpoint can't be read, isn't one of a known network, or doesn't fit fp16.
        OSError: the file can't be written.
    """
    package = read_package(source)
    network = build_network(package)
    own = network.state_dict()
    found = fit(package.state, own.keys()).state
    # a network may rename old parameters as it loads them
    state = found if found.keys() == own.keys() else own
    if half:
        state = halved(state)
        require_finite(package.path, state.items(), "in fp16 ")
    write(Path(target), package.family, network.arguments, state, package.metadata)
    return package


def halved(state: State) -> State:
    """Return tensors with their floating-point values in fp16."""
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def _content(path: Path) -> dict[Any, Any]:
    content: Any = _safetensors(path) if _is_safetensors(path) else pickles.load(path)
    if first_demucs.is_first(content):
        try:
            return first_demucs.renewed(content)
        except StemsplitError as error:
            raise CheckpointError(path, str(error)) from error
    if not isinstance(content, dict):
        raise CheckpointError(path, "not a checkpoint: it holds no mapping")
    return content


def _is_safetensors(path: Path) -> bool:
    # The format begins with the length of its header in eight bytes, then the header, a JSON object
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(path, f"not a readable checkpoint ({error})") from error
    if "klass" not in metadata:
        return dict(state)
    try:
        positional, keywords = map(args.decode, (metadata.get("args", "[]"), metadata.get("kwargs", "{}")))
        own = json.loads(metadata.get("stemsplit", "{}"))
        content = diffq.nested(state, json.loads(metadata["structure"])) if "structure" in metadata else state
    except (ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError) as error:
        raise CheckpointError(path, f"its metadata is malformed ({error})") from error
    return dict(klass=metadata["klass"], args=positional, kwargs=keywords, state=content, stemsplit=own)


def _package(path: Path, content: Mapping[str, Any]) -> Package:
    """Return a package that names its class, as demucs and this project write them."""
    klass = content["klass"]
    name = klass if isinstance(klass, str) else getattr(klass, "path", str(klass))
    family = args.family_of(name)
    if family is None:
        raise CheckpointError(path, f"has a {name}, which isn't a network of this package")
    positional, keywords = content.get("args", ()), content.get("kwargs", {})
    state, own = content.get("state", {}), content.get("stemsplit", {})
    mappings = all(isinstance(part, dict) for part in (keywords, state, own))
    if not (isinstance(positional, list | tuple) and mappings):
        raise CheckpointError(path, "its package is malformed")
    try:
        arguments = args.named(family, positional, keywords)
    except StemsplitError as error:
        raise CheckpointError(path, str(error)) from error
    if diffq.is_quantised(state):
        return Package(path, family, arguments, _dequantised(path, family, arguments, state), own)
    return Package(path, family, arguments, _tensors(path, state), own)


def _dequantised(path: Path, family: str, arguments: Mapping[str, Any], state: Mapping[str, Any]) -> State:
    """Return quantised weights by name; they are stored in the order of the network's parameters."""
    outline = empty_network(Package(path, family, arguments, {}))
    shapes = {name: parameter.shape for name, parameter in outline.named_parameters()}
    try:
        if "compressed" in state:
            state = pickles.loads(diffq.decompressed(state["compressed"], shapes), path)
        return diffq.restored(state, shapes)
    except CheckpointError:
        raise
    except Exception as error:  # a malformed state can be of any types
        raise CheckpointError(path, f"its quantised weights are malformed ({error})") from error


def _bare(path: Path, content: Mapping[Any, Any]) -> State:
    """Return the tensors of a file without a package, under the names that the families use."""
    if state := flat(content):
        return torchaudio_names.renamed(state)
    raise CheckpointError(path, "not a checkpoint: it holds no state dict")


def _tensors(path: Path, state: Mapping[Any, Any]) -> State:
    if state and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        return dict(state)
    raise CheckpointError(path, "not a checkpoint: it holds no state dict")


def _family_of(network: Network) -> str:
    home = f"{type(network).__module__}:{type(network).__qualname__}"
    for name, place in models.FAMILIES.items():
        if place == home:
            return name
    raise StemsplitError(f"{type(network).__name__} is no family of its own and can't be saved")

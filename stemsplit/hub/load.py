"""Load a model by name, path or repository as a network that is ready to separate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from stemsplit import models
from stemsplit.errors import CheckpointError, SettingsError, StemsplitError, UnknownNameError
from stemsplit.events import Callback
from stemsplit.forked import require_own_threads
from stemsplit.hub import download, verified
from stemsplit.hub.access import Access
from stemsplit.hub.bags import BagFile
from stemsplit.hub.checkpoints import Package, build_network, empty_network, fill, read_package
from stemsplit.hub.describe import Description, joint_digest
from stemsplit.hub.entries import BagSpec, FileSpec, ModelSpec
from stemsplit.hub.locate import Packages, locate
from stemsplit.hub.recipes import Recipe
from stemsplit.hub.registry import find_model, members
from stemsplit.hub.settle import settle
from stemsplit.models.bag import Bag, joint_stems
from stemsplit.models.network import Identity, Network
from stemsplit.settings import ModelSettings
from stemsplit.stems import find_stem, names_of

__all__ = ["Identity", "Loaded", "load_model"]

Options = Mapping[str, object]


class Loaded(NamedTuple):
    """A network or a bag of networks, and the digests of its weights files."""

    network: Network | Bag
    digests: tuple[str, ...]


def load_model(
    source: str | Path,
    *,
    stems: Sequence[str] | None = None,
    segment_s: float | None = None,
    offline: bool = False,
    trust_first: bool = False,
    license: str | None = None,
    options: Options | None = None,
    callback: Callback | None = None,
    about: Description | None = None,
) -> Network | Bag:
    """Load a network or a bag of networks with its weights, downloading them if need be.

    Args:
        source: a name from the registry; the path of a checkpoint or of a bag (`.yaml`); a folder with a
            `model.safetensors` or one bag; or `hf:OWNER/REPO`, optionally with `@REVISION`.
        stems: the stems to load, None for all; weights that only other stems need are neither downloaded nor
            loaded. The residual stem needs all others.
        segment_s: chunk length in seconds, None for the model's own.
        offline: open no connection.
        trust_first: take weights of which no hash is known if their size and shapes agree.
        license: refuse models under other licences: `permissive`, or names separated by commas.
        options: settings of the network's own, by name (see `Network.options`).
        callback: receives `Download` events and may cancel.
        about: the result of `describe_model` for the source, which saves a second search.

    Returns:
        The network or bag in evaluation mode, with weights in fp32 and its `identity`. `residual` names the
        residual stem, which isn't estimated: it is the mix minus all other stems.

    Raises:
        UnknownNameError: there is no such model or stem.
        SettingsError: `stems` is empty, the model doesn't support such chunks, an argument is invalid, or the
            process was forked from one that had a model already.
        ModelUnavailableError: the weights can't be downloaded, or have a wrong hash.
        Cancelled: by the callback.
    """
    if not isinstance(source, (str, Path)):
        raise SettingsError(f"model {source!r}: must be a name or a path", setting="model")
    settings = ModelSettings(str(source), segment_s, offline, trust_first, license)
    access, options = Access.of(settings), options or {}
    stems = names_of(stems)
    require_own_threads()
    located = about.located if about is not None else None
    located = located or locate(str(source), access, callback)
    model = located.model
    if isinstance(model, Recipe) or (isinstance(model, ModelSpec) and model.recipe is not None):
        what = f"{source} is a recipe of several models"
        raise SettingsError(what, setting="model", hint="stemsplit.Separator runs it")
    if isinstance(model, ModelSpec):
        found = _from_registry(model, stems, _Fetcher(model.name, access, options, callback))
    elif isinstance(model, BagFile):
        found = _local_bag(model, stems, located.packages, options)
    else:
        found = _file(model, located.packages, options)
        _known(stems, found.network.stems)
    network = found.network
    _require_options(options, network)
    if stems is not None and network.residual is None:
        wanted = _known(stems, network.stems)
        if wanted != network.stems:
            network.select(wanted)
    if segment_s is not None:
        network.use_segment(segment_s)
    network.identity = Identity(str(source), joint_digest(found.digests))
    return network


def fetch_model(
    about: Description, stems: Sequence[str], access: Access = Access(), callback: Callback | None = None
) -> None:
    """Download a model's files that aren't cached yet, so that they can be loaded later.

    Args:
        about: the result of `describe_model`.
        stems: the stems that will be loaded.
        access: conditions of the download.
        callback: receives `Download` events and may cancel.

    Raises:
        ModelUnavailableError: a file can't be downloaded, or has a wrong hash.
        Cancelled: by the callback.
    """
    if about.located is None:
        return
    about.located.packages.forget()
    spec = about.located.model
    if isinstance(spec, ModelSpec):
        needed = [file for member in members(spec, stems) for file in member.files]
        if not access.offline:
            download.announce(spec, needed, callback)
        fetcher = _Fetcher(spec.name, access, {}, callback)
        for file in needed:
            fetcher.file(file)


def families_of(about: Description) -> list[type[Network]]:
    """Return the classes of a model's networks, without building them; none for an object."""
    located = about.located
    if located is None or isinstance(located.model, Recipe):
        return []
    if isinstance(located.model, ModelSpec):
        families = [member.family for member in members(located.model) if member.family]
    else:
        paths = located.model.files if isinstance(located.model, BagFile) else (located.model,)
        families = [located.packages.look(path).family for path in paths]
    return [models.family(family) for family in families]


def options_of(about: Description) -> frozenset[str]:
    """Return the names of a model's own settings, which `load_model` takes; none for an object."""
    return frozenset(name for family in families_of(about) for name in family.options)


def _require_options(options: Options, network: Network | Bag) -> None:
    """Refuse settings that a model doesn't have.

    Raises:
        UnknownNameError: it doesn't have one of them.
    """
    loaded = network.members if isinstance(network, Bag) else (network,)
    known = sorted({name for one in loaded for name in one.options})
    for name in options:
        if name not in known:
            raise UnknownNameError("model option", name, known)


def _with_options(package: Package, options: Options) -> Package:
    """Return a package with the settings that its network has."""
    known = models.family(package.family).options
    chosen = {name: value for name, value in options.items() if name in known}
    return replace(package, arguments={**package.arguments, **chosen}) if chosen else package


class _Fetcher(NamedTuple):
    """Arguments of downloads and networks that are the same for every member of a bag."""

    model: str
    access: Access
    options: Options
    callback: Callback | None

    def entry(self, name: str) -> ModelSpec:
        """Return the complete registry entry of that name."""
        return settle(find_model(name), self.access, self.callback)

    def file(self, file: FileSpec) -> Path:
        """Return the path of a registry entry's file, downloading it if need be."""
        offline = self.access.offline
        return download.fetch(file, model=self.model, offline=offline, callback=self.callback)


def _from_registry(spec: ModelSpec, stems: Sequence[str] | None, fetcher: _Fetcher) -> Loaded:
    wanted = _known(stems, spec.all_stems)
    inner = spec.stems if spec.residual in wanted else wanted
    if spec.name == fetcher.model and not fetcher.access.offline:
        needed = [file for member in members(spec, inner) for file in member.files]
        download.announce(spec, needed, fetcher.callback)
    found = _single(spec, inner, fetcher) if spec.bag is None else _bag(spec, spec.bag, inner, fetcher)
    network = found.network
    if spec.segment_s is not None:
        _use_segment(network, spec.segment_s, spec.name, "segment_s")
    if spec.inference.overlap is not None:
        for member in network.members if isinstance(network, Bag) else (network,):
            member.overlap = spec.inference.overlap
    network.residual = spec.residual if spec.residual in wanted else None
    return Loaded(network, found.digests)


def _bag(spec: ModelSpec, bag: BagSpec, stems: Sequence[str], fetcher: _Fetcher) -> Loaded:
    used = [spec.stems.index(stem) for stem in stems]
    pairs = zip(bag.members, bag.weights, strict=True)
    kept = [(name, row) for name, row in pairs if any(row[i] for i in used)]
    loaded = [_from_registry(fetcher.entry(name), None, fetcher) for name, _ in kept]
    order = dict.fromkeys(stem for one in loaded for stem in one.network.stems)  # as in `joint_stems`
    rows = [[row[spec.stems.index(stem)] for stem in order] for _, row in kept]
    return _averaged(spec.name, loaded, rows, stems)


def _averaged(
    where: str | Path, loaded: Sequence[Loaded], rows: Sequence[Sequence[float]], stems: Sequence[str]
) -> Loaded:
    networks = [one.network for one in loaded if isinstance(one.network, Network)]
    if len(networks) < len(loaded):
        raise CheckpointError(where, "its members can't be averaged: a member is a bag itself")
    try:
        network = Bag(networks, rows, stems)
    except StemsplitError as error:
        raise CheckpointError(where, f"its members can't be averaged: {error}") from error
    return Loaded(network, tuple(digest for one in loaded for digest in one.digests))


def _single(spec: ModelSpec, stems: Sequence[str], fetcher: _Fetcher) -> Loaded:
    family = spec.family or ""
    if not spec.files:
        network = empty_network(Package(Path(spec.name), family, spec.arguments, {}))
        if any(True for _ in network.parameters()):
            raise CheckpointError(spec.name, f"its entry names no files, but a {family} has weights")
        return Loaded(network, ())
    if len(spec.files) > 1 or spec.files[0].prefix:
        return _in_parts(spec, family, stems, fetcher)
    path = fetcher.file(spec.files[0])
    package = read_package(path, family=family, arguments=spec.arguments, member=spec.files[0].member)
    package = _with_options(package, fetcher.options)
    # An error about arguments names the model, if they are those of its entry and not of the file.
    outline = empty_network(replace(package, path=Path(spec.name)) if package.described else package)
    network = fill(outline, package)
    if network.stems != spec.stems:
        raise CheckpointError(path, f"it estimates {', '.join(network.stems)}, not what {spec.name} does")
    return Loaded(network, (verified.digest(path),))


def _in_parts(spec: ModelSpec, family: str, stems: Sequence[str], fetcher: _Fetcher) -> Loaded:
    """Load a network from several files, without those that the selected stems don't need."""
    whole = _with_options(Package(Path(spec.name), family, spec.arguments, {}), fetcher.options)
    network = empty_network(whole)
    network.select(stems)
    keys = tuple(network.state_dict())
    state, digests = {}, []
    for file in spec.files:
        if any(key.startswith(file.prefix) for key in keys):
            path = fetcher.file(file)
            part = read_package(path, family=family, arguments=spec.arguments, member=file.member)
            state.update({file.prefix + key: value for key, value in part.state.items()})
            digests.append(verified.digest(path))
    fill(network, replace(whole, state=state))
    return Loaded(network, tuple(digests))


def _local_bag(bag: BagFile, stems: Sequence[str] | None, packages: Packages, options: Options) -> Loaded:
    known = _stems_of(bag.files, packages)
    wanted = _known(stems, known)
    rows = bag.weights or tuple((1.0,) * len(known) for _ in bag.files)
    if any(len(row) != len(known) for row in rows):
        raise CheckpointError(bag.path, f"every row of weights needs {len(known)} values")
    shares = [dict(zip(known, row, strict=True)) for row in rows]
    kept = [(file, row) for file, row in zip(bag.files, shares, strict=True) if any(row[s] for s in wanted)]
    loaded = [_file(file, packages, options) for file, _ in kept]
    left = dict.fromkeys(stem for one in loaded for stem in one.network.stems)
    found = _averaged(bag.path, loaded, [[row[stem] for stem in left] for _, row in kept], wanted)
    if bag.segment_s is not None:
        longest = found.network.longest_segment_samples()
        limit = math.inf if longest is None else longest / found.network.sample_rate
        _use_segment(found.network, min(bag.segment_s, limit), bag.path, "segment")
    return found


def _use_segment(network: Network | Bag, seconds: float, where: str | Path, key: str) -> None:
    """Use the chunk length that a registry entry or a bag's file states under `key`.

    Raises:
        CheckpointError: the network can't take it.
    """
    try:
        network.use_segment(seconds)
    except SettingsError as error:
        raise CheckpointError(where, error.reason.replace("--segment", key)) from None


def _stems_of(files: Sequence[Path], packages: Packages) -> tuple[str, ...]:
    """Return the stems of a bag: those of its first member, or one of each single-stem member."""
    first = empty_network(packages.look(files[0]))
    if len(first.stems) > 1:
        return first.stems
    return joint_stems([first, *(empty_network(packages.look(file)) for file in files[1:])])


def _file(path: Path, packages: Packages, options: Options) -> Loaded:
    package = packages.take(path)
    network = build_network(_with_options(package, options))
    return Loaded(network, tuple(map(verified.digest, (path, *package.parts))))


def _known(stems: Sequence[str] | None, known: Sequence[str]) -> tuple[str, ...]:
    """Return the names of `known` that are wanted, in the model's order; all of them for None.

    Raises:
        UnknownNameError: the model has no such stem.
    """
    if stems is None:
        return tuple(known)
    wanted = {find_stem(stem, known) for stem in stems}
    return tuple(stem for stem in known if stem in wanted)

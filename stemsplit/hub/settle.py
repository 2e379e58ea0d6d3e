"""Complete a registry entry: its arguments and stems from its YAML file, the sha256 of every file."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stemsplit.errors import CheckpointError, DownloadError
from stemsplit.events import Callback
from stemsplit.hub import archives, download, first_use
from stemsplit.hub.access import Access
from stemsplit.hub.entries import BagSpec, FileSpec, Inference, ModelSpec
from stemsplit.hub.registry import find_model


def settle(spec: ModelSpec, access: Access, callback: Callback | None = None) -> ModelSpec:
    """Return an entry with the arguments and stems of its YAML file, and with the sha256 of every file.

    The YAML file is downloaded, and so are files whose sha256 the entry doesn't state, at their first use.

    Raises:
        ModelUnavailableError: the licence isn't one that is asked for, the model can't be run, a file can't
            be downloaded or verified, or the YAML file isn't one of the model's.
        Cancelled: by the callback.
    """
    access.require_license(spec.name, spec.license)
    if spec.reason:
        raise CheckpointError(spec.name, f"can't be run: {spec.reason}")
    if spec.config is not None:
        spec = _configured(spec, spec.config, access, callback)
    for file in spec.files:
        archives.require_reader(file.name, spec.name)  # before the download
    if not all(file.sha256 or file.path for file in spec.files):
        download.announce(spec, spec.files, callback)
        files = [
            first_use.pin(
                file, access, model=spec.name, fits=partial(_require_fit, spec, file), callback=callback
            )
            for file in spec.files
        ]
        spec = replace(spec, files=tuple(files))
    return spec if spec.stems else _described_by_files(spec, access, callback)


def _described_by_files(spec: ModelSpec, access: Access, callback: Callback | None) -> ModelSpec:
    """Return an entry with what its file says about the network, or what the first member of a bag does."""
    from stemsplit.hub.checkpoints import empty_network, read_package

    if spec.bag is not None:
        first = settle(find_model(spec.bag.members[0]), access, callback)
        bag = BagSpec(spec.bag.members)
        return replace(spec, stems=first.stems, sample_rate=first.sample_rate, bag=bag)
    path = download.fetch(spec.files[0], model=spec.name, offline=access.offline, callback=callback)
    package = read_package(path, member=spec.files[0].member)
    network = empty_network(package)
    arguments = package.arguments if package.described else {}
    stems, rate = network.stems, network.sample_rate
    return replace(spec, family=package.family, arguments=arguments, stems=stems, sample_rate=rate)


def _configured(spec: ModelSpec, config: FileSpec, access: Access, callback: Callback | None) -> ModelSpec:
    """Return an entry with the arguments and stems of its YAML file."""
    from stemsplit.hub.bare import from_config, read_foreign, rest_of
    from stemsplit.hub.checkpoints import Package, empty_network

    path = fetch_config(spec, config, access, callback)
    content = read_foreign(path)
    if spec.variant:  # the configuration has the last word
        content = {**content, "model": {**spec.variant, **content.get("model", {})}}
    _, arguments, metadata = from_config(path, spec.family or "", content)
    _require_inferred(spec, path, arguments)
    network = empty_network(Package(path, spec.family or "", arguments, {}))
    rest = rest_of(content, network.stems)
    known = {*network.stems, rest}
    return replace(
        spec,
        arguments=arguments,
        stems=network.stems,
        residual=rest,
        sample_rate=network.sample_rate,
        scores=tuple(scores for scores in spec.scores if set(scores.stems) <= known),
        inference=Inference(metadata.get("overlap")),
        config=None,
    )


def fetch_config(spec: ModelSpec, config: FileSpec, access: Access, callback: Callback | None) -> Path:
    """Return the path of the first YAML file that can be had."""
    reasons: list[str] = []
    hint = None
    for file in download.alternatives(config):
        try:
            known = first_use.pin(file, access, model=spec.name, fits=_require_yaml, callback=callback)
            alone = replace(known, otherwise=None)
            return download.fetch(alone, model=spec.name, offline=access.offline, callback=callback)
        except DownloadError as error:
            reasons.append(error.reason)
            hint = hint or error.hint
    raise DownloadError("; ".join(reasons), model=spec.name, url=config.url, hint=hint)


def _require_yaml(path: Path) -> None:
    from stemsplit.hub.bare import read_foreign

    read_foreign(path)


def _require_inferred(spec: ModelSpec, path: Path, arguments: Mapping[str, Any]) -> None:
    """Refuse a YAML file that contradicts what the size of the weights says about the network.

    Raises:
        CheckpointError: it agrees with none of the networks that the weights may be of.
    """
    if not spec.inferred:
        return
    differing = [
        {key: value for key, value in one.items() if arguments.get(key, value) != value}
        for one in spec.inferred
    ]
    if all(differing):
        least = min(differing, key=len)
        said = ", ".join(f"{key} {arguments[key]} instead of {value}" for key, value in least.items())
        raise CheckpointError(
            path, f"not the configuration of {spec.name}, whose size demands another: {said}"
        )


def _require_fit(spec: ModelSpec, file: FileSpec, path: Path) -> None:
    """Refuse weights that don't have the names and shapes that the entry's arguments demand.

    Raises:
        CheckpointError: they differ, or the file can't be read.
    """
    from stemsplit.hub.checkpoints import build_network, read_package

    package = read_package(path, family=spec.family, arguments=spec.arguments, member=file.member)
    if len(spec.files) == 1:  # one of several files has only a part of the weights
        build_network(package)

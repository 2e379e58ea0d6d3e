"""Describe models without loading them; registry entries need neither torch nor a connection."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stemsplit.events import Callback
from stemsplit.hub import download, verified
from stemsplit.hub.access import NOT_STATED, Access
from stemsplit.hub.bags import BagFile
from stemsplit.hub.entries import ModelSpec
from stemsplit.hub.locate import Located, locate
from stemsplit.hub.recipes import Recipe
from stemsplit.hub.registry import members


@dataclass(frozen=True)
class Description:
    """Description of a model, or of a recipe of several, before anything is loaded.

    Attributes:
        name: the name that was asked for.
        stems: its stems, the residual last; empty for a recipe file, whose models aren't described yet.
        sha256: digest of its weights, for a registry entry perhaps only its first digits; for several files
            the digest of their digests; None for a model without weights.
        sample_rate: in Hz; 0 for a recipe file.
        residual: the stem that is the mix minus all others, None if there is none.
        size: size of the weights in bytes, as far as it is known.
        license: licence of the weights, as the registry has it.
        source: where the weights come from: the first address of each file; empty for local files.
        recipe: the models that are combined, None for a single model.
        located: the result of `locate`, so that loading needn't search again; None for an object.
    """

    name: str
    stems: tuple[str, ...]
    sha256: str | None
    sample_rate: int = 0
    residual: str | None = None
    size: int = 0
    license: str = NOT_STATED
    source: str = ""
    recipe: Recipe | None = None
    located: Located | None = field(default=None, compare=False, repr=False)


def describe_model(
    source: str | Path, access: Access = Access(), callback: Callback | None = None
) -> Description:
    """Describe a model, with `source` as for `load.load_model`.

    A connection is opened only for `hf:` sources, and for entries of which the registry doesn't know the
    sha256 of every file or the arguments: these files are downloaded.

    Raises:
        UnknownNameError: there is no such model.
        ModelUnavailableError: a file can't be downloaded or read.
    """
    located = locate(str(source), access, callback)
    model = located.model
    if isinstance(model, ModelSpec):
        return _of_entry(model, located)
    if isinstance(model, Recipe):
        return Description(str(source), (), None, recipe=model)
    return _of_files(str(source), model, located)


def _of_entry(spec: ModelSpec, located: Located) -> Description:
    if spec.recipe is not None:
        return Description(spec.name, spec.stems, None, spec.sample_rate, recipe=spec.recipe)
    files = [file for member in members(spec) for file in member.files]
    digest = joint_digest([file.sha256 or "" for file in files])
    return Description(
        spec.name,
        spec.all_stems,
        digest,
        spec.sample_rate,
        spec.residual,
        size=sum(file.size or 0 for file in files),
        license=spec.license,
        source=" ".join(download.address(file) for file in files if file.path is None),
        located=located,
    )


def _of_files(name: str, found: Path | BagFile, located: Located) -> Description:
    from stemsplit.hub.checkpoints import empty_network

    paths = (found,) if isinstance(found, Path) else found.files
    package = located.packages.look(paths[0])
    network = empty_network(package)
    paths = (*paths, *package.parts)
    digest = joint_digest([verified.digest(path) for path in paths])
    size = sum(path.stat().st_size for path in paths)
    return Description(name, network.stems, digest, network.sample_rate, size=size, located=located)


def joint_digest(digests: Sequence[str]) -> str | None:
    """Return the digest of the digests of several files, or the only digest; None for no file."""
    if len(digests) < 2:
        return digests[0] if digests else None
    return verified.digest_of_text("\n".join(digests))

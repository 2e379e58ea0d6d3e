"""The registry of models, with the sources and hashes of their weights.

`models.yaml` is data only. Entries of the user's own file (see `folders.user_registry`) take precedence.
"""

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISCHR, S_ISDIR, S_ISREG
from typing import Any

from stemsplit import folders
from stemsplit.documents import Document, load
from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.hub import catalogue
from stemsplit.hub.entries import ModelSpec
from stemsplit.reading import read
from stemsplit.stems import find_stem


def list_models(stem: str | None = None) -> list[ModelSpec]:
    """Return the listed models, in the registry's order.

    Args:
        stem: only return models that give this stem, sorted by its published score, unscored ones last.

    Raises:
        UnknownNameError: no model gives that stem.
        SettingsError: a registry file is malformed.
    """
    listed = [spec for spec in registry().values() if spec.listed]
    if stem is None:
        return listed
    known = dict.fromkeys(s for spec in listed for s in spec.all_stems)
    stem = find_stem(stem, tuple(known))
    giving = [spec for spec in listed if stem in spec.all_stems]
    return sorted(giving, key=lambda spec: _descending(spec.score(stem)))


def find_model(name: str) -> ModelSpec:
    """Return the entry that has that name, listed or not: of the registry, else of the catalogue.

    Raises:
        UnknownNameError: there is none.
        SettingsError: a registry file is malformed.
    """
    models = registry()
    real = _real_name(name, models)
    if real is None:
        listed = [n for n, spec in models.items() if spec.listed]
        raise UnknownNameError("model", name, (*listed, *catalogue.load().rows))
    return models[real] if real in models else catalogue.entry(real)


def is_known(name: str) -> bool:
    """Return whether a model has that name."""
    return _real_name(name, registry()) is not None


def _real_name(name: str, models: Mapping[str, object]) -> str | None:
    # audio-separator calls the bags of demucs by their files' names, such as htdemucs_ft.yaml
    for one in (name, name.removesuffix(".yaml")):
        if one in models:
            return one
    plain = {catalogue.keys(known)[0]: known for known in models}
    return plain.get(catalogue.keys(name)[0]) or catalogue.real_name(name)


def all_models() -> list[ModelSpec]:
    """Return the listed models and those of the catalogue, each with all of its names."""
    models = registry()
    aliases = catalogue.load().registered
    own = [replace(spec, aliases=aliases.get(spec.name, ())) for spec in models.values() if spec.listed]
    return [*own, *(spec for spec in catalogue.entries() if spec.name not in models)]


def members(spec: ModelSpec, stems: Container[str] | None = None) -> list[ModelSpec]:
    """Return the entries whose files a model needs for `stems` (None for all): its members, or itself.

    For a recipe, these are all its models that are in the registry, independent of the stems.

    Raises:
        SettingsError: a recipe contains itself.
    """
    if spec.recipe is not None:
        return list(_models_of(spec).values())
    if spec.bag is None:
        return [spec]
    every = stems is None or spec.residual in stems
    if every and not spec.stems:
        return [find_model(name) for name in spec.bag.members]
    wanted = [i for i, stem in enumerate(spec.stems) if every or stem in (stems or ())]
    rows = zip(spec.bag.members, spec.bag.weights, strict=True)
    return [find_model(name) for name, weights in rows if any(weights[i] for i in wanted)]


def _models_of(spec: ModelSpec, around: tuple[str, ...] = ()) -> dict[str, ModelSpec]:
    """Return the models of a recipe by name, including those of recipes within it; of a model its members.

    Args:
        spec: the recipe or model.
        around: names of the recipes that it is in.

    Raises:
        SettingsError: a recipe contains itself.
    """
    if spec.recipe is None:
        return {member.name: member for member in members(spec)}
    if spec.name in around:
        raise SettingsError(f"recipe {spec.name} contains itself", setting="model")
    found = dict[str, ModelSpec]()
    for name in filter(is_known, map(str, spec.recipe.models)):
        found |= _models_of(find_model(name), (*around, spec.name))
    return found


def registry() -> dict[str, ModelSpec]:
    """Return all entries by name: those of the package, then those of the user's file, which replace them.

    Raises:
        SettingsError: a registry file is malformed.
    """
    own = folders.user_registry()
    try:
        status = own.stat()
    except (FileNotFoundError, NotADirectoryError):
        return dict(_read(_packaged(), 0, False))
    except OSError as error:
        raise _invalid_file(own, f"can't be read ({error.strerror})") from None
    if not (S_ISREG(status.st_mode) or S_ISCHR(status.st_mode)):  # /dev/null stands for no file
        raise _invalid_file(own, "is a folder" if S_ISDIR(status.st_mode) else "is not a regular file")
    return _with_own(_read(own, status.st_mtime_ns, True), own)


def _invalid_file(path: Path, what: str) -> SettingsError:
    """Return the error for a user's registry that can't be read."""
    chosen = os.environ.get(folders.REGISTRY)
    name = f"{folders.REGISTRY}={chosen}" if chosen else str(path)
    hint = "it must be a YAML file of your own models, or not exist"
    return SettingsError(f"{name}: {what}", setting=folders.REGISTRY, hint=hint)


def check_own(content: Any, path: Path) -> None:
    """Refuse content of the user's registry file at `path` that isn't valid together with the package's.

    Raises:
        SettingsError: an entry is malformed, or a bag loses a member.
    """
    _with_own(parse_registry(Document(content, str(path)), own=True), path)


def _with_own(own: Mapping[str, ModelSpec], path: Path) -> dict[str, ModelSpec]:
    models = {**_read(_packaged(), 0, False), **own}
    _check_bags(models, path)
    return models


def _descending(score: float | None) -> float:
    return float("inf") if score is None else -score


def _packaged() -> Path:
    # the file is inside the package in a wheel, and beside it in a checkout or source archive
    inside = Path(__file__).parents[1] / "models.yaml"
    return inside if inside.is_file() else Path(__file__).parents[2] / "models.yaml"


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, own: bool) -> dict[str, ModelSpec]:
    # `changed` is only a part of the cache's key: the user's file may be rewritten while the process runs
    models = parse_registry(load(path), own=own)
    if not own:
        _check_bags(models, path)
    return models


@dataclass(frozen=True)
class _Sections:
    """Sections of a registry file; `members` are found by name but not listed."""

    members: Mapping[str, object] = field(default_factory=dict)
    models: Mapping[str, object] = field(default_factory=dict)


def parse_registry(document: Document, *, own: bool = False) -> dict[str, ModelSpec]:
    """Return the entries of a registry file by name, both `models` and `members`.

    Raises:
        SettingsError: a key is unknown or missing, or a value is invalid; the message names the place.
    """
    models: dict[str, ModelSpec] = {}
    sections = read(_Sections, document)
    for section, listed in (("members", False), ("models", True)):
        for name in getattr(sections, section):
            if name in models:
                raise document.error((section, name), "is defined twice")
            keys = section, name
            models[name] = read(ModelSpec, document, keys, name=name, listed=listed, own=own)
    return models


def _check_bags(models: Mapping[str, ModelSpec], path: Path) -> None:
    for spec in models.values():
        for name, row in zip(spec.bag.members, spec.bag.weights, strict=True) if spec.bag else ():
            member = models.get(name)
            weighted = {stem for stem, weight in zip(spec.stems, row, strict=True) if weight}
            if (
                member is None
                or member.family is None
                or not weighted <= set(member.stems) <= set(spec.stems)
            ):
                raise SettingsError(
                    f"{path}: {spec.name}: member {name} must be a single model with the bag's stems"
                    " that it has a weight for",
                    setting=str(path),
                )

"""The registry: what models there are, where their weights lie and what they must hash to.

`models.yaml` is data only. A user's file of the same form (see `folders.user_registry`) is merged over it.
"""

import os
import re
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from stat import S_ISCHR, S_ISDIR, S_ISREG
from typing import Annotated, Any

from stemsplit import folders
from stemsplit.documents import Document, load
from stemsplit.errors import SettingsError, StemsplitError, UnknownNameError
from stemsplit.reading import Count, Invalid, Names, Number, Rows, Rule, read
from stemsplit.stems import canonical, canonical_stems, find_stem

BUNDLED = Path(__file__).with_name("bundled")

_HEX = re.compile("[0-9a-f]+")
Revision = Annotated[str, Rule("40 hexadecimal digits", lambda v: len(v) == 40 and bool(_HEX.fullmatch(v)))]
Repository = Annotated[str, Rule("OWNER/REPO", lambda v: v.count("/") == 1)]
Digest = Annotated[
    str,
    Rule(
        "8 to 64 hexadecimal digits in quotes, in lower case",
        lambda v: 8 <= len(v) <= 64 and bool(_HEX.fullmatch(v)),
    ),
]
Overlap = Annotated[float, Rule("a number, not below 0, and below 1", lambda v: 0 <= v < 1)]


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, pinned to a revision (40 hexadecimal digits)."""

    repo: Repository
    revision: Revision
    name: str


@dataclass(frozen=True)
class FileSpec:
    """A weights file: the same bytes on the hub, at a URL or on this machine.

    Attributes:
        hub, url, path: where it is; at least one.
        sha256: its digest or the known beginning of it (8 digits or more); None when nobody recorded one,
            and then it is never downloaded.
        size: in bytes, None when unknown.
        about_mb: for people, where only the number of weights is known.
        prefix: put before the names of its tensors.
        otherwise: a file of other bytes but the same weights, tried when this one can't be had.
    """

    hub: HubFile | None = None
    url: str | None = None
    path: str | None = None
    sha256: Digest | None = None
    size: Count | None = None
    about_mb: Count | None = None
    prefix: str = ""
    otherwise: "FileSpec | None" = None

    def __post_init__(self) -> None:
        if not (self.hub or self.url or self.path):
            raise Invalid("", "needs hub, url or path")

    @classmethod
    def from_yaml(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Replace `bundled`, the name of a file that comes with the package, by its path."""
        found = _without_empty(entry)
        if (name := found.pop("bundled", None)) is not None:
            found["path"] = str(BUNDLED / name) if isinstance(name, str) else name
        return found

    @property
    def name(self) -> str:
        """The file's own name."""
        if self.hub is not None:
            return self.hub.name
        return (self.url or self.path or "").rsplit("/", 1)[-1]

    @property
    def bundled(self) -> bool:
        """Whether it comes with the package."""
        return self.path is not None and Path(self.path).parent == BUNDLED


@dataclass(frozen=True)
class BagSpec:
    """Several models averaged.

    Attributes:
        members: names of registry entries.
        weights: one row per member, one value per stem; none for equal ones.
    """

    members: Names
    weights: Rows = ()

    def for_stems(self, count: int) -> "BagSpec":
        """Return the same with the rows of `count` stems written out; raise `Invalid` if they don't fit."""
        rows = self.weights or ((1.0,) * count,) * len(self.members)
        if len(rows) != len(self.members):
            raise Invalid("bag", f"{len(self.members)} members but {len(rows)} rows of weights")
        if any(len(row) != count for row in rows):
            raise Invalid("bag", f"every row of weights needs {count} values")
        if not all(map(any, zip(*rows, strict=True))):
            raise Invalid("bag", "a stem has no weight in any member")
        return replace(self, weights=rows)


@dataclass(frozen=True)
class Scores:
    """Published scores in dB. They compare only within one metric and data set."""

    metric: str
    data: str
    all: Number | None = None
    stems: Mapping[str, Number] = field(default_factory=dict)

    @classmethod
    def from_yaml(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Gather the stems' scores, which an entry has beside the others."""
        found = _without_empty(entry)
        own: dict[str, Any] = {key: found.pop(key) for key in ("metric", "data", "all") if key in found}
        return {**own, "stems": found}

    def for_stems(self, stems: tuple[str, ...]) -> "Scores":
        """Return the same in the stems' order; raise `Invalid` if another has a score."""
        for stem in self.stems:
            if stem not in stems:
                raise Invalid(f"scores.{stem}", f"no such key; there is {', '.join(stems)}")
        return replace(self, stems={stem: self.stems[stem] for stem in stems if stem in self.stems})


@dataclass(frozen=True)
class Inference:
    """How the model was run for its published scores, where that differs from the defaults.

    Attributes:
        overlap: the fraction of a chunk shared with the next.
    """

    overlap: Overlap | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the registry.

    Attributes:
        name: what `-m` takes.
        family: a key of `models.FAMILIES`; None for a bag.
        stems: what the network estimates, in its order.
        residual: a stem that is the mix minus all the others, or None.
        sample_rate: in Hz.
        segment_s: the chunk length, None for what the checkpoint says.
        arguments: of the family, for checkpoints that carry none.
        bag: members and weights, None for a single model.
        files: the weights; none for a family without weights and for bags.
        license, license_note: of the weights.
        paper: where the model is described.
        scores, inference: see there.
        note: what else a person should know, such as where the files come from.
        listed: members of bags are found by name but not listed.
        own: the entry stands in the user's registry file.
    """

    name: str
    stems: Names
    sample_rate: Count
    license: str
    family: str | None = None
    license_note: str = ""
    residual: str | None = None
    segment_s: Number | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    bag: BagSpec | None = None
    files: tuple[FileSpec, ...] = ()
    paper: str | None = None
    scores: Scores | None = None
    inference: Inference = Inference()
    note: str = ""
    listed: bool = True
    own: bool = False

    @classmethod
    def from_yaml(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Take a key without a value for one that isn't there."""
        return _without_empty(entry)

    def __post_init__(self) -> None:
        if len(set(self.stems)) < len(self.stems):
            raise Invalid("stems", "names something twice")
        if sum(one is not None for one in (self.family, self.bag)) != 1:
            raise Invalid("", "needs either a family or a bag")
        if self.bag and self.files:
            raise Invalid("files", "a bag has no files of its own")
        try:
            object.__setattr__(self, "stems", canonical_stems(self.stems))
        except StemsplitError as error:
            raise Invalid("stems", error.reason) from None
        if self.residual is not None:
            object.__setattr__(self, "residual", canonical(self.residual))
        if self.residual in self.stems:
            raise Invalid("residual", "the residual is one of the stems")
        if self.bag:
            object.__setattr__(self, "bag", self.bag.for_stems(len(self.stems)))
        if self.scores:
            object.__setattr__(self, "scores", self.scores.for_stems(self.stems))

    @property
    def all_stems(self) -> tuple[str, ...]:
        """Every stem that the model gives, the residual last."""
        return self.stems if self.residual is None else (*self.stems, self.residual)

    def score(self, stem: str | None = None) -> float | None:
        """The published score of a stem, or of all together."""
        if self.scores is None:
            return None
        return self.scores.all if stem is None else self.scores.stems.get(stem)


def list_models(stem: str | None = None) -> list[ModelSpec]:
    """The models that can be asked for, in the registry's order.

    Args:
        stem: only models that give this stem, the best published score of it first; unscored ones last.

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
    return sorted(giving, key=lambda spec: -_or_last(spec.score(stem)))


def find_model(name: str) -> ModelSpec:
    """The entry of that name, listed or not.

    Raises:
        UnknownNameError: there is none.
        SettingsError: a registry file is malformed.
    """
    models = registry()
    if name not in models:
        raise UnknownNameError("model", name, tuple(n for n, spec in models.items() if spec.listed))
    return models[name]


def members(spec: ModelSpec, stems: Container[str] | None = None) -> list[ModelSpec]:
    """The entries whose files a model needs for `stems` (None for all): its members, or itself."""
    if spec.bag is None:
        return [spec]
    every = stems is None or spec.residual in stems
    wanted = [i for i, stem in enumerate(spec.stems) if every or stem in (stems or ())]
    rows = zip(spec.bag.members, spec.bag.weights, strict=True)
    return [find_model(name) for name, weights in rows if any(weights[i] for i in wanted)]


def registry() -> dict[str, ModelSpec]:
    """All entries by name: those of the package, then those of the user's file, which win.

    Raises:
        SettingsError: a registry file is malformed.
    """
    own = folders.user_registry()
    try:
        status = own.stat()
    except (FileNotFoundError, NotADirectoryError):
        return dict(_read(_packaged(), 0, False))
    except OSError as error:
        raise _unusable(own, f"can't be read ({error.strerror})") from None
    if not (S_ISREG(status.st_mode) or S_ISCHR(status.st_mode)):  # /dev/null is a way to say none
        raise _unusable(own, "is a folder" if S_ISDIR(status.st_mode) else "is no regular file")
    return _with_own(_read(own, status.st_mtime_ns, True), own)


def _unusable(path: Path, what: str) -> SettingsError:
    """The error of a user's registry that is no file to be read."""
    chosen = os.environ.get(folders.REGISTRY)
    name = f"{folders.REGISTRY}={chosen}" if chosen else str(path)
    hint = "it must be a YAML file of your own models, or not be there"
    return SettingsError(f"{name}: {what}", setting=folders.REGISTRY, hint=hint)


def check_own(content: Any, path: Path) -> None:
    """Refuse content with which the user's file, at `path`, would make no registry.

    Raises:
        SettingsError: an entry is malformed, or a bag loses a member.
    """
    _with_own(parse_registry(Document(content, str(path)), own=True), path)


def _with_own(own: Mapping[str, ModelSpec], path: Path) -> dict[str, ModelSpec]:
    models = {**_read(_packaged(), 0, False), **own}
    _check_bags(models, path)
    return models


def _or_last(score: float | None) -> float:
    return float("-inf") if score is None else score


def _packaged() -> Path:
    # In a wheel the file lies inside the package, in a checkout and a source archive beside it.
    inside = Path(__file__).parents[1] / "models.yaml"
    return inside if inside.is_file() else Path(__file__).parents[2] / "models.yaml"


@lru_cache(maxsize=8)
def _read(path: Path, changed: int, own: bool) -> dict[str, ModelSpec]:
    # `changed` is part of the cache's key only: the user's file may be rewritten while the process runs.
    models = parse_registry(load(path), own=own)
    if not own:
        _check_bags(models, path)
    return models


@dataclass(frozen=True)
class _Sections:
    """The entries of a registry file; `members` are found by name but not listed."""

    members: Mapping[str, object] = field(default_factory=dict)
    models: Mapping[str, object] = field(default_factory=dict)


def parse_registry(document: Document, *, own: bool = False) -> dict[str, ModelSpec]:
    """Return the entries of a registry file: `models`, and `members` that are not listed.

    Raises:
        SettingsError: a key is unknown or missing, or a value isn't what it must be; the message says where.
    """
    models: dict[str, ModelSpec] = {}
    sections = read(_Sections, document)
    for section, listed in (("members", False), ("models", True)):
        for name in getattr(sections, section):
            if name in models:
                raise document.error((section, name), "stands there twice")
            keys = section, name
            models[name] = read(ModelSpec, document, keys, name=name, listed=listed, own=own)
    return models


def _without_empty(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}


def _check_bags(models: Mapping[str, ModelSpec], path: Path) -> None:
    for spec in models.values():
        for name in spec.bag.members if spec.bag else ():
            member = models.get(name)
            if member is None or member.bag is not None or member.stems != spec.stems:
                raise SettingsError(
                    f"{path}: {spec.name}: member {name} must be a single model with the bag's stems",
                    setting=str(path),
                )

"""The registry: what models there are, where their weights lie and what they must hash to.

`models.yaml` is data only. A user's file of the same form (see `folders.user_registry`) is merged over it.
"""

import os
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from stat import S_ISCHR, S_ISDIR, S_ISREG
from typing import Any

import yaml

from stemsplit import folders
from stemsplit.errors import SettingsError, StemsplitError, UnknownNameError
from stemsplit.hub.fields import Fields
from stemsplit.stems import canonical, canonical_stems, find_stem

BUNDLED = Path(__file__).with_name("bundled")


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, pinned to a revision (40 hexadecimal digits)."""

    repo: str
    revision: str
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
    sha256: str | None = None
    size: int | None = None
    about_mb: int | None = None
    prefix: str = ""
    otherwise: "FileSpec | None" = None

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
        weights: one row per member, one value per stem.
    """

    members: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Scores:
    """Published scores in dB. They compare only within one metric and data set."""

    metric: str
    data: str
    all: float | None = None
    stems: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Inference:
    """How the model was run for its published scores, where that differs from the defaults.

    Attributes:
        overlap: the fraction of a chunk shared with the next.
    """

    overlap: float | None = None


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
    family: str | None
    stems: tuple[str, ...]
    sample_rate: int
    license: str
    license_note: str = ""
    residual: str | None = None
    segment_s: float | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    bag: BagSpec | None = None
    files: tuple[FileSpec, ...] = ()
    paper: str | None = None
    scores: Scores | None = None
    inference: Inference = Inference()
    note: str = ""
    listed: bool = True
    own: bool = False

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
    _with_own(parse_registry(content, str(path), own=True), path)


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
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506 (safe loaders)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise SettingsError(f"{path}: not a registry ({line})", setting=str(path)) from error
    models = parse_registry(content or {}, str(path), own=own)
    if not own:
        _check_bags(models, path)
    return models


def parse_registry(content: Any, where: str, *, own: bool = False) -> dict[str, ModelSpec]:
    """Entries from the content of a registry file: `models`, and `members` that are not listed.

    Raises:
        SettingsError: a key is unknown or missing, or a value isn't what it must be; the message says where.
    """
    top = Fields(content, where)
    models: dict[str, ModelSpec] = {}
    for section, listed in (("members", False), ("models", True)):
        for name, entry in top.mapping(section).items():
            if name in models:
                raise SettingsError(f"{where}: {name} stands there twice", setting=where)
            models[name] = _model(str(name), Fields(entry, f"{where}: {name}"), listed, own)
    top.done()
    return models


def _model(name: str, entry: Fields, listed: bool, own: bool) -> ModelSpec:
    stems = _stems(entry)
    residual = entry.text("residual", None)
    spec = ModelSpec(
        name=name,
        family=entry.text("family", None),
        stems=stems,
        sample_rate=entry.count("sample_rate"),
        license=entry.text("license"),
        license_note=entry.text("license_note", ""),
        residual=None if residual is None else canonical(residual),
        segment_s=entry.number("segment_s", None),
        arguments=entry.mapping("arguments"),
        bag=_bag(entry.fields("bag"), len(stems)),
        files=tuple(_file(f) for f in entry.each("files")),
        paper=entry.text("paper", None),
        scores=_scores(entry.fields("scores"), stems),
        inference=_inference(entry.fields("inference")),
        note=entry.text("note", ""),
        listed=listed,
        own=own,
    )
    entry.require((spec.family is None) != (spec.bag is None), "needs either a family or a bag")
    entry.require(not (spec.bag and spec.files), "a bag has no files of its own")
    entry.require(spec.residual not in spec.stems, "the residual is one of the stems")
    entry.done()
    return spec


def _stems(entry: Fields) -> tuple[str, ...]:
    names = entry.names("stems")
    try:
        return canonical_stems(names)
    except StemsplitError as error:
        raise SettingsError(f"{entry.where}: {error.reason}", setting=entry.where) from None


def _bag(entry: Fields | None, stems: int) -> BagSpec | None:
    if entry is None:
        return None
    names = entry.names("members", unique=False)
    rows = entry.rows("weights") or tuple((1.0,) * stems for _ in names)
    entry.require(len(rows) == len(names), f"{len(names)} members but {len(rows)} rows of weights")
    entry.require(all(len(row) == stems for row in rows), f"every row of weights needs {stems} values")
    entry.require(all(w >= 0 for row in rows for w in row), "weights must not be negative")
    entry.require(all(map(any, zip(*rows, strict=True))), "a stem has no weight in any member")
    entry.done()
    return BagSpec(names, rows)


def _file(entry: Fields) -> FileSpec:
    other = entry.fields("otherwise")
    spec = FileSpec(
        hub=_hub(entry.fields("hub")),
        url=entry.text("url", None),
        path=_bundled(entry.text("bundled", None)) or entry.text("path", None),
        sha256=entry.digest("sha256"),
        size=entry.count("size", None),
        about_mb=entry.count("about_mb", None),
        prefix=entry.text("prefix", ""),
        otherwise=None if other is None else _file(other),
    )
    entry.require(any((spec.hub, spec.url, spec.path)), "needs hub, url or path")
    entry.done()
    return spec


def _bundled(name: str | None) -> str | None:
    """The path of a file that comes with the package."""
    return None if name is None else str(BUNDLED / name)


def _hub(entry: Fields | None) -> HubFile | None:
    if entry is None:
        return None
    found = HubFile(entry.text("repo"), entry.text("revision"), entry.text("name"))
    pinned = len(found.revision) == 40 and set(found.revision) <= set("0123456789abcdef")
    entry.require(pinned, "revision must be 40 hexadecimal digits")
    entry.require(found.repo.count("/") == 1, "repo must be OWNER/REPO")
    entry.done()
    return found


def _scores(entry: Fields | None, stems: tuple[str, ...]) -> Scores | None:
    if entry is None:
        return None
    values = {stem: entry.number(stem, None) for stem in stems}
    found = Scores(
        metric=entry.text("metric"),
        data=entry.text("data"),
        all=entry.number("all", None),
        stems={stem: value for stem, value in values.items() if value is not None},
    )
    entry.done()
    return found


def _inference(entry: Fields | None) -> Inference:
    if entry is None:
        return Inference()
    found = Inference(entry.number("overlap", None))
    entry.require(found.overlap is None or found.overlap < 1, "overlap must be below 1")
    entry.done()
    return found


def _check_bags(models: Mapping[str, ModelSpec], path: Path) -> None:
    for spec in models.values():
        for name in spec.bag.members if spec.bag else ():
            member = models.get(name)
            if member is None or member.bag is not None or member.stems != spec.stems:
                raise SettingsError(
                    f"{path}: {spec.name}: member {name} must be a single model with the bag's stems",
                    setting=str(path),
                )

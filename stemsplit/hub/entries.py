"""The entries of a registry: models, with their files, scores and licences."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from stemsplit.errors import StemsplitError
from stemsplit.hub.recipes import Recipe
from stemsplit.reading import Count, Invalid, Names, Number, Rows, Rule
from stemsplit.stems import canonical, canonical_stems

BUNDLED = Path(__file__).with_name("bundled")

_HEX = re.compile("[0-9a-f]+")
Sha1 = Annotated[str, Rule("40 hexadecimal digits", lambda v: len(v) == 40 and bool(_HEX.fullmatch(v)))]
Repository = Annotated[str, Rule("OWNER/REPO", lambda v: v.count("/") == 1)]
Digest = Annotated[
    str,
    Rule(
        "8 to 64 hexadecimal digits in quotes, in lower case",
        lambda v: 8 <= len(v) <= 64 and bool(_HEX.fullmatch(v)),
    ),
]
Overlap = Annotated[float, Rule("a number, not below 0, and below 1", lambda v: 0 <= v < 1)]


Md5 = Annotated[
    str,
    Rule("32 hexadecimal digits in quotes", lambda v: len(v) == 32 and bool(_HEX.fullmatch(v))),
]


@dataclass(frozen=True)
class HubFile:
    """A file of a Hugging Face repository, pinned to a revision.

    Attributes:
        repo: OWNER/REPO.
        revision: commit, 40 hexadecimal digits.
        name: path of the file in the repository.
    """

    repo: Repository
    revision: Sha1
    name: str


@dataclass(frozen=True)
class FileSpec:
    """A weights file: the same bytes on the hub, at a URL or on this machine.

    Attributes:
        hub, url, path: its sources; at least one.
        mirrors: further URLs of the same bytes, tried in this order if the file can't be had from `url`.
        sha256: its digest or the first digits of it (8 or more); None if unknown, see `records` then.
        md5: its md5, for a file without a sha256.
        git: git's hash of it, for a file without a sha256.
        size: in bytes, None if unknown.
        about_mb: approximate size in MB for display, if only the number of weights is known.
        shaped: whether the entry tells the shapes of all tensors, which verify a file of unknown size.
        prefix: prefix to add to the names of its tensors.
        member: of an archive the file that is the checkpoint, or the folder of a checkpoint of TensorFlow.
        otherwise: another file with the same weights, used if this one can't be downloaded.
    """

    hub: HubFile | None = None
    url: str | None = None
    path: str | None = None
    mirrors: tuple[str, ...] = ()
    sha256: Digest | None = None
    md5: Md5 | None = None
    git: Sha1 | None = None
    size: Count | None = None
    about_mb: Count | None = None
    shaped: bool = False
    prefix: str = ""
    member: str = ""
    otherwise: "FileSpec | None" = None

    def __post_init__(self) -> None:
        if not (self.hub or self.url or self.path):
            raise Invalid("", "needs hub, url or path")
        if self.mirrors and not self.url:
            raise Invalid("mirrors", "needs a url that comes first")

    @classmethod
    def from_yaml(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Replace `bundled`, the name of a file that comes with the package, by its path."""
        found = _without_empty(entry)
        if (name := found.pop("bundled", None)) is not None:
            found["path"] = str(BUNDLED / name) if isinstance(name, str) else name
        return found

    @property
    def name(self) -> str:
        """Name of the file."""
        if self.hub is not None:
            return self.hub.name
        return (self.path or (self.url or "").split("?")[0]).rsplit("/", 1)[-1]

    @property
    def urls(self) -> tuple[str, ...]:
        """All URLs of the file, in order of preference."""
        return (self.url, *self.mirrors) if self.url else ()

    @property
    def bundled(self) -> bool:
        """True if the file is part of the package."""
        return self.path is not None and Path(self.path).parent == BUNDLED


@dataclass(frozen=True)
class BagSpec:
    """Average of several models.

    Attributes:
        members: names of registry entries.
        weights: one row per member, one value per stem; empty for equal weights.
    """

    members: Names
    weights: Rows = ()

    def for_stems(self, count: int) -> "BagSpec":
        """Return the bag with its rows of weights for `count` stems; raise `Invalid` if they don't fit."""
        rows = self.weights or ((1.0,) * count,) * len(self.members)
        if len(rows) != len(self.members):
            raise Invalid("bag", f"{len(self.members)} members but {len(rows)} rows of weights")
        if any(len(row) != count for row in rows):
            raise Invalid("bag", f"every row of weights needs {count} values")
        if not all(map(any, zip(*rows, strict=True))):
            raise Invalid("bag", "a stem has no weight in any member")
        return replace(self, weights=rows)


class Scale(NamedTuple):
    """Metric and test set of scores; only scores with the same ones can be compared.

    Attributes:
        metric: such as cSDR or uSDR.
        data: test set.
    """

    metric: str
    data: str


@dataclass(frozen=True)
class Scores:
    """Published scores in one metric on one test set.

    Attributes:
        metric: such as cSDR or uSDR.
        data: test set.
        source: where they are published, if not in the paper or with the weights.
        all: mean over the stems, None if unknown.
        stems: score of each stem.
    """

    metric: str
    data: str
    source: str = ""
    all: Number | None = None
    stems: Mapping[str, Number] = field(default_factory=dict)

    @classmethod
    def from_yaml(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Collect the scores of stems, which an entry has beside the other keys, under `stems`."""
        found = _without_empty(entry)
        keys = ("metric", "data", "source", "all")
        own: dict[str, Any] = {key: found.pop(key) for key in keys if key in found}
        return {**own, "stems": found}

    @property
    def scale(self) -> Scale:
        """Metric and test set."""
        return Scale(self.metric, self.data)

    def of(self, stem: str | None) -> float | None:
        """Return the score of `stem`, or of all stems together for None; None if there is none."""
        return self.all if stem is None else self.stems.get(stem)

    def for_stems(self, stems: tuple[str, ...]) -> "Scores":
        """Return the scores in the order of `stems`; raise `Invalid` for the score of any other stem."""
        for stem in self.stems:
            if stem not in stems:
                raise Invalid(stem, f"no such key; choose from {', '.join(stems)}")
        return replace(self, stems={stem: self.stems[stem] for stem in stems if stem in self.stems})


@dataclass(frozen=True)
class Inference:
    """Settings with which the model got its published scores, if they differ from the defaults.

    Attributes:
        overlap: fraction of a chunk that overlaps the next one.
    """

    overlap: Overlap | None = None


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the registry.

    Attributes:
        name: the model's name for `-m`.
        family: network family, a key of `models.FAMILIES`; None for a bag or a recipe.
        stems: stems that the network estimates, in its order; for a recipe the stems that it gives; none in
            an entry of the catalogue whose files say them.
        residual: a stem that is the mix minus all others, or None.
        sample_rate: in Hz.
        segment_s: chunk length in seconds, None for the checkpoint's own.
        arguments: arguments of the family, for checkpoints without any.
        bag: members and weights of a bag, None for other models.
        recipe: the combination of models, None for other models.
        files: weights files; empty for a family without weights and for bags.
        license, license_note: licence of the weights, in SPDX's terms or `not stated`, and remarks about it.
        license_source, license_date: where it is stated, and when that was read.
        task: what the model is for, such as vocals, karaoke or dereverb.
        aliases: other names of the model, such as those of its files in other programs.
        config: YAML file published with the weights, which states arguments, stems and sample rate; those of
            the entry are a guess then.
        variant: arguments that the YAML file doesn't state.
        inferred: what the size of the weights says about the arguments; the YAML file must agree with one.
        reason: reason why the model can't be run; empty for one that can.
        paper: reference to the paper that describes the model.
        scores: published scores, those to show first in front.
        inference: see this class.
        note: other remarks for users, such as the origin of the files.
        listed: False for members of bags, which are found by name but not listed.
        own: whether the entry is in the user's registry file.
    """

    name: str
    stems: Names
    sample_rate: Count
    license: str
    family: str | None = None
    license_note: str = ""
    license_source: str = ""
    license_date: str = ""
    task: str = ""
    aliases: tuple[str, ...] = ()
    config: FileSpec | None = None
    variant: Mapping[str, Any] = field(default_factory=dict)
    inferred: tuple[Mapping[str, Any], ...] = ()
    reason: str = ""
    residual: str | None = None
    segment_s: Number | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    bag: BagSpec | None = None
    recipe: Recipe | None = None
    files: tuple[FileSpec, ...] = ()
    paper: str | None = None
    scores: tuple[Scores, ...] = ()
    inference: Inference = Inference()
    note: str = ""
    listed: bool = True
    own: bool = False

    @classmethod
    def from_yaml(cls, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Drop keys without a value; scores of one kind needn't be a list."""
        found = _without_empty(entry)
        if isinstance(found.get("scores"), Mapping):
            found["scores"] = [found["scores"]]
        return found

    def __post_init__(self) -> None:
        if len(set(self.stems)) < len(self.stems):
            raise Invalid("stems", "names something twice")
        if sum(one is not None for one in (self.family, self.bag, self.recipe)) != 1:
            raise Invalid("", "needs either a family, a bag or a recipe")
        if self.files and not self.family:
            raise Invalid("files", f"a {'bag' if self.bag else 'recipe'} has no files of its own")
        try:
            object.__setattr__(self, "stems", canonical_stems(self.stems) if self.stems else ())
        except StemsplitError as error:
            raise Invalid("stems", error.reason) from None
        if self.residual is not None:
            object.__setattr__(self, "residual", canonical(self.residual))
        if self.residual in self.stems:
            raise Invalid("residual", "the residual is one of the stems")
        if self.bag:
            object.__setattr__(self, "bag", self.bag.for_stems(len(self.stems)))
        object.__setattr__(self, "scores", tuple(self._scores()))

    def _scores(self) -> Iterator[Scores]:
        """Yield the scores in the order of the stems; raise `Invalid` for the score of any other stem."""
        for index, scores in enumerate(self.scores):
            try:
                yield scores.for_stems(self.all_stems)
            except Invalid as error:
                raise Invalid(f"scores.{index}.{error.key}", error.rule) from None

    @property
    def all_stems(self) -> tuple[str, ...]:
        """All stems that the model gives, the residual last."""
        return self.stems if self.residual is None else (*self.stems, self.residual)

    def score(self, stem: str | None = None, scale: Scale | None = None) -> float | None:
        """Return a published score, None if there is none.

        Args:
            stem: name of the stem; None for all stems together.
            scale: its metric and test set; None for the first of `scores` that has the stem.
        """
        fitting = (each for each in self.scores if scale in (None, each.scale))
        return next((score for each in fitting if (score := each.of(stem)) is not None), None)


def _without_empty(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if value is not None}

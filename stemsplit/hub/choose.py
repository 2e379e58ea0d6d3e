"""Choose among the models of the registry and the catalogue, as `stemsplit models list` does."""

from collections.abc import Sequence
from dataclasses import dataclass

from stemsplit.errors import UnknownNameError
from stemsplit.hub.access import is_under
from stemsplit.hub.entries import ModelSpec
from stemsplit.hub.manage import is_here
from stemsplit.hub.registry import all_models, list_models, registry


@dataclass(frozen=True)
class Choice:
    """What models must have to be chosen; without any of it, the registry's own are.

    Attributes:
        words: parts of names, stems, tasks or families; all must be found.
        stem: a stem that the model gives; the models are sorted by its published score.
        task, family, license: of the model; `permissive` stands for all such licences.
        metric: the models are sorted by the score in this metric, those without one last.
        cached: only models whose files are on this machine.
        every: also models that other programs name, although nothing else is asked for.
    """

    words: tuple[str, ...] = ()
    stem: str | None = None
    task: str | None = None
    family: str | None = None
    license: str | None = None
    metric: str | None = None
    cached: bool = False
    every: bool = False

    @property
    def narrow(self) -> bool:
        """True if the catalogue is searched too."""
        return bool(
            self.words or self.task or self.family or self.license or self.metric or self.cached or self.every
        )


def choose(choice: Choice) -> list[ModelSpec]:
    """Return the models that are asked for: sorted by task and name, or by score.

    Raises:
        UnknownNameError: there is no such stem, task or family.
        SettingsError: a registry file is malformed.
    """
    found = list_models(choice.stem)
    if not choice.narrow:
        return found
    models = all_models()
    _require("task", choice.task, [spec.task for spec in models])
    _require("model family", choice.family, [spec.family or "" for spec in models])
    if choice.stem is not None:
        giving = {spec.name for spec in found}
        models = [spec for spec in models if spec.name in giving or choice.stem in spec.all_stems]
    kept = [spec for spec in models if _fits(spec, choice)]
    if choice.stem is not None or choice.metric is not None:
        return sorted(kept, key=lambda spec: _falling(spec, choice))
    own = registry()  # stands first within a task
    return sorted(kept, key=lambda spec: (spec.task or "~", spec.name not in own, spec.name.lower()))


def _require(kind: str, name: str | None, known: Sequence[str]) -> None:
    if name is not None and name not in known:
        raise UnknownNameError(kind, name, sorted(filter(None, set(known))))


def _fits(spec: ModelSpec, choice: Choice) -> bool:
    text = " ".join([spec.name, *spec.aliases, *spec.all_stems, spec.task, spec.family or ""]).lower()
    return (
        all(word.lower() in text for word in choice.words)
        and choice.task in (None, spec.task)
        and choice.family in (None, spec.family)
        and (choice.license is None or is_under(spec.license, choice.license))
        and (not choice.cached or (not spec.reason and is_here(spec)))
    )


def _falling(spec: ModelSpec, choice: Choice) -> tuple[bool, float]:
    """Return a key that sorts by falling scores, models without a score in the metric last."""
    scores = spec.scores
    if scores is None or (choice.metric or scores.metric).lower() != scores.metric.lower():
        return True, 0.0
    score = spec.score(choice.stem)
    if score is None and choice.stem is None and scores.stems:
        score = sum(scores.stems.values()) / len(scores.stems)
    return score is None, -(score or 0.0)

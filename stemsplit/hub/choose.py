"""Choose among the models of the registry and the catalogue, as `stemsplit models list` does."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.hub.access import is_under
from stemsplit.hub.entries import ModelSpec, Scale
from stemsplit.hub.manage import is_here
from stemsplit.hub.registry import all_models, list_models, members, registry
from stemsplit.stems import canonical

# Tasks that are called like the stem that counts in them
_STEMS = ("vocals", "instrumental", "drums", "karaoke")


@dataclass(frozen=True)
class Choice:
    """Conditions on models, to choose some; without any, the registry's own are chosen.

    Attributes:
        words: parts of names, stems, tasks or families; all must be found.
        stem: a stem that the model gives; the models are sorted by its published score.
        task, family, license: of the model; `permissive` stands for all such licences.
        metric: the models are sorted by the score in this metric, those without one last; see `scale_of`.
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

    @property
    def scored(self) -> str | None:
        """The stem whose scores are compared; None for all stems together."""
        return self.stem or (self.task if self.task in _STEMS else None)


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
        scale, stem = scale_of(kept, choice), choice.scored
        return sorted(kept, key=lambda spec: _falling(None if scale is None else spec.score(stem, scale)))
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


def _falling(score: float | None) -> tuple[bool, float]:
    """Return a key that sorts by falling scores, None last."""
    return score is None, -(score or 0.0)


def scales(specs: Iterable[ModelSpec], stem: str | None) -> Counter[Scale]:
    """Return by metric and test set how many models have a score of a stem; None for all stems together."""
    return Counter(
        each.scale for spec in specs if not spec.reason for each in spec.scores if each.of(stem) is not None
    )


def scale_of(specs: Iterable[ModelSpec], choice: Choice) -> Scale | None:
    """Return metric and test set of the scores that can be compared: most models have them.

    Args:
        specs: the models.
        choice: its metric narrows what is considered, and its stem or task says what is scored.
    """
    found = scales(specs, choice.scored)
    fitting = [scale for scale in found if choice.metric in (None, *_spellings(scale.metric))]
    return max(fitting, key=lambda scale: found[scale], default=None)


def _spellings(metric: str) -> tuple[str, ...]:
    return metric, metric.lower(), metric.upper()


METRICS = ("uSDR", "cSDR", "SDR")  # the first is today's usual one
_BESIDE_WEIGHTS = 1.5e9  # bytes that a network takes beside its weights, in chunks of usual length
_COPIES = 2  # of the weights while they are loaded


def best(stem: str, licenses: Sequence[str] = (), free: int | None = None) -> tuple[ModelSpec, str]:
    """Return the model with the highest published score for a stem, and the reason as a sentence.

    Only scores in one metric on one test set are compared: the first of `METRICS` in which a model that fits
    has a score.

    Args:
        stem: name of the stem.
        licenses: of which the weights must have one, as for `is_under`; empty for any.
        free: bytes of memory that the model may take, None if unknown.

    Raises:
        UnknownNameError: no model has a score for that stem.
        SettingsError: none of those that have one fits.
    """
    name = canonical(stem)
    every = [spec for spec in all_models() if not spec.reason]
    found = {scale for scale in scales(every, name) if scale.metric in METRICS}
    scored = [spec for spec in every if any(spec.score(name, scale) is not None for scale in found)]
    if not scored:
        known = {name for spec in every for scores in spec.scores for name in scores.stems}
        raise UnknownNameError("stem with a published score", stem, sorted(known))
    licensed = [s for s in scored if not licenses or any(is_under(s.license, one) for one in licenses)]
    fitting = [spec for spec in licensed if free is None or _memory(spec) <= free]
    if not fitting:
        what = "the memory that is free" if licensed else f"--license {','.join(licenses)}"
        raise SettingsError(f"best:{stem}: none of {len(scored)} models fits {what}", setting="--model")
    counts = scales(fitting, name)
    scale = min(found & counts.keys(), key=lambda one: (METRICS.index(one.metric), -counts[one], one))
    alike = {spec.name: score for spec in fitting if (score := spec.score(name, scale)) is not None}
    chosen = max(fitting, key=lambda spec: alike.get(spec.name, -inf))
    why = f"best:{stem} is {chosen.name}: {scale.metric} {alike[chosen.name]:.2f} dB ({scale.data})"
    left_out = f"; licence or memory left out {len(scored) - len(fitting)}" * (fitting != scored)
    return chosen, f"{why}, the highest of {len(alike)}{left_out}"


def _memory(spec: ModelSpec) -> float:
    """Return an estimate of the memory that a model takes, in bytes; infinite if a size is unknown."""
    sizes = [file.size or 1e6 * (file.about_mb or inf) for member in members(spec) for file in member.files]
    return _BESIDE_WEIGHTS + _COPIES * sum(sizes)

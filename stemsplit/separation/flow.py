"""Resolve a recipe to a flow: which model runs over which signal, and the sum of signals that each stem is.

Signals have names: the mix, every stem of every run (`0 vocals`), and every blend (`blend 0`). Stems, inputs
of further models and outputs are sums of signals. `run` and `Separator` resolve a flow once, `track` runs it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemsplit.errors import SettingsError, UnknownNameError
from stemsplit.hub.describe import Description, joint_digest
from stemsplit.hub.recipes import MIX as MIX_INPUT
from stemsplit.hub.recipes import Recipe, Step, terms_of
from stemsplit.separation.outputs import MIX, Output, Sum, find_sum
from stemsplit.stems import canonical, find_stem, is_file_name, meanings

if TYPE_CHECKING:
    from stemsplit.core.separable import Separable


@dataclass(frozen=True)
class Run:
    """A model and the signal that it separates.

    Attributes:
        model: the model as it was asked for: a name, a path or an object.
        input: the sum of signals that it separates.
        stems: the stems that are computed by the model; its residual is a sum instead.
        about: the model's description.
    """

    model: Any
    input: Sum
    stems: tuple[str, ...]
    about: Description

    @property
    def from_mix(self) -> bool:
        """True if the model separates the track itself."""
        return self.input == Sum((MIX,))

    def signals(self, index: int) -> tuple[str, ...]:
        """Return the names of the run's signals, in the order of its stems."""
        return tuple(_signal(index, stem) for stem in self.stems)


@dataclass(frozen=True)
class StemBlend:
    """A blend of estimates of one stem by several models.

    Attributes:
        parts: the estimates, each a sum of signals.
        weights: the weight of each estimate.
        blend: one of `blend_names.BLENDS`.
        givers: the model of each estimate.
    """

    parts: tuple[Sum, ...]
    weights: tuple[float, ...]
    blend: str
    givers: tuple[str, ...]


@dataclass(frozen=True)
class Flow:
    """Models, the signals between them, and the stems that they give together.

    Attributes:
        name: name of the recipe or model, as it was asked for.
        runs: the models by number, each after those whose stems it separates.
        blends: the blends by the names of their signals.
        sums: the sum of signals of every stem, also of those that are the input of further models.
        stems: names of the stems that the flow gives.
        notices: remarks for the user about models that don't fit together well.
    """

    name: str
    runs: Mapping[int, Run]
    blends: Mapping[str, StemBlend]
    sums: Mapping[str, Sum]
    stems: tuple[str, ...]
    notices: tuple[str, ...] = ()

    @property
    def combined(self) -> bool:
        """True if there is more than one model."""
        return len(self.runs) > 1

    @property
    def divided(self) -> tuple[str, ...]:
        """Names of stems that aren't given themselves, but in parts by further models."""
        return tuple(name for name in self.sums if name not in self.stems)

    @property
    def structure(self) -> str:
        """Digest of the models' names, their inputs and the combination of stems, without the weights."""
        runs = [(run.about.name, str(run.input)) for run in self.runs.values()]
        blends = [(blend.blend, blend.weights, *map(str, blend.parts)) for blend in self.blends.values()]
        stems = [(stem, str(self.sums[stem])) for stem in self.stems]
        return sha256(json.dumps([runs, blends, stems]).encode()).hexdigest()[:16]

    @property
    def sha256(self) -> str | None:
        """Digest of the weights, of several models their joint digest; None if there are no weights."""
        return joint_digest([run.about.sha256 or "" for run in self.runs.values()]) or None

    def signals_of(self, outputs: Iterable[Output]) -> tuple[Sum, ...]:
        """Return the sum of signals of each output, which is a sum of stems."""
        return tuple(output.sum.expand(self.sums) for output in outputs)

    def narrow(self, outputs: Iterable[Output]) -> "Flow":
        """Return the flow with only the models, and only the stems of each, that some outputs need."""
        needed = self.needed(self.signals_of(outputs))
        runs = {}
        for index, run in self.runs.items():
            if own := tuple(stem for stem in run.stems if _signal(index, stem) in needed):
                runs[index] = replace(run, stems=own)
        return replace(self, runs=runs)

    def needed(self, sums: Iterable[Sum]) -> set[str]:
        """Return all signals that some sums depend on, also through blends and further models."""
        return _reached(sums, self._made_of)

    def direct(self, sums: Iterable[Sum]) -> set[str]:
        """Return the stems of models, and the mix, that some sums consist of, with blends expanded."""
        return _reached(sums, self._estimates) - self.blends.keys()

    def run_of(self, signal: str) -> int | None:
        """Return the number of the run that computes a signal; None for the mix and for blends."""
        number = signal.partition(" ")[0]
        return int(number) if number.isdecimal() else None

    def _made_of(self, signal: str) -> Sequence[Sum]:
        """Return the sums that a signal is computed from."""
        run = self.run_of(signal)
        return self._estimates(signal) if run is None else (self.runs[run].input,)

    def _estimates(self, signal: str) -> Sequence[Sum]:
        """Return the sums that a signal is a blend of; none if it isn't a blend."""
        return self.blends[signal].parts if signal in self.blends else ()

    def remarks(self, outputs: Sequence[Output]) -> Iterator[str]:
        """Yield remarks for the user: on the combination of the models, and which model gives which stems."""
        if not self.combined:
            return
        yield from self.notices
        given_out = [term for output in outputs for term in output.sum.terms if term != MIX]
        needed = {MIX, *self.needed(self.signals_of(outputs))}
        passed_on = [name for name in self.divided if set(self.sums[name].terms) <= needed]
        names = dict.fromkeys((*passed_on, *given_out))
        groups: dict[tuple[tuple[str, ...], str], list[str]] = {}
        for name in names:
            blends = {self.blends[term].blend for term in self.sums[name].terms if term in self.blends}
            how = f", blended by {' and '.join(sorted(blends))}" if blends else ""
            groups.setdefault((self._givers(self.sums[name]), how), []).append(name)
        for (givers, how), given in groups.items():
            yield f"{', '.join(given)}: from {' and '.join(givers)}{how}"

    def _givers(self, total: Sum) -> tuple[str, ...]:
        found = list[str]()
        for term in total.terms:
            if term in self.blends:
                found += self.blends[term].givers
            elif (run := self.run_of(term)) is not None:
                found.append(self.runs[run].about.name)
        return tuple(dict.fromkeys(found))


def _signal(index: int, stem: str) -> str:
    return f"{index} {stem}"


def _reached(sums: Iterable[Sum], made_of: Callable[[str], Sequence[Sum]]) -> set[str]:
    """Return the terms of some sums, the terms of the sums that `made_of` gives for these, and so on."""
    found, waiting = set[str](), [term for total in sums for term in total.terms]
    while waiting:
        term = waiting.pop()
        if term not in found:
            found.add(term)
            waiting += [part for total in made_of(term) for part in total.terms]
    return found


Describe = Callable[[str | Path], Description]


def resolve(recipe: Recipe, describe: Describe) -> Flow:
    """Look up the models of a recipe.

    Args:
        recipe: steps of models, and the outputs.
        describe: returns the description of a named model.

    Raises:
        UnknownNameError: a model, or the stem or step that an input or output names, doesn't exist.
        SettingsError: two stems would have one name, one can't be a file's, or an object can't be run.
        Others: as `describe`.
    """
    resolver, name = _Resolver(describe), "+".join(map(_name, recipe.models))
    given = resolver.recipe(recipe, Sum((MIX,)))
    for stem in given.sums:
        if not is_file_name(stem):
            raise SettingsError(f"{name}: has a stem {stem!r}, which can't be a file's name", setting="model")
    return Flow(
        name,
        resolver.runs,
        resolver.blends,
        given.sums,
        given.stems,
        tuple(resolver.notices),
    )


def _name(model: Any) -> str:
    """Return the name of a model as it was asked for."""
    if isinstance(model, (str, Path)):
        return str(model)
    identity = getattr(model, "identity", None)
    return identity.name if identity else type(model).__name__


@dataclass
class _StepStems:
    """The stems of a step or recipe, and the sums of signals of these and of stems that others separate."""

    sums: dict[str, Sum]
    stems: tuple[str, ...]
    name: str = ""


@dataclass
class _Resolver:
    """Collector of the runs, blends and notices of a recipe and of the recipes in it, for `resolve`."""

    describe: Describe
    runs: dict[int, Run] = field(default_factory=dict)
    blends: dict[str, StemBlend] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    resolving: list[str] = field(default_factory=list)  # names of nested recipes, to find one in itself

    def recipe(self, recipe: Recipe, mix: Sum) -> _StepStems:
        """Resolve the steps of a recipe that separates the sum `mix`."""
        sums = dict[str, Sum]()  # by path, such as `vocals.lead`
        steps = dict[str, str]()  # from STEP.STEM to the path
        taken = set[str]()  # paths of stems that further steps separate
        for step in recipe.steps:
            source, path = self._input(step.input, sums, steps, mix)
            given = self._step(step, source)
            prefix = f"{path}." if path else ""
            for stem in dict.fromkeys((*given.stems, *given.sums)):
                if prefix + stem in sums:
                    raise SettingsError(f"two stems would be called {prefix}{stem}", setting="--then")
                sums[prefix + stem] = given.sums[stem]
                if step.name:
                    steps[f"{canonical(step.name)}.{stem}"] = prefix + stem
            taken |= {path} | {prefix + stem for stem in given.sums if stem not in given.stems}
        if not recipe.outputs:
            return _StepStems(sums, tuple(stem for stem in sums if stem not in taken))
        named = {
            canonical(name) if name else self._path(term, sums, steps): self._sum(term, sums, steps, mix)
            for name, term in recipe.terms
        }
        if len(named) < len(recipe.terms):
            raise SettingsError("two outputs of the recipe have one name", setting="outputs")
        return _StepStems({**sums, **named}, tuple(named))

    def _step(self, step: Step, source: Sum) -> _StepStems:
        """Resolve the models of a step; stems of several models that mean the same are blended."""
        given = [self._model(model, source) for model in step.models]
        if len(given) == 1:
            return given[0]
        estimates: dict[str, list[tuple[Sum, float, str]]] = {}
        for one, weight in zip(given, step.counted, strict=True):
            for stem, meaning in meanings(one.stems).items():
                estimates.setdefault(meaning, []).append((one.sums[stem], weight, one.name))
        self._compare(given)
        sums = {stem: self._blend(found, step.blend) for stem, found in estimates.items()}
        return _StepStems(sums, tuple(sums))

    def _blend(self, estimates: Sequence[tuple[Sum, float, str]], blend: str) -> Sum:
        if len(estimates) == 1:
            return estimates[0][0]
        parts, weights, givers = zip(*estimates, strict=True)
        if not any(weights):
            raise SettingsError(
                f"--weights: {' and '.join(givers)} would count for nothing", setting="--weights"
            )
        signal = f"blend {len(self.blends)}"
        self.blends[signal] = StemBlend(parts, weights, blend, givers)
        return Sum((signal,))

    def _compare(self, given: Sequence[_StepStems]) -> None:
        """Add a notice for models whose `other` holds stems that another model gives separately."""
        with_other = [
            (set(one.stems), one.name) for one in given if meanings(one.stems).get("other") == "other"
        ]
        for stems, name in with_other:
            for others, another in with_other:
                if apart := sorted(others - stems):
                    self.notices.append(
                        f"the `other` of {name} holds {' and '.join(apart)} too, which {another} gives apart"
                    )

    def _model(self, model: Any, source: Sum) -> _StepStems:
        """Resolve one model, or the recipe that its name stands for."""
        if isinstance(model, Recipe):
            return replace(self.recipe(model, source), name="recipe")
        about = self.describe(model) if isinstance(model, (str, Path)) else describe_object(model)
        if about.recipe is not None:
            return replace(self._nested(about, about.recipe, source), name=about.name)
        index = len(self.runs)
        own = tuple(stem for stem in about.stems if stem != about.residual)
        self.runs[index] = Run(model, source, own, about)
        sums = {stem: Sum((_signal(index, stem),)) for stem in own}
        if about.residual is not None:  # residual = input − Σ stems
            sums[about.residual] = source - Sum(tuple(_signal(index, stem) for stem in own))
        return _StepStems({stem: sums[stem] for stem in about.stems}, about.stems, about.name)

    def _nested(self, about: Description, recipe: Recipe, source: Sum) -> _StepStems:
        """Resolve a recipe that is used as a model in another one."""
        if about.name in self.resolving:
            raise SettingsError(f"recipe {about.name} contains itself", setting="model")
        self.resolving.append(about.name)
        given = self.recipe(recipe, source)
        self.resolving.pop()
        if about.stems and set(about.stems) != set(given.stems):
            what = (
                f"recipe {about.name} gives {', '.join(given.stems)}, its entry says {', '.join(about.stems)}"
            )
            raise SettingsError(what, setting="model")
        return given

    def _input(
        self, text: str, sums: Mapping[str, Sum], steps: Mapping[str, str], mix: Sum
    ) -> tuple[Sum, str]:
        """Return the sum that a step separates, and the path that its stems' names begin with."""
        if text.strip() == MIX_INPUT:
            return mix, ""
        return self._sum(text, sums, steps, mix), self._path(text, sums, steps)

    def _path(self, text: str, sums: Mapping[str, Sum], steps: Mapping[str, str]) -> str:
        """Return the path of a stem; for the mix less a stem, its path with `no_` before the last name."""
        terms = terms_of(text)
        names = [self._name(name, sums, steps) for _, name in terms]
        if len(terms) == 1:
            return names[0]
        if len(terms) == 2 and terms[0][1] == MIX_INPUT and terms[1][0] == "-":
            before, dot, last = names[1].rpartition(".")
            return f"{before}{dot}no_{last}"
        return "_".join(names)

    def _name(self, name: str, sums: Mapping[str, Sum], steps: Mapping[str, str]) -> str:
        """Return the path of a stem that is given as STEM, STEP.STEM or a path."""
        if name == MIX_INPUT:
            return name
        known = {**steps, **{path: path for path in sums}}
        try:
            return known[find_stem(name, tuple(known))]
        except UnknownNameError:
            find_sum(name, tuple(known))
            return canonical(name)

    def _sum(self, text: str, sums: Mapping[str, Sum], steps: Mapping[str, str], mix: Sum) -> Sum:
        """Return the sum of signals that an expression such as `mix - vocals` means."""
        total = Sum(())
        known = {**sums, MIX: mix}
        for sign, name in terms_of(text):
            path = self._name(name, sums, steps)
            term = Sum((MIX,)) if path == MIX_INPUT else find_sum(path, tuple(sums))
            term = term.expand(known)
            total = total - term if sign == "-" else total + term
        if not total.terms:
            raise SettingsError(f"input {text}: is nothing but silence", setting="input")
        return total


def describe_object(model: "Separable") -> Description:
    """Describe an object that a caller of the Python API passes as a model.

    Raises:
        SettingsError: it isn't one that can separate.
    """
    if not hasattr(model, "members"):  # which a bag has, and not a call
        from stemsplit.core.separable import check_separable  # imports torch, as the object does

        check_separable(model)
    residual = getattr(model, "residual", None)
    stems = tuple(model.stems) if residual is None else (*model.stems, residual)
    identity = getattr(model, "identity", None)
    digest = identity.sha256 if identity else None
    return Description(_name(model), stems, digest, model.sample_rate, residual=residual)

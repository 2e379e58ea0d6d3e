"""Parts of the pages that are made from the code: `python -m tests.docs.generate` writes them anew.

A part stands between `<!-- begin NAME -->` and `<!-- end -->`, where NAME is one of `PARTS`. The page of the
command line is made as a whole.
"""

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any, get_args

import stemsplit
from stemsplit import engines, errors, events, settings
from stemsplit.evaluation.findings import Finding
from stemsplit.evaluation.outcome import Outcome
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.score import Scores
from stemsplit.evaluation.table import METRICS
from stemsplit.fields import flag_of, option_of
from stemsplit.formats import FORMATS
from stemsplit.hub import catalogue
from stemsplit.hub.entries import ModelSpec
from stemsplit.hub.records import GRADES
from stemsplit.hub.registry import list_models, members
from stemsplit.outcome import Failure
from stemsplit.separation.report import TrackResult
from stemsplit.training.criterion import MASK_ERROR
from stemsplit.training.learning import LossConfig, LossName
from stemsplit.training.losses import LOSSES
from stemsplit.training.quality import CheckedSong, Quality
from stemsplit.training.recipes import recipe_names, recipe_text
from stemsplit.training.validation import VALIDATION
from tests.benchmarks import table
from tests.docs.command_line import command_line, variables
from tests.docs.pages import COMMAND_LINE, PAGES, ROOT, as_table

GENERATED = [ROOT / "README.md", *PAGES]
MARKS = re.compile(r"(^<!-- begin (\w+) -->\n)(.*?)(^<!-- end -->$)", re.DOTALL | re.MULTILINE)


def _paragraph(text: str | None) -> str:
    """Return the first paragraph of a docstring in one line."""
    return " ".join((text or "").strip().split("\n\n")[0].split())


# ---------------------------------------------------------------- the Python API


def _signature(name: str, function: Any) -> list[str]:
    """Return a function's parameters as its source has them, one a line."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    if not isinstance(node, ast.FunctionDef):
        raise TypeError(f"{name} is no function")
    if node.args.args and node.args.args[0].arg == "self":
        del node.args.args[0]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    arguments = _each(node.args)
    one_line = f"{name}({', '.join(arguments)}){returns}"
    if len(one_line) < 90:
        return [one_line]
    return [f"{name}(", *(f"    {argument}," for argument in arguments), f"){returns}"]


def _each(arguments: ast.arguments) -> list[str]:
    plain, keywords = [*arguments.posonlyargs, *arguments.args], arguments.kwonlyargs
    defaults = [None] * (len(plain) - len(arguments.defaults)) + [*arguments.defaults]
    found = [_argument(*pair) for pair in zip(plain, defaults, strict=True)]
    own = [_argument(*pair) for pair in zip(keywords, arguments.kw_defaults, strict=True)]
    return [*found, *(["*", *own] if own else [])]


def _argument(argument: ast.arg, default: ast.expr | None) -> str:
    kind = argument.annotation  # a string where the type is imported for type checkers only
    text = str(kind.value) if isinstance(kind, ast.Constant) else ast.unparse(kind) if kind else "Any"
    return f"{argument.arg}: {text}" + (f" = {ast.unparse(default)}" if default is not None else "")


def _fields(cls: Any) -> list[str]:
    """Return the fields of a dataclass with their types, one a line."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    if not isinstance(tree, ast.ClassDef):
        raise TypeError(f"{cls} is no class")
    found = [node for node in tree.body if isinstance(node, ast.AnnAssign)]
    return [f"{cls.__name__}(", *(f"    {_plain(ast.unparse(node))}," for node in found), ")"]


def _plain(field: str) -> str:
    """Return a field without what only checks it."""
    return re.sub(r"Annotated\[(.*), Rule\(.*\)\]", r"\1", field).replace("field(default_factory=dict)", "{}")


def _sections(doc: str) -> dict[str, str]:
    """Return the sections of a docstring, such as `Args`, without their indentation."""
    parts = re.split(r"^(Args|Attributes|Returns|Yields|Raises):\n", doc, flags=re.MULTILINE)
    return {
        name: textwrap.dedent(re.split(r"\n\n(?=\S)", body)[0]).strip()
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def _listed(text: str) -> Iterator[str]:
    """Yield a list of the entries `name: meaning` of a section; what has no name is one as it is."""
    for entry in re.split(r"\n(?=\S)", text):
        name, colon, meaning = " ".join(entry.split()).partition(": ")
        named = colon and re.fullmatch(r"[\w, ]+", name)
        yield f"- `{name}`: {meaning}" if named else f"- {' '.join(entry.split())}"


def _entry(title: str, signature: list[str], doc: str) -> Iterator[str]:
    yield from (f"### `{title}`", "", "```text", *signature, "```", "", _paragraph(doc), "")
    sections = _sections(doc)
    if "Args" in sections:
        yield from (*_listed(sections["Args"]), "")
    for head in ("Returns", "Yields"):
        if head in sections:
            yield from (f"{head}: {' '.join(sections[head].split())}", "")
    if "Raises" in sections:
        yield from ("Raises:", "", *_listed(sections["Raises"]), "")


def _api() -> Iterator[str]:
    separator = stemsplit.Separator
    for name in ("separate", "separate_files", "evaluate", "check_songs", "load_model", "list_models"):
        function = getattr(stemsplit, name)
        yield from _entry(name, _signature(name, function), inspect.getdoc(function) or "")
    yield from _entry(
        "Separator", _signature("Separator", separator.__init__), inspect.getdoc(separator) or ""
    )
    for name in ("separate", "stream", "close"):
        method = getattr(separator, name)
        title = f"Separator.{name}"
        yield from _entry(title, _signature(title, method), inspect.getdoc(method) or "")


def _records() -> Iterator[str]:
    """Yield the records that calls take and return."""
    for cls in (
        *(stemsplit.Recipe, stemsplit.Step, stemsplit.Report, TrackResult, Failure),
        *(Evaluation, Outcome, Scores, Finding, CheckedSong, Quality),
    ):
        doc = inspect.getdoc(cls) or ""
        yield from (f"### `{cls.__name__}`", "", "```text", *_fields(cls), "```", "", _paragraph(doc), "")
        if attributes := _sections(doc).get("Attributes"):
            yield from (*_listed(attributes), "")
        for name, one in vars(cls).items():
            if not name.startswith("_") and (isinstance(one, property) or inspect.isfunction(one)):
                shown = name if isinstance(one, property) else "".join(_signature(name, one))
                yield f"- `{shown}`: {_paragraph(one.__doc__)}"
        yield ""


def _settings() -> Iterator[str]:
    for group in dataclasses.fields(settings.Request):
        if dataclasses.is_dataclass(group.type) and isinstance(group.type, type):
            yield from (f"### `{group.type.__name__}` (`Request.{group.name}`)", "")
            yield from (_paragraph(group.type.__doc__), "")
            yield from _setting_rows(group.type)
            yield ""
    yield from ("### `Request` itself", "")
    yield from _setting_rows(settings.Request)


def _setting_rows(cls: Any) -> list[str]:
    rows = []
    for one in dataclasses.fields(cls):
        declared = option_of(one)
        if declared is not None:
            shown = f"`{one.default!r}`" + (f" ({declared.default})" if declared.default else "")
            rows.append((f"`{one.name}`", shown, f"`{flag_of(one)}`", declared.help))
        elif not dataclasses.is_dataclass(one.type):
            rows.append((f"`{one.name}`", f"`{one.default!r}`", "", "see `help()`"))
    return as_table(("field", "default", "option", "meaning"), rows)


def _errors() -> list[str]:
    found = [cls for cls in vars(errors).values() if inspect.isclass(cls) and issubclass(cls, Exception)]
    rows = [
        (f"`{cls.__name__}`", f"`{cls.__mro__[1].__name__}`", str(cls.code), _paragraph(cls.__doc__))
        for cls in found
    ]
    return as_table(("error", "is a", "exit code", "meaning"), rows)


def _events() -> list[str]:
    rows = [
        (
            f"`{cls.__name__}`",
            ", ".join(f"`{one.name}`" for one in dataclasses.fields(cls)),
            _paragraph(cls.__doc__),
        )
        for cls in vars(events).values()
        if inspect.isclass(cls) and issubclass(cls, events.Event) and cls is not events.Event
    ]
    return as_table(("event", "fields", "meaning"), rows)


def _engines() -> Iterator[str]:
    for cls in (engines.Threads, engines.Processes):
        name, *inner, _ = _fields(cls)
        yield f"- `{name}{' '.join(line.strip(' ,') for line in inner)})`: {_paragraph(cls.__doc__)}"


# ---------------------------------------------------------------- tables


def _models() -> list[str]:
    rows = [
        (
            f"`{spec.name}`",
            spec.family or "bag",
            ", ".join(spec.all_stems),
            _megabytes(spec),
            spec.license,
            f"{spec.scores[0].all:.2f} dB {spec.scores[0].metric}" if spec.score() else "",
        )
        for spec in list_models()
        if not spec.own
    ]
    return as_table(("name", "family", "stems", "size", "licence of the weights", "published score"), rows)


def _runnable() -> list[str]:
    """Return the rows of the catalogue by task."""
    rows = []
    models = [spec for spec in catalogue.entries() if not spec.reason]
    for task in sorted({spec.task for spec in models}):
        names = [spec.name for spec in models if spec.task == task]
        short = sorted(names, key=lambda name: (len(name), name))[:3]
        rows.append((task, str(len(names)), ", ".join(f"`{name}`" for name in short)))
    return as_table(("task", "checkpoints", "such as"), rows)


def _grades() -> list[str]:
    return as_table(("grade", "meaning"), [(f"`{grade}`", words) for grade, words in GRADES.items()])


def _not_runnable() -> list[str]:
    reasons: dict[str, list[str]] = {}
    for spec in catalogue.entries():
        if spec.reason:
            reasons.setdefault(spec.reason, []).append(spec.name)
    rows = [(reason, ", ".join(f"`{name}`" for name in names)) for reason, names in reasons.items()]
    return as_table(("why", "checkpoints"), sorted(rows))


def _megabytes(spec: ModelSpec) -> str:
    files = [file for member in members(spec) for file in member.files]
    sizes = [file.size / 1e6 if file.size else file.about_mb for file in files]
    if None in sizes:
        return "not known"
    return f"{sum(filter(None, sizes)):.0f} MB" if sizes else "none"


def _formats() -> list[str]:
    rows = [
        (
            f"`{each.name}`",
            f"`.{each.extension}`",
            ", ".join(each.bit_depths),
            f"{each.bitrate // 1000}k" if each.bitrate else "",
            f"{max(each.rates)} Hz",
            str(each.most_channels),
        )
        for each in FORMATS.values()
    ]
    head = ("-f", "suffix", "--bit-depth", "--bitrate, if not given", "highest sample rate", "most channels")
    return as_table(head, rows)


def _metrics() -> list[str]:
    rows = [
        (
            f"`{name}`",
            one.title,
            one.over_songs,
            "yes" if one.default else "",
            ", ".join(f"`{key}`" for key in VALIDATION if key in (name, f"{name}_median")),
        )
        for name, one in METRICS.items()
    ]
    return as_table(
        ("key", "title", "of several tracks", "computed by default", "as `valid.metric` in training"), rows
    )


def _about_metrics() -> list[str]:
    return [f"- **{one.title}** (`{name}`). {one.about}" for name, one in METRICS.items()]


def _losses() -> list[str]:
    default = LossConfig().terms
    about = {name: one.about.replace(" [S] in", " in") for name, one in LOSSES.items()}
    about[MASK_ERROR] = "the distance of the masks from the target, of networks that estimate masks"
    clean = {name: re.sub(r"^Return (a term: )?|, \[S\]|\.$", "", text) for name, text in about.items()}
    names = get_args(LossName)
    rows = [(f"`{name}`" + (" (default)" if name in default else ""), clean[name]) for name in names]
    return as_table(("loss term", "what it is"), rows)


def _recipes() -> list[str]:
    rows = [(f"`{name}`", _comment(recipe_text(name))) for name in recipe_names()]
    return as_table(("recipe", "what it does"), rows)


def _comment(text: str) -> str:
    """Return the first sentence of the comment that a file begins with."""
    lines = [line.removeprefix("#").strip() for line in text.splitlines()]
    return " ".join(lines[: lines.index("")]).split(". ")[0].removesuffix(".") + "."


# ---------------------------------------------------------------- measurements


def _measured(name: str) -> Any:
    return json.loads((ROOT / "tests/benchmarks" / name).read_text())


def _speed() -> list[str]:
    return table.lines(_measured("speed.json"))


def _shared() -> list[str]:
    return table.shared(_measured("shared.json"))


def _jobs() -> list[str]:
    return table.jobs(_measured("jobs.json"))


def _baselines() -> list[str]:
    scores = _measured("baselines.json")
    stems = ("drums", "bass", "other", "vocals")

    def cell(model: str, stem: str) -> str:
        found = scores[model].get(stem)
        return "" if found is None else f"{mean(found):.1f} ± {stdev(found):.1f}"

    return as_table(("", *stems), [(f"`{name}`", *(cell(name, stem) for stem in stems)) for name in scores])


def _chunks() -> list[str]:
    return table.chunks(_measured("families.json"))


def _chunks_amx() -> list[str]:
    return table.chunks(_measured("families-amx.json"))


def _families() -> list[str]:
    return table.families(_measured("families.json"))


def _headline() -> list[str]:
    return table.headline(_measured("speed.json"), _measured("families.json"))


def _speed_amx() -> list[str]:
    return table.lines(_measured("speed-amx.json"))


def _engines_amx() -> list[str]:
    return table.lines(_measured("engines-amx.json"))


def _machine() -> list[str]:
    machine = _measured("speed.json")["machine"]
    return [f"{machine['cpu']}, Python {machine['python']}, two threads."]


def _bsseval() -> list[str]:
    rows, measured = [], _measured("bsseval.json")
    for threads, one in measured["speed"].items():
        theirs, ours = one["museval"], one["stemsplit"]
        rows.append(
            (
                threads,
                f"{theirs['cpu_s']:.1f} s",
                f"{ours['cpu_s']:.2f} s",
                f"{theirs['cpu_s'] / ours['cpu_s']:.1f}",
                f"{theirs['grown_mb']:.0f} / {ours['grown_mb']:.0f} MB",
            )
        )
    lines = as_table(("threads", "museval, CPU", "stemsplit, CPU", "× CPU", "memory"), rows)
    largest = measured["difference"]["every_number_db"]
    audio = f"{measured['seconds']} s of four stereo stems of {measured['audio']}"
    return [*lines, "", f"That is for {audio}; the largest difference of any number is {largest:.0e} dB."]


PARTS: dict[str, Callable[[], Any]] = {
    "api": _api,
    "records": _records,
    "settings": _settings,
    "errors": _errors,
    "events": _events,
    "engines": _engines,
    "options": variables,
    "models": _models,
    "catalogue": _runnable,
    "grades": _grades,
    "not_runnable": _not_runnable,
    "formats": _formats,
    "metrics": _metrics,
    "about_metrics": _about_metrics,
    "losses": _losses,
    "recipes": _recipes,
    "headline": _headline,
    "speed": _speed,
    "speed_amx": _speed_amx,
    "engines_amx": _engines_amx,
    "shared": _shared,
    "jobs": _jobs,
    "families": _families,
    "chunks": _chunks,
    "chunks_amx": _chunks_amx,
    "machine": _machine,
    "bsseval": _bsseval,
    "baselines": _baselines,
}


def generated(page: Path) -> str:
    """Return a page's text with everything that is made from the code made anew."""

    def part(found: re.Match[str]) -> str:
        body = "\n".join(PARTS[found[2]]()).strip()
        return f"{found[1]}\n{body}\n\n{found[4]}"

    return command_line() if page == COMMAND_LINE else MARKS.sub(part, page.read_text())


def main(pages: list[Path] = GENERATED) -> None:
    """Write all pages."""
    for page in pages:
        page.write_text(generated(page))


if __name__ == "__main__":
    main()

"""Every public name says what it is, what it takes, gives and raises, and in which shapes.

Public are the names of `stemsplit.__all__`, the classes that their signatures and the fields of their records
mention, and everything in `errors`, `events`, `settings` and `engines`.
"""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

import stemsplit
from stemsplit import engines, errors, events, settings
from stemsplit.fields import option_of

OPENINGS = re.compile(r"(Of|What|How|Whether|Which|Where|Those|On|Who|Why|When)\b")
ARRAYS = {"Tensor", "Array", "Audio", "ArrayLike", "NDArray"}
# What only the package itself hands on: fields of `Description`, and the rules of the strict reader.
INTERNAL = {"stemsplit.hub.locate", "stemsplit.hub.bags", "stemsplit.reading"}


# ---------------------------------------------------------------- what is public


def _parsed(thing: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]


def _words(annotation: ast.expr | None) -> set[str]:
    """Return the names in an annotation, also in one that is text."""
    if annotation is None:
        return set()
    words = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    texts = [node.value for node in ast.walk(annotation) if isinstance(node, ast.Constant)]
    return words.union(*(re.findall(r"[A-Za-z_]\w*", text) for text in texts if isinstance(text, str)))


def _arguments(node: ast.FunctionDef) -> list[ast.arg]:
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one for one in every if one.arg not in ("self", "cls")]


def _mentioned(thing: Any) -> set[str]:
    """Return the names in the signature of a function, and in the fields or the constructor of a class."""
    if inspect.isfunction(thing):
        node = _parsed(thing)
        return _words(node.returns).union(*(_words(one.annotation) for one in _arguments(node)))
    if dataclasses.is_dataclass(thing):
        fields = [node for node in _parsed(thing).body if isinstance(node, ast.AnnAssign)]
        return set().union(*(_words(node.annotation) for node in fields))
    own = [one for name, one in vars(thing).items() if inspect.isfunction(one) and name[0] != "_"]
    return set().union(*map(_mentioned, own)) if thing.__name__ in stemsplit.__all__ else set()


def _classes(thing: Any) -> Iterator[Any]:
    """Yield the package's classes that something mentions."""
    module = importlib.import_module(thing.__module__)
    tree = ast.parse(inspect.getsource(module))
    places = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("stemsplit")
        for alias in node.names
    }
    for word in sorted(_mentioned(thing)):
        home, name = places.get(word, (thing.__module__, word))
        found = getattr(importlib.import_module(home), name, None)
        home = getattr(found, "__module__", "")
        if inspect.isclass(found) and home.startswith("stemsplit.") and home not in INTERNAL:
            yield found


def public() -> dict[str, Any]:
    """Return everything public by its name."""
    waiting = [getattr(stemsplit, name) for name in stemsplit.__all__ if name[0] != "_"]
    for module in (errors, events, settings, engines):
        own = [one for name, one in vars(module).items() if name[0] != "_" and inspect.isroutine(one)]
        own += [one for name, one in vars(module).items() if name[0] != "_" and inspect.isclass(one)]
        waiting += [one for one in own if one.__module__ == module.__name__]
    found: dict[str, Any] = {}
    while waiting:
        thing = waiting.pop()
        name = f"{thing.__module__.removeprefix('stemsplit.')}.{thing.__qualname__}"
        if name not in found:
            found[name] = thing
            waiting += _classes(thing)
    return dict(sorted(found.items()))


PUBLIC = public()


# ---------------------------------------------------------------- what is missing


def _section(doc: str, *names: str) -> str:
    """Return the text of the first of some sections of a docstring, "" where there is none."""
    found = re.search(rf"^(?:{'|'.join(names)}):\n((?:[ ]+.*\n?|\n)+)", doc, re.MULTILINE)
    return found[1] if found else ""


def _named(doc: str, name: str) -> bool:
    """Return whether a docstring describes a parameter or an attribute: in a section, or in a sentence."""
    listed = _section(doc, "Args") + _section(doc, "Attributes")
    entry = re.search(rf"^\s*(?:\w+, )*{name}(?:, \w+)*: |[.] {name}: ", listed, re.MULTILINE)
    return entry is not None or f"`{name}`" in doc


def of_opening(doc: str) -> Iterator[str]:
    first = doc.split("\n")[0]
    if not doc:
        yield "has no docstring"
    elif OPENINGS.match(first):
        yield f"begins with {first.split()[0]!r}"
    elif not first.endswith(".") and "\n\n" not in doc:
        yield "its first line is no sentence"


def of_function(function: Any) -> Iterator[str]:
    """Yield what a function's docstring lacks."""
    node, doc = _parsed(function), inspect.getdoc(function) or ""
    yield from of_opening(doc)
    if doc.startswith("See `"):  # the protocol that it implements
        return
    for argument in _arguments(node):
        if not _named(doc, argument.arg):
            yield f"says nothing of {argument.arg}"
    gives = node.returns is not None and ast.unparse(node.returns) not in ("None", "Self")
    if gives and not _section(doc, "Returns", "Yields") and not re.match(r"(Return|Yield)", doc):
        yield "doesn't say what it returns"
    raises = _section(doc, "Raises")
    for name in _raised(node):
        if name not in raises and "As `" not in raises and name not in doc:
            yield f"doesn't say that it raises {name}"
    words = _mentioned(function)
    if words & ARRAYS and not re.search(r"\[[\w.,… +·]+\]", doc):
        yield "has no shapes"


def _raised(node: ast.FunctionDef) -> set[str]:
    """Return the package's errors that stand in a function's own `raise` statements."""
    calls = [one.exc for one in ast.walk(node) if isinstance(one, ast.Raise)]
    names = [call.func if isinstance(call, ast.Call) else call for call in calls]
    return {name.id for name in names if isinstance(name, ast.Name) and hasattr(errors, name.id)}


def of_class(cls: Any) -> Iterator[str]:
    """Yield what the docstrings of a class and of its methods lack."""
    docs = [inspect.cleandoc(base.__dict__.get("__doc__") or "") for base in cls.__mro__[:-1]]
    if docs[0].startswith(f"{cls.__name__}("):  # made by `dataclass`
        docs[0] = ""
    yield from of_opening(docs[0])
    for name in (*_attributes(cls), *_constructor(cls)):
        if not any(_named(doc, name) for doc in docs):
            yield f"says nothing of {name}"
    for name, member in vars(cls).items():
        if name[0] != "_" and isinstance(member, property):
            yield from (f".{name} {lack}" for lack in of_opening(inspect.getdoc(member) or ""))
        elif name[0] != "_" and inspect.isfunction(member):
            yield from (f".{name}() {lack}" for lack in of_function(member))


def _constructor(cls: Any) -> list[str]:
    """Return the parameters of a class that is no record and no error."""
    init = cls.__dict__.get("__init__")
    if not inspect.isfunction(init) or dataclasses.is_dataclass(cls) or issubclass(cls, Exception):
        return []
    return [one.arg for one in _arguments(_parsed(init))]


def _attributes(cls: Any) -> list[str]:
    """Return the fields of a record without those that an option's help describes; what an error carries."""
    if dataclasses.is_dataclass(cls):
        own = [one for one in dataclasses.fields(cls) if one.name in cls.__dict__.get("__annotations__", {})]
        return [one.name for one in own if option_of(one) is None and not _is_group(one)]
    if not issubclass(cls, errors.StemsplitError) or "__init__" not in cls.__dict__:
        return []
    nodes = ast.walk(_parsed(cls))
    return [one.attr for one in nodes if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)]


def _is_group(one: Any) -> bool:
    return dataclasses.is_dataclass(one.type) and one.type.__module__ == settings.__name__


def lacking(thing: Any) -> list[str]:
    """Return what is missing in the docstrings of something public."""
    return list(of_class(thing) if inspect.isclass(thing) else of_function(thing))


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name: str) -> None:
    assert lacking(PUBLIC[name]) == []


def test_a_lack_is_found() -> None:
    def bare(samples: "Tensor", rate: int) -> int:  # type: ignore[name-defined]  # noqa: F821
        raise errors.SettingsError("no")

    def opened(rate: int) -> int:
        """What comes of a `rate`."""
        raise NotImplementedError

    assert lacking(bare) == [
        "has no docstring",
        "says nothing of samples",
        "says nothing of rate",
        "doesn't say what it returns",
        "has no shapes",
    ]
    assert lacking(opened) == ["begins with 'What'", "doesn't say what it returns"]

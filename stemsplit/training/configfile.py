"""Reading a configuration file: YAML in, frozen dataclasses out, every complaint with its line.

PyYAML's node tree knows where everything stands, and the dataclasses know what may stand there. Going through
both at once takes a page, gives one-line errors, and needs no schema beside the dataclasses.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from math import inf, isfinite
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from stemsplit.errors import SettingsError
from stemsplit.training.checks import Invalid
from stemsplit.training.config import Config

# What YAML 1.1 takes for a text but everybody writes for a number.
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)")


@dataclass(frozen=True)
class Entry:
    """A value and where it stands.

    Attributes:
        value: a mapping of names to entries, a list of entries, or a scalar.
        place: such as `config.yaml:12`.
    """

    value: Any
    place: str


class ConfigFile:
    """A configuration that was read, and where each of its values stands.

    Attributes:
        config: the result.
    """

    def __init__(self, tree: Entry) -> None:
        self._tree = tree
        self._places: dict[str, str] = {}
        self.config: Config = _Builder(self._places).dataclass(Config, tree, ())

    def error(self, key: str, rule: str) -> SettingsError:
        """What to raise when the value at the dotted `key` turns out to be wrong.

        Args:
            key: such as `data.train.0.path`; where it isn't written, the place of its parent is named.
            rule: what is wrong.
        """
        return _error(self.place(key), key, rule)

    def place(self, key: str) -> str:
        """Where the value at the dotted `key` stands, or what it's in."""
        while key and key not in self._places:
            key = key.rpartition(".")[0]
        return self._places[key]

    def changed(self, changes: Mapping[str, Any], place: str) -> "ConfigFile":
        """The same file with other values.

        Args:
            changes: dotted keys and plain values.
            place: where these values stand.

        Raises:
            SettingsError: there is no such key, or the value doesn't fit.
        """
        tree = self._tree
        for key, value in changes.items():
            tree = _replaced(tree, key.split("."), _entry(value, place), place)
        return ConfigFile(tree)


def read_config(path: str | Path, overrides: Sequence[str] = ()) -> ConfigFile:
    """A configuration from a YAML file.

    Args:
        path: of the file.
        overrides: `a.b=value` each, the value being YAML.

    Raises:
        SettingsError: the file can't be read, or doesn't describe a run; the line is named.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: can't be read ({error})", setting="--config") from None
    return parse_config(text, path.name, overrides)


def parse_config(text: str, name: str, overrides: Sequence[str] = ()) -> ConfigFile:
    """The same from a text; `name` is what messages call it."""
    tree = _parse(text, name, _line)
    if not isinstance(tree.value, dict):
        raise SettingsError(f"{tree.place}: must be keys with values (a YAML mapping)")
    for override in overrides:
        key, equals, value = override.partition("=")
        place = f"--set {override}"
        if not equals or not key:
            raise SettingsError(f"{place}: write it as a.b=value", setting="--set")
        tree = _replaced(tree, key.split("."), _parse(value, place, lambda where, mark: where), place)
    return ConfigFile(tree)


def dump_config(config: Config) -> str:
    """The whole configuration as YAML, defaults included; reading it gives an equal one."""
    # a section that isn't there is left out; within one, null may differ from the default
    sections = {key: _plain(value) for key, value in asdict(config).items() if value is not None}
    dumped: str = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    return dumped


def _plain(value: Any) -> Any:
    """Tuples as lists."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# ---------------------------------------------------------------- YAML to entries


def _line(name: str, mark: yaml.Mark) -> str:
    return f"{name}:{mark.line + 1}"


def _parse(text: str, name: str, place: Any) -> Entry:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        return Entry(None, f"{name}:1") if node is None else _convert(node, name, place)
    except yaml.MarkedYAMLError as error:
        # what was never closed is found at the end of the file, but stands where it was opened
        open_ended = error.context_mark and "end of stream" in (error.problem or "")
        mark = error.context_mark if open_ended else error.problem_mark
        where = place(name, mark) if mark else name
        raise SettingsError(f"{where}: not YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not YAML ({str(error).splitlines()[0]})") from None
    except RecursionError:
        raise SettingsError(f"{name}: something holds itself, or is nested too deeply") from None


def _convert(node: yaml.Node, name: str, place: Any) -> Entry:
    where = place(name, node.start_mark)
    if isinstance(node, yaml.MappingNode):
        return Entry(_mapping(node, name, place), where)
    if isinstance(node, yaml.SequenceNode):
        return Entry([_convert(item, name, place) for item in node.value], where)
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        number = _EXPONENT.fullmatch(node.value) and node.style is None
        return Entry(float(node.value) if number else node.value, where)
    try:
        return Entry(yaml.SafeLoader("").construct_object(node), where)
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsError(f"{where}: {str(error).splitlines()[0]}") from None


def _mapping(node: yaml.MappingNode, name: str, place: Any) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for key, value in node.value:
        where = place(name, key.start_mark)
        if not isinstance(key, yaml.ScalarNode):
            raise SettingsError(f"{where}: a key must be a word")
        if key.value in found:
            raise SettingsError(f"{where}: {key.value}: stands here a second time")
        entry = _convert(value, name, place)
        # a mapping or list begins below its key, and the key's line is the better one to name
        found[key.value] = Entry(entry.value, where)
    return found


def _entry(value: Any, place: str) -> Entry:
    if isinstance(value, Mapping):
        return Entry({str(key): _entry(item, place) for key, item in value.items()}, place)
    if isinstance(value, list | tuple):
        return Entry([_entry(item, place) for item in value], place)
    return Entry(value, place)


def _replaced(tree: Entry, keys: Sequence[str], new: Entry, place: str) -> Entry:
    """The tree with `new` at a path; what the path lacks is made."""
    if not keys:
        return new
    first, rest = keys[0], keys[1:]
    if isinstance(tree.value, list):
        if not first.isdecimal() or int(first) >= len(tree.value):
            raise SettingsError(f"{place}: {first} is no index of a list of {len(tree.value)}")
        items = list(tree.value)
        items[int(first)] = _replaced(items[int(first)], rest, new, place)
        return Entry(items, tree.place)
    known = tree.value if isinstance(tree.value, dict) else {}
    below = known.get(first, Entry({}, place))
    return Entry({**known, first: _replaced(below, rest, new, place)}, tree.place)


# ---------------------------------------------------------------- entries to dataclasses

Path_ = tuple[str, ...]


def _error(place: str, key: str, rule: str) -> SettingsError:
    return SettingsError(f"{place}: {key}: {rule}" if key else f"{place}: {rule}", setting=key)


class _Builder:
    """Makes values of declared types from entries.

    Args:
        places: filled with the place of every dotted key.
    """

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places

    def dataclass(self, cls: Any, entry: Entry, path: Path_) -> Any:
        """An instance of a dataclass from a mapping of its fields."""
        self.places[".".join(path)] = entry.place
        empty = entry.value is None  # a key whose values are all commented out
        values = {} if empty else self._expect(entry, path, dict, "keys with values")
        hints = get_type_hints(cls)
        for key, own in values.items():
            if key not in hints:
                raise self._unknown(own, (*path, key), list(hints))
        self._complete(cls, values, entry, path)
        made = {key: self.value(hints[key], own, (*path, key)) for key, own in values.items()}
        try:
            return cls(**made)
        except Invalid as error:
            key = ".".join((*path, error.key))
            raise _error(self._nearest(key), key, error.rule) from None

    def value(self, kind: Any, entry: Entry, path: Path_) -> Any:
        """A value of any type that the dataclasses use."""
        self.places[".".join(path)] = entry.place
        origin, arguments = get_origin(kind), get_args(kind)
        if is_dataclass(kind):
            return self.dataclass(kind, entry, path)
        if origin in (Union, UnionType):
            if entry.value is None:
                return None
            return self.value(next(k for k in arguments if k is not NoneType), entry, path)
        if origin is Literal:
            return self._choice(entry, path, arguments)
        if origin is tuple:
            return self._tuple(entry, path, arguments)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return self._dict(entry, path, *arguments)
        return self._scalar(kind, entry, path)

    def _scalar(self, kind: Any, entry: Entry, path: Path_) -> Any:
        if kind is Any:
            return _unwrapped(entry)
        names = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        value = entry.value
        if kind is float and type(value) is int:
            value = float(value) if abs(value) <= sys.float_info.max else inf
        if type(value) is not kind or (kind is float and not isfinite(value)):
            raise _error(entry.place, ".".join(path), f"must be {names[kind]}, is {_shown(entry)}")
        return value

    def _choice(self, entry: Entry, path: Path_, options: Sequence[str]) -> Any:
        if entry.value not in options:
            rule = f"must be one of {', '.join(options)}, is {_shown(entry)}"
            raise _error(entry.place, ".".join(path), rule + _did_you_mean(entry.value, options))
        return entry.value

    def _tuple(self, entry: Entry, path: Path_, kinds: Sequence[Any]) -> tuple[Any, ...]:
        items = self._expect(entry, path, list, "a list")
        if kinds[-1] is ...:
            kinds = [kinds[0]] * len(items)
        if len(items) != len(kinds):
            rule = f"must be a list of {len(kinds)}, has {len(items)}"
            raise _error(entry.place, ".".join(path), rule)
        pairs = zip(kinds, items, strict=True)
        return tuple(self.value(kind, item, (*path, str(i))) for i, (kind, item) in enumerate(pairs))

    def _dict(self, entry: Entry, path: Path_, key_kind: Any, kind: Any) -> dict[str, Any]:
        values = self._expect(entry, path, dict, "keys with values")
        for key, own in values.items():
            if get_origin(key_kind) is Literal and key not in get_args(key_kind):
                raise self._unknown(own, (*path, key), get_args(key_kind))
        return {key: self.value(kind, own, (*path, key)) for key, own in values.items()}

    def _expect(self, entry: Entry, path: Path_, kind: type, what: str) -> Any:
        if not isinstance(entry.value, kind):
            raise _error(entry.place, ".".join(path), f"must be {what}, is {_shown(entry)}")
        return entry.value

    def _complete(self, cls: Any, values: Mapping[str, Entry], entry: Entry, path: Path_) -> None:
        for one in fields(cls):
            required = one.default is MISSING and one.default_factory is MISSING
            if required and one.name not in values:
                raise _error(entry.place, ".".join(path), f"{one.name} is missing")

    def _unknown(self, entry: Entry, path: Path_, known: Sequence[str]) -> SettingsError:
        rule = "no such key" + _did_you_mean(path[-1], known, f"; there is {', '.join(known)}")
        return _error(entry.place, ".".join(path), rule)

    def _nearest(self, key: str) -> str:
        while key not in self.places:
            key = key.rpartition(".")[0]
        return self.places[key]


def _did_you_mean(word: Any, known: Sequence[str], otherwise: str = "") -> str:
    near = get_close_matches(str(word).lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else otherwise


def _shown(entry: Entry) -> str:
    names = {dict: "keys with values", list: "a list", NoneType: "empty"}
    value = entry.value
    return names.get(type(value), f"{value!r}" if isinstance(value, str) else str(value))


def _unwrapped(entry: Entry) -> Any:
    """The plain value of an entry and everything in it."""
    if isinstance(entry.value, dict):
        return {key: _unwrapped(item) for key, item in entry.value.items()}
    return [_unwrapped(item) for item in entry.value] if isinstance(entry.value, list) else entry.value

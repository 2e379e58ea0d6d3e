"""Read YAML or JSON as plain data with line numbers for error messages.

The line numbers come from PyYAML's node tree, which is searched only after an error.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from stemsplit.errors import SettingsError

Keys = tuple[str, ...]
Where = Callable[[yaml.Mark], str]

_STANDARD = "tag:yaml.org,2002:"
_LISTS = {_STANDARD + "seq": list, _STANDARD + "python/tuple": tuple}
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)")


class Exponential(str):
    """Unquoted text that is a number (1e-4) or a name (955717e8), depending on the field that it is for."""


@dataclass(frozen=True)
class Document:
    """Plain data of a file, with the line numbers of its values.

    Attributes:
        data: mappings, lists and scalars; `Exponential` for values that are a number or text by their field.
        name: name of the file in messages.
        node: root of its node tree, None for data that isn't from a file.
        changes: keys whose values come from elsewhere, each with its origin; the last one counts.
    """

    data: Any
    name: str
    node: yaml.Node | None = None
    changes: tuple[tuple[Keys, str], ...] = ()

    def error(self, keys: Keys, rule: str, hint: str | None = None) -> SettingsError:
        """Return the error for a value at `keys` that breaks a rule."""
        key = ".".join(keys)
        return SettingsError(": ".join(filter(None, (self.place(keys), key, rule))), setting=key, hint=hint)

    def place(self, keys: Keys) -> str:
        """Return file and line of a value, or of the nearest mapping around a missing one."""
        for changed, place in reversed(self.changes):
            if keys[: len(changed)] == changed:
                return place
        return self.name if self.node is None else f"{self.name}:{_line(self.node, keys)}"

    def changed(self, keys: Keys, value: Any, place: str) -> "Document":
        """Return the document with another value at `keys`, creating missing mappings on the way.

        Args:
            keys: the keys that lead to the value.
            value: plain data.
            place: origin of the value, for messages.

        Raises:
            SettingsError: a list has no such index.
        """
        data, depth = _changed(self.data, keys, value, place)
        return replace(self, data=data, changes=(*self.changes, (keys[:depth], place)))


def load(path: str | Path, name: str | None = None, *, foreign: bool = False) -> Document:
    """Read a file; `name` is its name in messages, and `foreign` is as for `parse`.

    Raises:
        SettingsError: the file can't be read, or isn't YAML.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: can't be read (it isn't text in UTF-8)", setting=str(path)) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise SettingsError(f"{path}: can't be read ({reason})", setting=str(path)) from None
    return parse(text, name or str(path), foreign=foreign)


def parse(text: str, name: str, *, numbered: bool = True, foreign: bool = False) -> Document:
    """Parse YAML text.

    Args:
        text: YAML, and so JSON too.
        name: its name in messages.
        numbered: whether messages have line numbers.
        foreign: allow repeated keys, which other projects' files may have; the last one counts.

    Raises:
        SettingsError: the text isn't YAML, a key is repeated, or a value contains itself.
    """

    def where(mark: yaml.Mark) -> str:
        return f"{name}:{mark.line + 1}" if numbered else name

    try:
        nothing = yaml.ScalarNode(_STANDARD + "null", "", yaml.Mark(name, 0, 0, 0, None, 0))
        node = _compose(text, name, where) or nothing
        return Document(_Plain(where, foreign).value(node), name, node if numbered else None)
    except RecursionError:
        raise SettingsError(f"{name}: something holds itself, or is nested too deeply") from None


def plain(value: Any) -> Any:
    """Return data in the types of YAML and JSON: lists in place of tuples, text in place of `Exponential`."""
    if isinstance(value, Exponential):
        return str(value)
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def with_section(text: str, name: str, section: str, entries: Mapping[str, Any]) -> str:
    """Return YAML text with other entries in a section; everything else stays, comments too.

    Text that isn't written with one key to a line, as JSON, is written anew.

    Args:
        text: YAML with a mapping, or nothing.
        name: its name in messages.
        section: key of the section, whose value is a mapping or nothing.
        entries: plain data by name.

    Raises:
        SettingsError: the text isn't YAML.
    """
    data = plain(parse(text, name).data) or {}
    before, wanted = data.get(section) or {}, {**data, section: plain(entries)}
    root = _compose(text, name, str)
    with suppress(SettingsError):  # of an alias whose anchor was removed
        found = _spliced(text, root, section, before, wanted[section])
        made = plain(parse(found, name).data) or {}
        if {**made, section: made.get(section) or {}} == wanted:
            return found
    return _dumped(wanted)


def _spliced(
    text: str, root: yaml.Node | None, section: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> str:
    """Return text with the lines of some entries replaced, removed and added."""
    lines = [*text.removesuffix("\n").split("\n")] if text else []
    pairs = root.value if isinstance(root, yaml.MappingNode) else ()
    key, body = next((pair for pair in pairs if pair[0].value == section), (None, None))
    known = body.value if isinstance(body, yaml.MappingNode) else []
    indent = known[0][0].start_mark.column if known else 2
    if key is None:
        lines.append(f"{section}:")
    place = 1 + max(map(_last_line, chain((key,), *known))) if key is not None else len(lines)
    added = {one: entry for one, entry in after.items() if one not in before}
    lines[place:place] = _indented(added, indent)
    for name, value in reversed(known):
        if after.get(name.value) != before.get(name.value):
            new = {name.value: after[name.value]} if name.value in after else {}
            last = max(name.start_mark.line, _last_line(value))
            lines[name.start_mark.line : last + 1] = _indented(new, indent)
    return "\n".join(lines) + "\n"


def _last_line(node: yaml.Node) -> int:
    """Return the line in which a value ends: a mapping's own end mark is behind the comments after it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style:
        parts = [part for one in node.value for part in (one if isinstance(one, tuple) else (one,))]
        return max(map(_last_line, parts), default=0)
    return int(node.end_mark.line) - (node.end_mark.column == 0)


def _indented(entries: Mapping[str, Any], columns: int) -> list[str]:
    lines = _dumped(entries).splitlines() if entries else []
    return [f"{' ' * columns}{line}" if line else line for line in lines]


def _dumped(data: Any) -> str:
    text: str = yaml.safe_dump(plain(data), sort_keys=False, allow_unicode=True)
    return text


def _changed(data: Any, keys: Keys, value: Any, place: str) -> tuple[Any, int]:
    """Return the changed data, and the number of keys after which it is new."""
    if not keys:
        return value, 0
    first, rest = keys[0], keys[1:]
    if isinstance(data, list):
        if not first.isdecimal() or int(first) >= len(data):
            raise SettingsError(f"{place}: {first} is no index of a list of {len(data)}")
        below, depth = _changed(data[int(first)], rest, value, place)
        return [*data[: int(first)], below, *data[int(first) + 1 :]], depth + 1
    known = data if isinstance(data, dict) else {}
    below, depth = _changed(known.get(first), rest, value, place)
    return {**known, first: below}, depth + 1 if first in known else 1


def _compose(text: str, name: str, where: Where) -> yaml.Node | None:
    with suppress(yaml.YAMLError, AttributeError):  # PyYAML may be built without libyaml
        return yaml.compose(text, Loader=yaml.CSafeLoader)
    try:
        return yaml.compose(text, Loader=yaml.SafeLoader)  # has better error messages
    except yaml.MarkedYAMLError as error:
        # an unclosed bracket is detected at the end of the file, but its opening line is more useful
        open_ended = error.context_mark and "end of stream" in (error.problem or "")
        mark = error.context_mark if open_ended else error.problem_mark
        raise SettingsError(f"{where(mark) if mark else name}: not YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{name}: not YAML ({str(error).splitlines()[0]})") from None


class _Plain:
    """Converter of YAML nodes to plain data; a node with several references is converted once."""

    def __init__(self, where: Where, foreign: bool) -> None:
        self.where, self.foreign = where, foreign
        self.made: dict[int, Any] = {}
        self.standard = yaml.SafeLoader("")

    def value(self, node: yaml.Node) -> Any:
        """Return a node's data."""
        if id(node) not in self.made:
            try:
                self.made[id(node)] = self._make(node)
            except (yaml.YAMLError, ValueError) as error:
                raise self._error(node, getattr(error, "problem", None) or str(error)) from None
        return self.made[id(node)]

    def _make(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode) and node.tag == _STANDARD + "map":
            self._require_words(node)
            self.standard.flatten_mapping(node)  # puts merged keys (<<) first
            return {key.value: self.value(value) for key, value in node.value}
        if node.tag in _LISTS:
            return _LISTS[node.tag](map(self.value, node.value))
        if not isinstance(node, yaml.ScalarNode):
            return self.standard.construct_undefined(node)
        if node.tag != _STANDARD + "str":
            return self.standard.construct_object(node)
        ambiguous = not node.style and _EXPONENT.fullmatch(node.value)
        return Exponential(node.value) if ambiguous else node.value

    def _require_words(self, node: yaml.MappingNode) -> None:
        found = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise self._error(key, "a key must be a word")
            if key.value in found and not self.foreign:
                raise self._error(key, f"{key.value}: is defined a second time")
            found.add(key.value)

    def _error(self, node: yaml.Node, rule: str) -> SettingsError:
        return SettingsError(f"{self.where(node.start_mark)}: {rule}")


def _line(node: yaml.Node, keys: Keys) -> int:
    """Return the line of the value at `keys`, or of the nearest mapping around a missing one."""
    line = node.start_mark.line
    for key in keys:
        if (below := _below(node, key)) is None:
            break
        line, node = below
    return int(line) + 1


def _below(node: yaml.Node, key: str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.SequenceNode) and key.isdecimal() and int(key) < len(node.value):
        return node.value[int(key)].start_mark.line, node.value[int(key)]
    if isinstance(node, yaml.MappingNode):
        for name, value in reversed(node.value):
            if name.value == key:  # the line of the key, because a nested value begins below it
                return name.start_mark.line, value
    return None

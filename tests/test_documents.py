"""Plain data from YAML and JSON, with line numbers."""

import re
from pathlib import Path

import pytest
import yaml

from stemsplit.documents import Document, load, parse, plain, with_section
from stemsplit.errors import SettingsError

TEXT = """\
# a comment
base: &base
  rate: 44100
  names: [a,
    b]
other:
  <<: *base
  rate: 8000
"""


def complaint(text: str, **how: bool) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(text, "f.yaml", **how)
    return caught.value.reason


def test_keys_are_text_and_merged_keys_count_less() -> None:
    document = parse(TEXT + "3: [1, 2.5, yes, null, '4']\n", "f.yaml")
    assert document.data["other"] == {"rate": 8000, "names": ["a", "b"]}
    assert document.data["3"] == [1, 2.5, True, None, "4"]


def test_several_mappings_are_merged_the_first_counting_most() -> None:
    text = "a: &a {x: 1}\nb: &b {x: 2, y: 2}\nc: {<<: [*a, *b], z: 3}\n"
    assert parse(text, "f").data["c"] == {"x": 1, "y": 2, "z": 3} == yaml.safe_load(text)["c"]
    assert parse(text, "f").place(("c", "y")) == "f:2"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ("", 2),
        ("base", 2),
        ("base.names.1", 5),
        ("base.names.7", 4),
        ("base.bogus", 2),
        ("other.rate", 8),
        ("other.names", 4),
        ("other.names.1", 5),
    ],
)
def test_places(keys: str, line: int) -> None:
    assert parse(TEXT, "f.yaml").place(tuple(keys.split(".")) if keys else ()) == f"f.yaml:{line}"


def test_data_of_no_file_has_no_lines() -> None:
    assert Document({"a": 1}, "here").error(("a",), "is bad").reason == "here: a: is bad"
    assert parse("", "f.yaml").error((), "is bad").reason == "f.yaml:1: is bad"


def test_json_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\ufeff{"a": [1, 2e3, "\\u00e9", null, true],\n "b": {}}')
    document = load(tmp_path / "a.json", "a.json")
    assert document.data == {"a": [1, "2e3", "é", None, True], "b": {}}
    assert document.place(("b",)) == "a.json:2"


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="missing.yaml: can't be read"):
        load(tmp_path / "missing.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "f.yaml:2: a: is defined a second time"),
        ("a: {b: 1,\n b: 2}\n", "f.yaml:2: b: is defined a second time"),
        ("? [a]\n: 1\n", "f.yaml:1: a key must be a word"),
        ("a: 1\nb: !!python/name:os.system ''\n", "f.yaml:2: could not determine a constructor for the tag"),
        ("a: !!python/object/apply:os.system [true]\n", "f.yaml:1: could not determine a cons"),
        ("a: !!set {b}\n", "f.yaml:1: could not determine a constructor for the tag"),
        ("b: 1\na: {<<: 3}\n", "f.yaml:2: expected a mapping or list of mappings for merging"),
        ("a: 1\nb: 2024-13-01\n", "f.yaml:2: month must be in 1..12"),
        ("a: &a {b: *a}\n", "f.yaml: something holds itself"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not YAML (but found another document)"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    assert complaint(text).startswith(said)
    assert complaint(text, numbered=False).startswith(re.sub(r"^f.yaml:\d", "f.yaml", said))


def test_the_same_without_libyaml(monkeypatch: pytest.MonkeyPatch) -> None:
    fast = parse(TEXT, "f.yaml")
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    slow = parse(TEXT, "f.yaml")
    assert slow.data == fast.data and slow.place(("other", "names")) == fast.place(("other", "names"))


def test_files_of_other_projects_may_repeat_keys_and_hold_tuples() -> None:
    text = "a: !!python/tuple [1, [2]]\na: !!python/tuple\n- 2\n"
    assert parse(text, "f", foreign=True).data == {"a": (2,)}
    assert plain({"a": ((1, 2), {"b": (3,)})}) == {"a": [[1, 2], {"b": [3]}]}


def test_a_repetition_of_repetitions_is_made_once() -> None:
    text = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}]\n" for i in range(60))
    found = parse(text, "f").data["a60"]
    assert found[0] is found[1]


def test_changed_values_name_their_own_place() -> None:
    document = (
        parse(TEXT, "f.yaml")
        .changed(("other", "new", "deep"), 3, "--set x")
        .changed(("base", "names", "0"), "c", "--set y")
    )
    assert document.data["other"]["new"] == {"deep": 3} and document.data["base"]["names"] == ["c", "b"]
    assert document.place(("other", "new")) == "--set x" and document.place(("other",)) == "f.yaml:6"
    assert document.place(("base", "names", "0")) == "--set y"
    with pytest.raises(SettingsError, match="here: 2 is no index of a list of 2"):
        document.changed(("base", "names", "2"), 0, "here")


COMMENTED = """\
# mine
models:
  # the first
  a: {x: 1}  # in one line
  b:
    note: |
      long
      text
  # the second
  c:
    list:
    - 1
  # the end

other: 1  # and this
"""


@pytest.mark.parametrize("with_libyaml", [True, False])
def test_other_entries_leave_the_comments(with_libyaml: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_libyaml:
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    entries = plain(parse(COMMENTED, "f").data["models"])
    assert with_section(COMMENTED, "f", "models", entries) == COMMENTED
    less = {name: entry for name, entry in entries.items() if name != "b"}
    removed = COMMENTED.replace("  b:\n    note: |\n      long\n      text\n", "")
    assert with_section(COMMENTED, "f", "models", less) == removed
    added = COMMENTED.replace("    - 1\n", "    - 1\n  d:\n    y:\n    - 2\n")
    assert with_section(COMMENTED, "f", "models", {**entries, "d": {"y": [2]}}) == added
    changed = COMMENTED.replace("  a: {x: 1}  # in one line\n", "  a:\n    x: 2\n")
    assert with_section(COMMENTED, "f", "models", {**entries, "a": {"x": 2}}) == changed


@pytest.mark.parametrize(
    "text",
    [
        *("", "# nothing\n", "---\n", "null\n", "models:", "models: {}\n", "models: {b: {x: 1}}"),
        '{"models": {"b": {"x": 1}}}',
        "models:\n  b: &b {x: 1}\n  c: *b\n",
        "other: &o {b: {x: 1}}\nmodels:\n  <<: *o\n",
        "models:\n    b:\n        x: [1,\n  2]\n# end",
    ],
)
def test_an_entry_is_added_to_and_removed_from_any_text(text: str) -> None:
    before = plain(parse(text, "f").data) or {}
    models = before.get("models") or {}
    for wanted in ({**models, "a": {"y": 2}}, {"c": {"x": 1}}, {}):
        found = plain(parse(with_section(text, "f", "models", wanted), "f").data) or {}
        assert {**found, "models": found.get("models") or {}} == {**before, "models": wanted}

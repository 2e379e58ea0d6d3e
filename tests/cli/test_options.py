"""Options made from the fields of the settings, and settings made from the options' values."""

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import click
import pytest
from click.core import ParameterSource

import stemsplit
from stemsplit.cli.main import COMMANDS, main
from stemsplit.cli.options import FIELDS, setting
from stemsplit.cli.separate_options import OPTIONS
from stemsplit.fields import flag_of
from stemsplit.settings import Request

PACKAGE = Path(stemsplit.__file__).parent
FIELD = '    wetness: float = option(0.25, "Amount of water, in litres.")\n'
SCRIPT = """
import json, os, sys
import click
from stemsplit.cli.separate import _request, separate

def wetness(*arguments):
    return _request(separate.make_context("separate", ["a.wav", *arguments]).params).chunks.wetness

found = [wetness(), wetness("--wetness", "2")]
os.environ["STEMSPLIT_WETNESS"] = "3"
found.append(wetness())
help = separate.get_help(click.Context(separate))
heavy = [name for name in ("torch", "numpy", "soundfile", "av") if name in sys.modules]
print(json.dumps({"found": found, "help": " ".join(help.split()), "heavy": heavy}))
"""


def test_one_line_in_the_settings_makes_an_option(tmp_path: Path) -> None:
    copy = shutil.copytree(
        PACKAGE, tmp_path / "stemsplit", ignore=shutil.ignore_patterns("bundled", "__pycache__")
    )
    text, before = (copy / "settings.py").read_text(), "    tta: bool = option("
    assert text.count(before) == 1
    (copy / "settings.py").write_text(text.replace(before, FIELD + before))
    command = [sys.executable, "-c", SCRIPT]
    ran = json.loads(subprocess.run(command, cwd=tmp_path, check=True, capture_output=True).stdout)
    assert ran["found"] == [0.25, 2.0, 3.0]
    assert "--wetness FLOAT Amount of water, in litres. [default: 0.25]" in ran["help"]
    assert ran["heavy"] == []


def leaves(cls: Any) -> Iterator[str]:
    for one in fields(cls):
        if is_dataclass(one.type):
            yield from leaves(one.type)
        else:
            yield one.name


def test_the_names_of_fields_are_each_used_once() -> None:
    names = list(leaves(Request))
    assert len(set(names)) == len(names)
    # of -m, of --quality, and of what `tune` recorded
    assert set(names) - set(FIELDS) == {"others", "reduced", "channels_last"}


def test_the_command_has_every_field_once() -> None:
    names = [option.name for option in OPTIONS]
    assert len(set(names)) == len(names)
    assert set(FIELDS) <= set(names)


def options() -> Iterator[tuple[str, click.Command, click.Option]]:
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        inner = list(command.commands.items()) if isinstance(command, click.Group) else []
        for title, one in [(name, command), *((f"{name} {sub}", one) for sub, one in inner)]:
            assert one is not None
            yield from ((title, one, each) for each in one.params if isinstance(each, click.Option))


ALL = [pytest.param(command, option, id=f"{name} {option.opts[-1]}") for name, command, option in options()]


@pytest.mark.parametrize(("command", "option"), ALL)
def test_the_help_shows_every_default(command: click.Command, option: click.Option) -> None:
    assert option.help
    made = option.envvar and FIELDS.get(option.name or "")
    declared, default = (made[1], made[0].default) if made else (None, option.default)
    flags, text = option.get_help_record(click.Context(command)) or ("", "")
    shown = text.partition("[default: ")[2].removesuffix("]")
    if declared and declared.default:
        assert shown == declared.default
    elif default is True:
        assert f"--{shown} / --no-{shown}" in flags
    elif isinstance(default, (str, int)) and default is not False:
        assert shown == str(default)
    else:
        assert not shown and not (declared and default is None), "None says nothing"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("shifts", "0"),
        ("jobs", "1"),
        ("device", "auto"),
        ("tags", "tags"),
        ("stems", "all"),
        ("shard", "1/1"),
    ],
)
def test_defaults_in_words(name: str, shown: str) -> None:
    assert (setting(name).help or "").endswith(f" [default: {shown}]")


SAMPLES = {
    "STEM=NAME|PATH": "vocals=a model",
    "DB": "50",
    "NAME=A+B": "band=drums+bass",
    "W,W,...": "2,1",
    "I/N": "2/3",
    "TIME": "1:23.5",
    "RATE": "192k",
    "keep|HZ": "48000",
    "auto|N": "3",
    "N": "3",
    "S": "7.5",
    "F": "0.5",
    "K": "2",
    "G": "0.5",
}


@pytest.mark.parametrize(("command", "option"), [each for each in ALL if each.values[1].envvar])
def test_the_environment_sets_every_option(
    command: click.Command, option: click.Option, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert option.envvar == "STEMSPLIT_" + _long(option).upper().replace("-", "_")
    choices = getattr(option.type, "choices", ("a=b" if "=" in (option.metavar or "") else "some/thing",))
    sample = "0" if option.default is True else "1" if option.is_flag else str(choices[-1])
    monkeypatch.setenv(str(option.envvar), SAMPLES.get(option.metavar or "", sample))
    context = click.Context(command)
    with context:
        option.handle_parse_result(context, {}, [])
    assert context.get_parameter_source(option.name or "") is ParameterSource.ENVIRONMENT
    assert context.params[option.name or ""] not in (None, (), option.default)


def _long(option: click.Option) -> str:
    return next(name for name in option.opts if name.startswith("--"))[2:]


def test_no_default_is_written_into_a_help_by_hand() -> None:
    found = [
        f"{path.name}:{node.lineno}"
        for path in [*(PACKAGE / "cli").glob("*.py"), PACKAGE / "settings.py"]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and "[default" in str(node.value)
    ]
    assert [place.partition(":")[0] for place in found] == ["options.py"], found


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("segment_s", ["--segment"]),
        ("if_exists", ["--if-exists"]),
        ("stems", ["-s", "--stem"]),
        ("tags", ["--tags"]),
        ("sequential", ["--sequential"]),
    ],
)
def test_flags_by_convention_and_by_declaration(name: str, flags: list[str]) -> None:
    assert setting(name).opts == flags
    assert flag_of(FIELDS[name][0]).partition("/")[0] == flags[-1]
    assert setting(name).name == name


def read(name: str, *texts: str) -> Any:
    option = setting(name)
    command = click.Command("any", params=[option])
    arguments = [part for text in texts for part in (option.opts[-1], text)]
    return command.make_context("any", arguments).params[name]


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("channels", ["2"], 2),
        ("channels", ["each"], "each"),
        ("sample_rate", ["keep"], "keep"),
        ("sample_rate", ["48000"], 48000),
        ("batch_size", ["auto"], None),
        ("weights", ["1,2", "3,4"], (3.0, 4.0)),
        ("stems", ["a, b", "b", "c"], ("a", "b", "c")),
        ("mixes", ["a=b+c", "d=e"], (("a", ("b", "c")), ("d", ("e",)))),
        ("then", ["a=b"], (("a", "b"),)),
        ("include", ["*.wav", "*.mp3"], ("*.wav", "*.mp3")),
        ("include", [], ()),
        ("overlap", [], None),
    ],
)
def test_values_are_those_of_the_fields(name: str, texts: list[str], value: object) -> None:
    assert read(name, *texts) == value

"""README, changelog and help agree with the code."""

import re
from pathlib import Path

import click
import pytest

import stemsplit
from stemsplit.cli.main import COMMANDS, main
from stemsplit.hub.registry import list_models

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def commands() -> list[tuple[str, click.Command]]:
    context = click.Context(main)
    found = [(name, main.get_command(context, name)) for name in COMMANDS]
    inner = [
        (f"{name} {sub}", command)
        for name, group in found
        if isinstance(group, click.Group)
        for sub, command in group.commands.items()
    ]
    return [(name, command) for name, command in [*found, *inner] if command is not None]


@pytest.mark.parametrize(("name", "command"), commands(), ids=lambda value: str(value))
def test_every_command_has_help_and_an_example(name: str, command: click.Command) -> None:
    assert command.help
    assert f"stemsplit {name.split()[0]}" in command.help or name == "separate", "no example in the help"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.opts[0]} has no help"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_a_place_in_the_readme(name: str) -> None:
    assert f"stemsplit {name}" in README or name == "separate"


def test_every_option_that_the_readme_shows_exists() -> None:
    known = {opt for _, command in commands() for p in command.params for opt in (*p.opts, *p.secondary_opts)}
    known |= {"--help", "--version"}
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            for call in re.findall(r"(?<![\w/])stemsplit ([^|#>]*)", line):
                for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", " " + call):
                    assert option in known, f"{option} in {line!r}"


def test_the_changelog_starts_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == stemsplit.__version__


def test_the_readme_sets_up_with_two_commands() -> None:
    for mark in ("<!-- fresh:run -->", "<!-- fresh:test -->"):
        assert README.count(mark) == 1


def test_the_readme_lists_every_model_with_its_licence() -> None:
    table = README[README.index("## Models") : README.index("¹ The code")]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    for spec in list_models():
        short = "_" + spec.name.removeprefix("repro_mdx_a_")
        found = [row for row in rows if f"`{spec.name}`" in row or f"`{short}`" in row]
        assert len(found) == 1, spec.name
        assert spec.license.replace("CC-BY-NC-SA-", "CC BY-NC-SA ") in found[0]
        if spec.scores and spec.scores[0].all:
            assert f"{spec.scores[0].all:.2f} dB {spec.scores[0].metric}" in found[0]

"""Options that exclude each other, typed or as environment variables."""

from dataclasses import fields

import pytest

from stemsplit.cli.exclusive import EXCLUSIVE, Exclusive
from stemsplit.cli.separate import _request, separate
from stemsplit.cli.separate_options import OPTIONS
from stemsplit.settings import LAYOUTS, Request, StemSettings
from tests.cli.conftest import Shell

TYPED_FIRST = [
    ("--duration 1", {"END": "3"}, "end_s", 1.0),
    ("--end 3", {"DURATION": "1"}, "end_s", 3.0),
    ("--karaoke", {"STEM": "vocals", "REST": "1", "MIX": "a=drums+bass"}, "karaoke", True),
    ("-s vocals", {"KARAOKE": "1", "KARAOKE_LEAD": "1"}, "stems", ("vocals",)),
    ("-s vocals --rest", {"KARAOKE": "1"}, "rest", True),
    ("-s vocals", {"REST": "1"}, "rest", True),
    ("--mix a=drums+bass", {"KARAOKE": "1"}, "mixes", (("a", ("drums", "bass")),)),
    ("--layout demucs", {"TEMPLATE": "{name}-{stem}.{ext}"}, "template", LAYOUTS["demucs"]),
    ("--template {name}-{stem}.{ext}", {"LAYOUT": "demucs"}, "template", "{name}-{stem}.{ext}"),
    ("-m tiny", {"KARAOKE_LEAD": "1"}, "model", "tiny"),
    ("--karaoke-lead", {"MODEL": "tiny", "KARAOKE": "1", "STEM": "bass"}, "model", "karaoke_lead"),
    ("--mux -s vocals", {"START": "1", "DURATION": "1"}, "mux", True),
    ("--end 3", {"MUX": "1"}, "end_s", 3.0),
]


def value_of(request: Request, name: str) -> object:
    parts = (request.model, request.stems, request.batch)
    return next(getattr(part, name) for part in parts if name in {one.name for one in fields(part)})


@pytest.mark.parametrize(("typed", "variables", "name", "value"), TYPED_FIRST)
def test_what_is_typed_comes_before_the_environment(
    typed: str, variables: dict[str, str], name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, text in variables.items():
        monkeypatch.setenv(f"STEMSPLIT_{variable}", text)
    context = separate.make_context("stemsplit", ["a.wav", *typed.split()])
    assert value_of(_request(context.params), name) == value


def test_karaoke_leaves_no_stem_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSPLIT_STEM", "vocals")
    context = separate.make_context("stemsplit", ["a.wav", "--karaoke"])
    assert _request(context.params).stems == StemSettings(karaoke=True)


@pytest.mark.parametrize("group", EXCLUSIVE, ids=lambda group: group.one)
def test_two_that_are_typed_or_two_variables_are_refused(shell: Shell, group: Exclusive) -> None:
    named = {option.name: option for option in OPTIONS}
    samples = {"duration": "1", "end_s": "3", "start_s": "1", "mixes": "a=drums+bass", "layout": "uvr"}
    for other in group.others:
        pair = [named[group.one], named[other]]
        texts = ["" if one.is_flag else samples.get(one.name, "x") for one in pair]
        words = [word for one, text in zip(pair, texts, strict=True) for word in (one.opts[-1], text) if word]
        typed = shell("none.wav", *words)
        assert typed.code == 2
        assert f"error: {pair[0].opts[-1]} and {pair[1].opts[-1]} exclude each other" in typed.err
        env = {str(one.envvar): text or "1" for one, text in zip(pair, texts, strict=True)}
        ran = shell("none.wav", env=env)
        names = " and ".join(env)
        assert ran.code == 2 and f"error: the environment variables {names} exclude each other" in ran.err

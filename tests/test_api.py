"""The public `evaluate` accepts every kind of model and gives the scores of the command."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor, nn

from stemsplit import Recipe, Separator, Step, evaluate, separate_files
from stemsplit.api import Array
from stemsplit.cli.main import main
from stemsplit.engines import Threads
from stemsplit.errors import Cancelled, InputError, SettingsError, UnknownNameError
from stemsplit.events import Event, TrackDone
from stemsplit.settings import ChunkSettings, ComputeSettings

RATE = 8000
STEMS = ("bass", "drums", "other", "vocals")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEMSPLIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def songs(tmp_path: Path) -> Path:
    """Two songs of two seconds, `a` and `b`."""
    generator = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "songs" / name).mkdir(parents=True)
        for stem in STEMS:
            audio = 0.1 * generator.standard_normal((2 * RATE, 2))
            soundfile.write(tmp_path / "songs" / name / f"{stem}.wav", audio, RATE, subtype="FLOAT")
    return tmp_path / "songs"


def quarters(mix: Array, sample_rate: int) -> Mapping[str, Any]:
    assert sample_rate == RATE and mix.dtype == np.float32
    return dict.fromkeys(STEMS, mix / 4)


class Quarters(nn.Module):
    """The same as a module of one's own that the core can run."""

    stems, sample_rate, channels = STEMS, RATE, 2
    segment_samples, context_samples = 4000, 0
    normalise, overlap = False, None

    def forward(self, mix: Tensor) -> Tensor:
        return (mix / 4)[:, None].expand(-1, len(STEMS), -1, -1)


class Other:
    """Some other program's separator."""

    stems, sample_rate = STEMS, RATE

    def separate(self, source: Array, sample_rate: int) -> Mapping[str, Any]:
        return quarters(source, sample_rate)


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_functions_modules_and_separators_score_alike(songs: Path, jobs: int) -> None:
    models = {
        "function": quarters,
        "module": Quarters(),
        "separator": Separator(Quarters()),
        "other": Other(),
    }
    found = evaluate(songs, models, bss=False, jobs=jobs)
    assert found.exit_code == 0 and found.method == "function"
    summary = found.summary()
    assert list(summary) == ["function", "mixture", "module", "separator", "other"]
    for stem in STEMS:
        scores = [summary[name][stem]["usdr"] for name in models]
        # a quarter of the sum of four equals: 1 / ((3/4)² + 3/4²)
        assert scores == pytest.approx([10 * math.log10(4 / 3)] * 4, abs=0.1)
        assert scores[1:] == pytest.approx(scores[:1] * 3, abs=1e-4)


def test_the_function_gives_the_scores_of_the_command(songs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    events: list[Event] = []
    found = evaluate(songs, ["classic"], oracles=["irm"], only=["b"], callback=events.append)
    assert [(e.input, e.status) for e in events if isinstance(e, TrackDone)] == [("b", "done")]
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "--dataset", str(songs), *"-m classic --oracle irm --only b --json".split()])
    printed = capfd.readouterr()
    assert json.loads(printed.out) == json.loads(json.dumps(found.as_dict()))
    assert printed.err == "skipped b (done already)\n"


def test_a_recipe_is_scored(songs: Path) -> None:
    recipe = Recipe((Step((Quarters(), "classic"), weights=(1, 0)), Step(("classic",), input="vocals")))
    outputs = {stem: stem for stem in STEMS}
    whole = Recipe(recipe.steps[:1], outputs)
    both = evaluate(songs, {"recipe": whole, "module": Quarters()}, bss=False).summary()
    assert both["recipe"]["vocals"]["usdr"] == pytest.approx(both["module"]["vocals"]["usdr"], abs=1e-4)


def test_scores_of_a_separator_are_stored_by_its_settings(songs: Path) -> None:
    def reused(**arguments: Any) -> bool:
        separator = Separator("classic", **arguments)
        return evaluate(songs, separator, only=["a"], bss=False).outcomes[0].reused

    assert [reused(), reused()] == [False, True]
    assert not reused(stems=["vocals"])
    assert not reused(segment_s=1.0)
    assert evaluate(songs, "classic", only=["a"], bss=False).outcomes[0].reused
    assert not evaluate(songs, "classic", only=["a"], bss=False, fresh=True).outcomes[0].reused


def test_a_fingerprint_tells_all_that_the_stems_depend_on() -> None:
    def of(**arguments: Any) -> str | None:
        return Separator(**{"model": "classic", **arguments}).fingerprint

    assert of(model=Quarters()) is None
    assert of() == of(offline=True, compute=ComputeSettings(threads=1), callback=print)
    two = ["classic", "classic"]
    found = {of(), of(stems=["vocals"]), of(segment_s=1.0), of(chunks=ChunkSettings(overlap=0.5))}
    found |= {of(model=two), of(model=two, weights=[1, 2]), of(model=two, blend="median_wave")}
    assert len(found) == 7 and None not in found


def test_scores_of_unknown_weights_are_not_stored(songs: Path) -> None:
    for model in (quarters, quarters, Quarters(), Quarters()):
        assert not evaluate(songs, model, only=["a"], bss=False).outcomes[0].reused


def test_files_against_references(songs: Path) -> None:
    found = evaluate(songs, estimates=songs, bss=False, engine=Threads(2))
    assert found.method == str(songs)
    assert min(row["usdr"] for row in found.summary()[str(songs)].values()) > 90


def test_a_function_that_works_in_place_changes_no_baseline(songs: Path) -> None:
    def in_place(mix: Array, sample_rate: int) -> Mapping[str, Any]:
        mix *= 0.25
        return dict.fromkeys(STEMS, mix)

    scores = evaluate(songs, {"plain": quarters}, bss=False, oracles=["irm"]).summary()
    found = evaluate(songs, {"in place": in_place}, bss=False, oracles=["irm"]).summary()
    assert found == {"in place" if name == "plain" else name: row for name, row in scores.items()}


def test_no_model_has_the_name_of_a_baseline(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="mixture: is the name of a baseline"):
        evaluate(songs, {"mixture": quarters}, bss=False)

    def mixture(mix: Array, sample_rate: int) -> Mapping[str, Any]:
        return quarters(mix, sample_rate)

    summary = evaluate(songs, mixture, bss=False).summary()
    assert list(summary) == ["./mixture", "mixture"] and summary["mixture"] != summary["./mixture"]


def test_a_callback_cancels(songs: Path) -> None:
    with pytest.raises(Cancelled):
        evaluate(songs, quarters, bss=False, callback=lambda event: False)


def test_the_result_of_a_function_is_checked(songs: Path) -> None:
    def odd(mix: Array, sample_rate: int) -> Mapping[str, Any]:
        return {"vocals": torch.full((2, 9), torch.nan)}

    found = evaluate(songs, odd, bss=False)
    assert [outcome.failure and outcome.failure.message for outcome in found.outcomes] == [
        "samples must be finite numbers that float32 can hold"
    ] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"models": "clasic"}, UnknownNameError, "no model named 'clasic'"),
        ({"models": quarters, "estimates": "x"}, SettingsError, "give either models or estimates"),
        ({"models": quarters, "oracles": ["wiener"]}, UnknownNameError, "no oracle named 'wiener'"),
        ({"models": quarters, "jobs": 0}, SettingsError, "jobs 0: must be positive"),
        ({"models": [quarters, Quarters(), Quarters()]}, SettingsError, "two models are called Quarters"),
        (
            {"models": lambda mix, rate: {}, "jobs": 2},
            SettingsError,
            "the work can't be sent to other processes",
        ),
        ({"models": 5}, SettingsError, "5 is nothing that separates"),
        ({"models": []}, SettingsError, "models: is empty"),
        ({"models": {}}, SettingsError, "models: is empty"),
        ({"models": quarters, "jobs": "2"}, SettingsError, "jobs '2': must be a whole number"),
        ({"models": quarters, "only": "a"}, SettingsError, "only 'a': must be a tuple of text"),
        ({"models": quarters, "bss": 1}, SettingsError, "bss 1: must be true or false"),
        ({"models": quarters, "engine": 5}, SettingsError, "engine 5: must be an engine"),
        ({"models": quarters, "only": ["c"]}, InputError, "none of its 2 tracks is called c"),
    ],
)
def test_refusals(songs: Path, arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        evaluate(songs, **arguments)


@pytest.mark.parametrize(
    ("inputs", "arguments", "said"),
    [
        (None, {}, "inputs None: must be a path"),
        ([None], {}, "inputs None: must be a path"),
        ("", {}, "inputs: one of them is empty"),
        (["a.wav", ["b.wav"]], {}, r"inputs \['b.wav'\]: must be a path"),
        ("a.wav", {"request": None}, "request None: must be Request"),
        ("a.wav", {"engine": "threads"}, "engine threads: must be an engine"),
        ("a.wav", {"callback": 5}, "callback 5: must be a function or None"),
    ],
)
def test_files_must_be_paths(inputs: Any, arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=said):
        separate_files(inputs, **arguments)


def test_the_package_stays_light() -> None:
    code = (
        "import sys, stemsplit\n"
        "assert {'evaluate', 'check_songs'} <= set(dir(stemsplit))\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"

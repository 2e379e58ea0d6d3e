"""Recipes used like models: as a file, and by a name in the user's registry."""

import json

import numpy as np
import pytest
import soundfile

from tests.cli.conftest import Shell

RECIPE = """\
steps:
  - name: voices
    models: [tiny, classic]
    blend: max_fft
  - {name: again, models: [classic], input: voices.vocals}
  - {name: rest, models: [tiny], input: mix - voices.vocals}
outputs: [again.vocals, again.bass, voices.drums, rest.drums]
"""
STEMS = ["vocals.vocals", "vocals.bass", "drums", "no_vocals.drums"]


def add(shell: Shell, entries: str) -> None:
    path = shell.folder / "home/config/stemsplit/models.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(entries)


def entry(name: str, stems: str, recipe: str) -> str:
    indented = "".join(f"      {line}\n" for line in recipe.splitlines())
    rest = f"    stems: [{stems}]\n    sample_rate: 44100\n    license: MIT\n"
    return f"  {name}:\n{rest}    recipe:\n{indented}"


def test_a_file_is_a_model(shell: Shell) -> None:
    shell.write("a.wav", seconds=1.0)
    (shell.folder / "r.yaml").write_text(RECIPE)
    ran = shell("a.wav", "-m", "r.yaml", "--bit-depth", "32f", "--json")
    assert ran.code == 0, ran.err
    assert list(json.loads(ran.out)["tracks"][0]["outputs"]) == STEMS
    by_hand = ("-m", "tiny", "-m", "classic", "--blend", "max_fft", "--then", "vocals=classic")
    shell("a.wav", *by_hand, "-s", "vocals.bass,drums", "-o", "hand", "--bit-depth", "32f")
    for name in ("vocals.bass", "drums"):
        one, other = (
            soundfile.read(shell.folder / f"{folder}/a/{name}.wav")[0] for folder in ("stems", "hand")
        )
        assert np.array_equal(one, other), name
    assert "1 skipped" in shell("a.wav", "-m", "r.yaml", "--bit-depth", "32f").err
    (shell.folder / "r.yaml").write_text(RECIPE.replace("max_fft", "min_fft"))
    ran = shell("a.wav", "-m", "r.yaml", "--bit-depth", "32f")
    assert ran.code == 1 and "exists, and recipe was" in ran.err


def test_a_name_is_a_model(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.5)
    inner = "steps:\n- {models: [tiny, classic]}\n"
    nested = "steps:\n- {name: x, models: [both]}\noutputs: [x.vocals, x.bass]\n"
    add(
        shell,
        "models:\n"
        + entry("preset", ", ".join(STEMS), RECIPE)
        + entry("both", "drums, bass, other, vocals", inner)
        + entry("nested", "vocals, bass", nested),
    )
    ran = shell("a.wav", "-m", "preset", "-s", "vocals", "--rest", "--template", "{model}/{stem}.{ext}")
    assert ran.code == 0, ran.err
    names = ("no_vocals.bass", "no_vocals.vocals", "vocals.bass", "vocals.vocals")
    assert shell.files()[-4:] == [f"stems/preset/{name}.wav" for name in names]
    ran = shell("a.wav", "-m", "nested", "--then", "vocals=both", "-o", "n")
    assert ran.code == 0, ran.err
    assert [name for name in shell.files() if name.startswith("n/")] == [
        f"n/a/{name}.wav" for name in ("bass", "vocals.bass", "vocals.drums", "vocals.other", "vocals.vocals")
    ]
    listed = shell("models", "list").out.decode()
    assert "preset" in listed and "vocals.vocals vocals.bass drums no_vocals.drums" in listed
    told = json.loads(shell("models", "info", "nested", "--json").out)
    assert [one["name"] for one in told["files"]] == ["tiny.safetensors"] and told["cached"] is True
    assert told["recipe"][0]["models"] == ["both"]
    shown = shell("models", "info", "preset").out.decode()
    assert "recipe:        voices: tiny and classic on mix, blended by max_fft\n" in shown
    assert "               again: classic on voices.vocals\n" in shown
    assert "from tiny and classic, blended by avg_wave" in shell("a.wav", "-m", "both", "-n").err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("steps: []", "a recipe needs a step"),
        ("steps:\n- {models: tiny}", "r.yaml:2: steps.0.models: must be a list of models"),
        ("steps:\n- {models: [tiny], blned: avg_fft}", "blned: no such key; did you mean blend?"),
        ("steps:\n- {models: [tiny], blend: avg}", "no blend named 'avg'"),
        ("steps:\n- {models: [tiny], blend: ensemble_wav}", "ensemble_wav: needs the whole track in memory"),
        ("steps:\n- {models: [tiny, classic], weights: [1]}", "2 models need 2 weights"),
        ("steps:\n- {models: [tiny], input: voc.vocals}", "no stem named 'voc.vocals'"),
        ("steps:\n- {models: [nothing]}", "no model named 'nothing'"),
        ("steps:\n- {models: [r.yaml]}", "contains itself"),
        (
            "steps:\n- {models: [tiny]}\noutputs: {a: vocals, A: drums}",
            "two outputs of the recipe have one name",
        ),
        (
            "steps: [{name: v, models: [tiny]}]\noutputs: {../evil: v.vocals}",
            "r.yaml: has a stem '../evil', which can't be a file's name",
        ),
        ("steps: {", "r.yaml"),
    ],
)
def test_an_invalid_recipe_is_one_line(shell: Shell, text: str, said: str) -> None:
    shell.write("a.wav", seconds=0.2)
    (shell.folder / "r.yaml").write_text(text)
    ran = shell("a.wav", "-m", "r.yaml")
    assert ran.code == 2
    first, *hint = ran.err.splitlines()
    assert said in first and len(hint) < 2, ran.err
    assert shell.files() == ["a.wav", "r.yaml"]


def test_an_entry_shows_its_stems(shell: Shell) -> None:
    shell.write("a.wav", seconds=0.2)
    add(shell, "models:\n" + entry("p", "vocals, bass", "steps: [{models: [tiny]}]"))
    ran = shell("a.wav", "-m", "p")
    assert ran.code == 2
    assert "recipe p gives drums, bass, other, vocals, its entry says vocals, bass" in ran.err


@pytest.mark.parametrize("command", ["info", "download", "verify", "path"])
def test_no_command_takes_a_recipe_that_contains_itself(shell: Shell, command: str) -> None:
    inner, outer = "steps:\n- {models: [outer]}", "steps:\n- {models: [classic, inner]}"
    add(shell, "models:\n" + entry("inner", "vocals", inner) + entry("outer", "vocals", outer))
    ran = shell("models", command, "outer")
    assert (ran.code, ran.out) == (2, b"") and ran.err == "stemsplit: error: recipe outer contains itself\n"

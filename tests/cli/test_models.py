"""`stemsplit models list`, `info` and `import` with hundreds of names."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from stemsplit.hub.costs import cost_of
from stemsplit.hub.registry import all_models
from stemsplit.models import build
from tests.cli.conftest import Shell, cpu_s
from tests.hub.test_importing import mel_config, save_mel

PYTHON = {"PYTHONPATH": ":".join(sys.path)}


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return {
        "STEMSPLIT_CACHE": str(tmp_path / "cache"),
        "STEMSPLIT_REGISTRY": str(tmp_path / "models.yaml"),
        "HF_HUB_OFFLINE": "1",
    }


def test_the_default_list_is_short_and_says_how_many_more_there_are(
    shell: Shell, env: dict[str, str]
) -> None:
    done = shell("models", "list", env=env)
    lines = done.out.decode().splitlines()
    assert done.code == 0 and lines[1].startswith("htdemucs ") and len(lines) < 60
    assert lines[-1].endswith("more that other programs name: --all, or words to find")
    assert int(lines[-1].split()[0]) > 400


@pytest.mark.parametrize(
    ("options", "there", "absent"),
    [
        (("dereverb",), "dereverb_anvuew", "drumsep"),
        (("--task", "karaoke"), "karaoke_gabox", "dereverb_anvuew"),
        (("--family", "vr"), "1_HP-UVR", "dereverb_anvuew"),
        (("--license", "permissive"), "tiny", "htdemucs "),
        (("--license", "GPL-3.0"), "dereverb_room", "tiny"),
        (("--cached",), "tiny", "htdemucs "),
        (("UVR-DeEcho", "reverb"), "uvr_deecho_dereverb", "uvr_deecho "),
        (("--stem", "guitar"), "htdemucs_6s", "tiny"),
    ],
)
def test_searching(
    shell: Shell, env: dict[str, str], options: tuple[str, ...], there: str, absent: str
) -> None:
    done = shell("models", "list", *options, env=env)
    lines = done.out.decode().splitlines()
    assert done.code == 0
    assert any(line.startswith(there) for line in lines)
    assert not any(line.startswith(absent) for line in lines)


def test_a_list_by_score_has_one_metric_first(shell: Shell, env: dict[str, str]) -> None:
    done = shell("models", "list", "--by", "usdr", env=env)
    head, *lines = done.out.decode().splitlines()
    assert head.split()[4:] == ["uSDR", "CACHED"]
    place = head.index("uSDR")
    shown = [line[place : place + 6].strip() for line in lines if len(line) > place][:-1]
    values = [float(one) for one in shown if one]
    assert max(map(len, lines)) < 160
    assert len(values) >= 5 and shown[: len(values)] == [f"{one:.2f}" for one in sorted(values)[::-1]]
    assert lines[-1].startswith("uSDR: of all stems, on ") and "--by cSDR shows other" in lines[-1]
    listed = {spec.name: spec for spec in all_models()}
    for line, value in zip(lines, values, strict=False):
        on = {each.data: each.all for each in listed[line.split()[0]].scores if each.metric == "uSDR"}
        assert on[lines[-1].partition(", on ")[2].partition(" (")[0].partition(";")[0]] == value


def test_a_metric_that_nobody_published_has_no_column(shell: Shell, env: dict[str, str]) -> None:
    done = shell("models", "list", "--task", "vocals", "--by", "bleedless", env=env)
    head, *_, last = done.out.decode().splitlines()
    assert head.split() == ["NAME", "STEMS", "SIZE", "LICENCE", "CACHED"]
    assert last.startswith("no model here has a published bleedless; --by ")


def test_every_score_has_its_metric_its_test_set_and_its_source(shell: Shell, env: dict[str, str]) -> None:
    entries = json.loads(shell("models", "list", "--json", env=env).out)["models"]
    scores = [one for entry in entries for one in entry["scores"]]
    assert len(scores) > 80 and all(one["metric"] and one["data"] for one in scores)
    (viperx,) = [entry for entry in entries if entry["name"] == "bs_roformer_viperx"]
    assert {one["source"].partition(",")[0] for one in viperx["scores"]} >= {"audio-separator"}
    info = shell("models", "info", "scnet_xl_ihf", env=env).out.decode()
    assert "uSDR on MUSDB18-HQ test: all 10.08, drums 11.81" in info and "uSDR on Multisong: all 9.92" in info


def test_memory_and_speed_are_those_of_the_family(shell: Shell, env: dict[str, str]) -> None:
    info = shell("models", "info", "htdemucs", env=env).out.decode()
    cost = cost_of("htdemucs")
    assert cost is not None
    assert (
        f"memory:        about {cost.memory_mb} MB" in info
        and f"speed:         {cost.speed} on a CPU" in info
    )
    entry = json.loads(shell("models", "info", "htdemucs", "--json", env=env).out)
    assert (entry["memory_mb"], entry["speed"]) == (cost.memory_mb, cost.speed)
    for other in ("spleeter-2stems", "htdemucs_ft", "vocal_balanced"):  # not measured, a bag, an ensemble
        assert json.loads(shell("models", "info", other, "--json", env=env).out)["speed"] is None


def test_tasks_are_single_words(shell: Shell, env: dict[str, str]) -> None:
    entries = json.loads(shell("models", "list", "--json", "--all", env=env).out)["models"]
    tasks = {entry["task"] for entry in entries}
    assert tasks >= {"vocals", "instrumental", "karaoke", "drums", "dereverb", "denoise"}
    assert all(" " not in task for task in tasks)
    done = shell("models", "list", "--task", "drums", env=env)
    assert done.code == 0 and "drumsep_5" in done.out.decode()


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (("--task", "karaokee"), "did you mean karaoke?"),
        (("--family", "mdxnet"), "did you mean mdx_net?"),
        (("--stem", "guitarr"), "did you mean guitar?"),
    ],
)
def test_unknown_words_are_told(
    shell: Shell, env: dict[str, str], options: tuple[str, ...], hint: str
) -> None:
    done = shell("models", "list", *options, env=env)
    assert done.code == 2 and hint in done.err


@pytest.mark.parametrize(
    ("options", "asked"), [(("zz", "yy"), "zz yy"), (("--license", "Zlib"), "these options")]
)
def test_a_list_without_a_model_says_so(
    shell: Shell, env: dict[str, str], options: tuple[str, ...], asked: str
) -> None:
    done = shell("models", "list", *options, env=env)
    assert done.code == 0 and done.out == b""
    assert done.err == f"no model matches {asked}; stemsplit models list --all shows all\n"
    assert json.loads(shell("models", "list", *options, "--json", env=env).out)["models"] == []


def test_json_is_complete(shell: Shell, env: dict[str, str]) -> None:
    done = shell("models", "list", "--json", env=env)
    content = json.loads(done.out)
    assert content["schema"] == 3
    models = {model["name"]: model for model in content["models"]}
    assert len(models) == len(content["models"]) > 480
    keys = "name aliases family task stems license license_source verification sources runnable reason cached"
    for model in models.values():
        assert set(keys.split()) <= model.keys()
        assert model["runnable"] == (model["reason"] is None)
        without_weights = model["family"] in ("classic", "ica", "nmf", "repet", "repet_sim")
        assert not model["runnable"] or model["sources"] or without_weights or model["recipe"]
    assert models["tiny"]["cached"] and models["tiny"]["verification"] == "pinned"
    assert models["bs_roformer_sw"]["aliases"][0] == "BS-Roformer-SW.ckpt"
    assert sum(model["runnable"] for model in models.values()) >= 450


@pytest.mark.parametrize("options", [(), ("--all",), ("dereverb",)])
def test_the_list_is_quick(env: dict[str, str], options: tuple[str, ...]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "stemsplit", "models", "list", *options]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**env, "PYTHONPATH": ":".join(sys.path)}
    )
    assert done.returncode == 0, done.stderr[-500:]
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines()}
    assert "stemsplit.hub.registry" in loaded and not {"torch", "numpy", "soundfile", "av"} & loaded


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
def test_the_list_takes_as_long_as_a_few_imports(env: dict[str, str]) -> None:
    # It takes three times as long. A bound in seconds would measure the CPU.
    listing, imports = [], []
    for _ in range(5):
        imports.append(cpu_s("-c", "import click, yaml, urllib.request", env=env | PYTHON))
        listing.append(cpu_s("-m", "stemsplit", "models", "list", "--all", env=env | PYTHON))
    assert min(listing) < 4.5 * min(imports), (listing, imports)


def test_info_by_the_name_of_a_file(shell: Shell, env: dict[str, str]) -> None:
    done = shell("models", "info", "dereverb_bs_roformer_anvuew_sdr_22.5050.ckpt", env=env)
    text = done.out.decode()
    assert done.code == 0
    for said in ("dereverb_bs_anvuew", "GPL-3.0", "verification:", "https://huggingface.co/", "task:"):
        assert said in text


def test_a_refused_licence_ends_with_4(shell: Shell, env: dict[str, str], tmp_path: Path) -> None:
    done = shell("models", "download", "karaoke_gabox", "--license", "permissive", env=env)
    assert done.code == 4
    assert "refused by --license permissive: the licence of its weights is not stated" in done.err
    song = tmp_path / "song.wav"
    song.write_bytes(b"")
    done = shell(str(song), "-m", "htdemucs", env={**env, "STEMSPLIT_LICENSE": "MIT,ISC"})
    assert done.code == 4 and "--license MIT,ISC" in done.err


def test_import_tells_each_model(shell: Shell, env: dict[str, str], tmp_path: Path) -> None:
    save_mel(tmp_path / "models/good.ckpt")
    (tmp_path / "models/good.yaml").write_text(mel_config())
    (tmp_path / "models/bad.ckpt").write_bytes(b"damaged")
    done = shell("models", "import", str(tmp_path / "models"), env=env)
    assert done.code == 3
    assert "good: mel_band_roformer (vocals other), licence not stated, verification: " in done.err
    assert "bad.ckpt" in done.err
    assert shell("models", "import", str(tmp_path / "nothing"), env=env).code == 2
    listed = shell("models", "list", "good", env=env).out.decode()
    assert "good" in listed and "vocals other" in listed


def test_a_models_own_settings(shell: Shell, env: dict[str, str], tmp_path: Path) -> None:
    import numpy as np
    import soundfile

    from stemsplit.hub.checkpoints import save_package
    from tests.models.test_contract import FAMILIES

    arguments = next(given for family, given in FAMILIES if family == "mdx_net")
    torch.manual_seed(0)
    save_package(tmp_path / "mdx.safetensors", build("mdx_net", arguments).eval())
    noise = np.random.default_rng(0).normal(0, 0.1, (4000, 2))
    soundfile.write(tmp_path / "song.wav", noise, 44100, "FLOAT")
    args = (str(tmp_path / "song.wav"), "-m", str(tmp_path / "mdx.safetensors"), "--bit-depth", "32f")
    plain = shell(*args, "-o", str(tmp_path / "a"), env=env)
    tuned = shell(*args, "-o", str(tmp_path / "b"), "--model-option", "denoise=true", env=env)
    assert (plain.code, tuned.code) == (0, 0), tuned.err
    first, second = (next((tmp_path / place).rglob("*.wav")).read_bytes() for place in "ab")
    assert first != second
    unknown = shell(*args, "-o", str(tmp_path / "c"), "--model-option", "denoises=true", env=env)
    assert unknown.code == 2 and "did you mean denoise?" in unknown.err
    assert shell(*args, "--model-option", "denoise", env=env).code == 2


def test_verify_goes_on_after_a_model_that_isn_t_there(
    shell: Shell, env: dict[str, str], tmp_path: Path
) -> None:
    save_mel(tmp_path / "mel.ckpt")
    (tmp_path / "mel.yaml").write_text(mel_config())
    assert shell("models", "import", str(tmp_path / "mel.ckpt"), env=env).code == 0
    good = shell("models", "verify", "mel", env=env)
    assert good.code == 0 and good.err.endswith("mel.ckpt: good\n")
    (tmp_path / "mel.ckpt").write_bytes(b"damaged")
    ran = shell("models", "verify", "htdemucs", "mel", env=env)
    assert ran.code == 4 and "is not downloaded" in ran.err and ran.err.endswith("mel.ckpt: DAMAGED\n")


def test_import_names_the_file_of_each_error(shell: Shell, env: dict[str, str], tmp_path: Path) -> None:
    save_mel(tmp_path / "tiny.ckpt")
    (tmp_path / "tiny.yaml").write_text(mel_config())
    ran = shell("models", "import", str(tmp_path), env=env)
    assert ran.code == 2 and f"{tmp_path}/tiny.ckpt: there is a model named tiny already" in ran.err


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("https://host.example/net.ckpt", "stemsplit models import https://host.example/net.ckpt"),
        ("file:///net.ckpt", "give the file's path"),
    ],
)
def test_an_address_says_how_it_becomes_a_model(
    shell: Shell, env: dict[str, str], address: str, hint: str
) -> None:
    shell.write("a.wav", seconds=0.1)
    ran = shell("a.wav", "-m", address, env=env)
    assert ran.code == 4 and ran.err.splitlines() == [
        f"stemsplit: error: {address}: an address is no model",
        f"  hint: {hint}",
    ]

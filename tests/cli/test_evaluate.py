"""`stemsplit evaluate`: models on data sets, files against references, and findings about estimates."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from stemsplit import Separator
from stemsplit.evaluation import metrics
from stemsplit.hub.checkpoints import save_package
from stemsplit.models import build
from stemsplit.models.network import Network

Shell = Any
Audio = NDArray[np.float64]
Song = dict[str, Audio]

RATE, SECONDS = 8000, 2
STEMS = ("bass", "drums", "other", "vocals")
CLASSIC = ("--dataset", "songs", "-m", "classic")
QUICK = (*CLASSIC, "--no-bss")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


def song(number: int, seconds: float = SECONDS) -> Song:
    """Return four stems of noise of different colours, [T, 2]."""
    generator = np.random.default_rng(number)
    stems = {}
    for smoothness, stem in enumerate(STEMS):
        noise = 0.1 * generator.standard_normal((round(RATE * seconds), 2))
        for _ in range(smoothness):
            noise[1:] += 0.8 * noise[:-1]
        stems[stem] = 0.1 * noise / noise.std()
    return stems


def write(folder: Path, stems: Song, rate: int = RATE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, audio in stems.items():
        soundfile.write(folder / f"{stem}.wav", audio, rate, subtype="FLOAT")
    return folder


@pytest.fixture
def songs(shell: Shell) -> Path:
    """Two songs, `a` and `b`, without mixtures."""
    for number, name in enumerate("ab"):
        write(shell.folder / "songs" / name, song(number))
    return shell.folder / "songs"


def small() -> Network:
    """Return a network with random weights."""
    arguments = {"sources": list(STEMS), "channels": 4, "depth": 2, "lstm_layers": 0, "dconv_mode": 0}
    return build("demucs", arguments | {"resample": False, "samplerate": RATE, "segment": 0.5})


def table(out: bytes) -> dict[tuple[str, str, str], dict[str, str]]:
    """Return the cells of the printed table by track, method and stem."""
    header, *lines = (line.split() for line in out.decode().split("\n\nuSDR")[0].splitlines() if line)
    titles = " ".join(header[3:]).replace("median SDR", "median").split()
    return {tuple(line[:3]): dict(zip(titles, line[3:], strict=True)) for line in lines}  # type: ignore[misc]


# ---------------------------------------------------------------- a model on a data set


def test_tables(shell: Shell, songs: Path) -> None:
    ran = shell("evaluate", *CLASSIC)
    assert ran.code == 0
    cells = table(ran.out)
    assert list(cells)[:4] == [("a", "classic", stem) for stem in STEMS]
    assert {key[:2] for key in cells} == {(t, m) for t in ("a", "b", "all") for m in ("classic", "mixture")}
    assert list(cells["a", "classic", "bass"]) == "uSDR cSDR ISR SIR SAR SI-SDR median".split()
    by_hand = {}
    for number, name in enumerate("ab"):
        truth = {stem: torch.from_numpy(audio.T).float() for stem, audio in song(number).items()}
        mix = sum(truth.values())
        found = Separator("classic").separate(mix.numpy(), RATE)
        scores = [float(metrics.usdr(truth[s], torch.from_numpy(found[s]))) for s in STEMS]
        for stem, score in zip(STEMS, scores, strict=True):
            assert float(cells[name, "classic", stem]["uSDR"]) == pytest.approx(score, abs=0.006)
        by_hand[name] = scores
        # the error of the mixture is the other stems
        rest = sum(audio for stem, audio in truth.items() if stem != "drums")
        ratio = 10 * math.log10(truth["drums"].square().sum() / rest.square().sum())
        assert float(cells[name, "mixture", "drums"]["uSDR"]) == pytest.approx(ratio, abs=0.006)
    means = np.mean(list(by_hand.values()), axis=0)
    assert float(cells["all", "classic", "bass"]["uSDR"]) == pytest.approx(means[0], abs=0.006)
    assert float(cells["all", "classic", "mean"]["uSDR"]) == pytest.approx(means.mean(), abs=0.006)
    assert (
        "uSDR, SI-SDR: mean over 2 tracks; cSDR, ISR, SIR, SAR, median SDR: median over 2" in ran.out.decode()
    )
    assert [line.split(" (")[0] for line in ran.err.splitlines()] == ["a", "b"]


def test_one_track_has_one_table(shell: Shell, songs: Path) -> None:
    ran = shell("evaluate", *QUICK, "--only", "b")
    assert {key[0] for key in table(ran.out)} == {"b"}
    assert ("b", "classic", "mean") in table(ran.out)


def test_json_and_csv_have_the_same_numbers(shell: Shell, songs: Path) -> None:
    soundfile.write(songs / "b" / "bass.wav", np.zeros((SECONDS * RATE, 2)), RATE)
    ran = shell("evaluate", *CLASSIC, "--json", "--csv", "scores.csv")
    found = json.loads(ran.out)
    assert found["schema"] == 1 and found["method"] == "classic"
    assert [track["name"] for track in found["tracks"]] == ["a", "b"]
    names = ("usdr", "si_sdr", "median_sdr", "csdr", "isr", "sir", "sar")
    assert all(tuple(row) == names for track in found["tracks"] for row in track["stems"].values())
    silent = found["tracks"][1]
    assert set(silent["stems"]["bass"].values()) == {None}
    assert [finding["message"] for finding in silent["findings"]] == ["has a reference that is silent"]
    assert tuple(found["summary"]["stems"]) == STEMS
    with (shell.folder / "scores.csv").open(newline="") as lines:
        rows = {(r["track"], r["method"], r["stem"]): r for r in csv.DictReader(lines)}
    for track in found["tracks"]:
        for stem, row in track["stems"].items():
            cells = rows[track["name"], "classic", stem]
            assert [None if cells[n] == "" else float(cells[n]) for n in names] == [
                None if row[n] is None else pytest.approx(row[n], abs=1e-5) for n in names
            ]
    assert float(rows["", "classic", "mean"]["usdr"]) == pytest.approx(
        found["summary"]["mean"]["usdr"], abs=1e-5
    )


def test_metrics_that_are_asked_for(shell: Shell, songs: Path) -> None:
    ran = shell(
        "evaluate", *CLASSIC, "--metric", "fullness,sdr", "--metric", "log_wmse", "--json", "--csv", "x.csv"
    )
    found = json.loads(ran.out)
    names = ["sdr", "log_wmse", "fullness"]
    assert list(found["summary"]["stems"]["bass"]) == list(found["summary"]["over_songs"]) == names
    assert (shell.folder / "x.csv").read_text().splitlines()[0] == "scope,track,method,stem," + ",".join(
        names
    )
    ran = shell("evaluate", *CLASSIC, "--metric", "fullness,sdr,log_wmse")
    assert "SDR, log WMSE, fullness: mean over 2 tracks" in ran.out.decode()
    assert shell("evaluate", *CLASSIC, "--metric", "sdr", "--html", "x.html").code == 0
    assert (shell.folder / "x.html").read_text().count("<circle") == 2 * 2 * len(STEMS)  # with the mixture
    ran = shell("evaluate", *CLASSIC, "--metric", "fulness")
    assert ran.code == 2 and "no metric named 'fulness'" in ran.err and "did you mean fullness?" in ran.err


def test_a_verdict_on_the_first_of_several_models(shell: Shell, songs: Path) -> None:
    (shell.folder / "mine").mkdir()
    save_package(shell.folder / "mine/model.safetensors", small())
    ran = shell("evaluate", *CLASSIC, "-m", "mine", "--metric", "sdr")
    head, *lines = ran.out.decode().split("best other model of each stem?\n")[1].splitlines()
    assert head.split() == ["STEM", "METRIC", "BEST", "OTHER", "GAIN", "95", "%", "DOES", "IT", "PAY"]
    assert [line.split()[:3] for line in lines[: len(STEMS)]] == [[stem, "SDR", "mine"] for stem in STEMS]
    assert "best other" not in shell("evaluate", *CLASSIC, "--metric", "sdr").out.decode()


def test_an_ensemble_beside_its_members(shell: Shell, songs: Path) -> None:
    (shell.folder / "mine").mkdir()
    save_package(shell.folder / "mine/model.safetensors", small())
    recipe = "steps:\n- {models: [classic, mine/model.safetensors]}\n"
    (shell.folder / "blend.yaml").write_text(recipe)
    asked = ("evaluate", "--dataset", "songs", "-m", "blend.yaml", "--members", "--metric", "sdr")
    ran = shell(*asked, "--json", "--html", "x.html")
    assert ran.code == 0, ran.err
    summary = json.loads(ran.out)["summary"]
    assert [*summary["baselines"]] == ["mixture", "classic", "mine/model.safetensors"]
    verdict = {one["stem"]: one for one in summary["verdict"]}
    for stem in STEMS:
        scores = {name: rows[stem]["sdr"] for name, rows in summary["baselines"].items() if name != "mixture"}
        best = max(scores, key=lambda name: scores[name])
        one = verdict[stem]
        assert one["other"] == best and one["low"] <= one["gain"] <= one["high"]
        assert one["gain"] == pytest.approx(summary["stems"][stem]["sdr"] - scores[best])
        assert one["pays"] in ("yes", "no", "open")
    page = (shell.folder / "x.html").read_text()
    assert "Does blend.yaml pay" in page and page.count("does it pay") == 1
    ran = shell("evaluate", *CLASSIC, "--members")
    assert ran.code == 2 and "--members: classic isn't an ensemble of models" in ran.err


@pytest.mark.slow
def test_several_models_and_oracles_stand_beside_each_other(shell: Shell, songs: Path) -> None:
    (shell.folder / "mine").mkdir()
    save_package(shell.folder / "mine/model.safetensors", small())
    ran = shell(
        "evaluate", "--dataset", "songs", "-m", "mine", "-m", "classic", *("--oracle", "irm") * 2, "--json"
    )
    found = json.loads(ran.out)
    assert found["method"] == "mine"
    for part in (*found["tracks"], found["summary"]):
        assert list(part["baselines"]) == ["mixture", "irm", "classic"]
    alone = json.loads(shell("evaluate", *CLASSIC, "--json").out)
    assert found["summary"]["baselines"]["classic"] == alone["summary"]["stems"]
    means = {
        name: np.mean([row["usdr"] for row in rows.values()])
        for name, rows in found["summary"]["baselines"].items()
    }
    assert means["irm"] > means["mixture"] + 5
    assert ran.err.splitlines()[0].startswith("mine: a (")


def test_the_oracle_with_the_mixture_s_phase(shell: Shell, songs: Path) -> None:
    cells = table(shell("evaluate", *QUICK, "--oracle", "mixphase").out)
    assert (
        float(cells["all", "mixphase", "mean"]["uSDR"]) > float(cells["all", "mixture", "mean"]["uSDR"]) + 5
    )


def test_a_mixture_in_the_data_set_is_separated(shell: Shell, songs: Path) -> None:
    quiet = {"mixture": 0.5 * sum(song(0).values())}
    write(songs / "a", quiet)
    cells = table(shell("evaluate", *QUICK).out)
    truth = torch.from_numpy(song(0)["bass"].T).float()
    found = Separator("classic").separate(quiet["mixture"].T.astype(np.float32), RATE)["bass"]
    score = float(metrics.usdr(truth, torch.from_numpy(found)))
    assert float(cells["a", "classic", "bass"]["uSDR"]) == pytest.approx(score, abs=0.006)


@pytest.mark.parametrize("name", ["accompaniment", "band"])
def test_a_sum_beside_the_stems_changes_no_score(shell: Shell, songs: Path, name: str) -> None:
    before = json.loads(shell("evaluate", *QUICK, "--json").out)
    stems = song(0)
    write(songs / "a", {name: stems["bass"] + stems["drums"] + stems["other"]})
    ran = shell("evaluate", *QUICK, "--json")
    after = json.loads(ran.out)
    assert after["summary"] == before["summary"]
    how = "its samples are the sum of" if name == "band" else "by its name it holds"
    note = f"{name}.wav is left out: {how} bass, drums and other"
    assert [track["notes"] for track in after["tracks"]] == [[note], []]
    assert f"a: note: {note}" in shell("evaluate", *QUICK).out.decode()


def test_stems_that_a_model_does_not_make(shell: Shell, songs: Path) -> None:
    write(songs / "a", {"guitar": song(5)["vocals"]})
    ran = shell("evaluate", *QUICK, "--only", "a")
    assert ran.code == 0 and ("a", "classic", "guitar") not in table(ran.out.partition(b"\n\n")[0])
    assert ran.out.decode().splitlines()[-1] == "a: note: guitar counted as part of other"
    write(shell.folder / "odd" / "x", {"guitar": song(5)["bass"]})
    ran = shell("evaluate", "--dataset", "odd", "-m", "classic")
    assert ran.code == 1 and ran.out == b""
    said = "x: no stem is in both: the estimates are drums, bass, other, vocals, the references guitar"
    assert ran.err == f"stemsplit: error: {said}\n"


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg makes the file")
def test_a_stem_mp4(shell: Shell, songs: Path) -> None:
    write(songs / "a", {"mixture": sum(song(0).values())})
    order = ("mixture", "drums", "bass", "other", "vocals")
    inputs = [part for stem in order for part in ("-i", str(songs / "a" / f"{stem}.wav"))]
    maps = [part for stream in range(5) for part in ("-map", str(stream))]
    target = shell.folder / "packed" / "a.stem.mp4"
    target.parent.mkdir()
    subprocess.run(["ffmpeg", "-v", "error", *inputs, *maps, "-c:a", "alac", target], check=True)
    packed = table(shell("evaluate", "--dataset", "packed", "-m", "classic").out)
    plain = table(shell("evaluate", *CLASSIC, "--only", "a").out)
    assert packed.keys() == plain.keys()
    for key, row in plain.items():
        if "mixture" not in key:  # whose artifacts are rounding
            assert [float(x) for x in packed[key].values()] == pytest.approx(
                [float(x) for x in row.values()], abs=0.02
            )


# ---------------------------------------------------------------- again, in processes, interrupted


@pytest.mark.slow
def test_earlier_scores_are_reused(shell: Shell, songs: Path) -> None:
    first = shell("evaluate", *QUICK, "--json")
    second = shell("evaluate", *QUICK, "--json")
    assert second.out == first.out
    assert second.err.splitlines() == ["skipped a (done already)", "skipped b (done already)"]
    os.utime(songs / "b" / "bass.wav", ns=(1, 1))
    assert shell("evaluate", *QUICK).err.splitlines()[0] == "skipped a (done already)"
    for other in (
        ("--shifts", "1"),
        ("--overlap", "0.5"),
        ("--segment", "1"),
        ("--oracle", "irm"),
        ("--fresh",),
    ):
        assert "skipped" not in shell("evaluate", *QUICK, *other).err
    assert shell("evaluate", *QUICK).err.count("skipped") == 2


def test_a_killed_run_goes_on(shell: Shell, songs: Path) -> None:
    with shell.start("evaluate", *QUICK, "--progress", "json") as running:
        for line in running.stderr:
            if json.loads(line)["event"] == "track_done":
                break
        running.kill()
    assert "skipped a (done already)" in shell("evaluate", *QUICK).err


@pytest.mark.slow
def test_processes_find_the_same(shell: Shell, songs: Path) -> None:
    together = shell.process("evaluate", *CLASSIC, "-j", "2", "--json")
    assert together.code == 0
    assert sorted(line.split(" (")[0] for line in together.err.splitlines()) == ["a", "b"]
    alone = json.loads(shell("evaluate", *CLASSIC, "--fresh", "--json").out)
    assert json.loads(together.out) == alone


def children(process: int) -> list[int]:
    """Return the worker processes of a process, without Python's resource tracker."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == process and "spawn_main" in (stat.parent / "cmdline").read_text():
                found.append(int(stat.parent.name))
        except OSError:  # it has just ended
            continue
    return found


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def is_running(process: int) -> bool:
    try:
        return "(Z" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_nothing_is_left_running(shell: Shell, number: signal.Signals, code: int) -> None:
    for name in "ab":  # long enough never to be done
        write(shell.folder / "songs" / name, song(0, seconds=400))
    with shell.start("evaluate", *CLASSIC, "-j", "2", start_new_session=True) as running:
        until(lambda: len(children(running.pid)) == 2)
        workers = children(running.pid)
        # as a terminal does: to the whole group
        if number == signal.SIGINT:
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        err = running.communicate(timeout=60)[1].decode()
    assert running.returncode == code
    if number != signal.SIGKILL:  # after SIGKILL Python's resource tracker prints a warning
        assert err == {130: "stemsplit: interrupted\n", 143: "stemsplit: terminated\n"}[code]
    until(lambda: not any(map(is_running, workers)))


@posix
def test_ctrl_c(shell: Shell) -> None:
    write(shell.folder / "songs" / "a", song(0, seconds=400))
    with shell.start("evaluate", *CLASSIC, "--progress", "json") as running:
        assert json.loads(running.stderr.readline())["event"] == "track_start"
        running.send_signal(signal.SIGINT)
        *events, last = running.communicate(timeout=60)[1].decode().splitlines()
    assert (running.returncode, last) == (130, "stemsplit: interrupted")
    assert {json.loads(line)["event"] for line in events} <= {"progress"}  # from before the signal arrived


# ---------------------------------------------------------------- files against references


def test_what_separate_wrote_scores_as_the_model_does(shell: Shell, songs: Path) -> None:
    for number, name in enumerate("ab"):
        write(shell.folder / "mixes", {name: sum(song(number).values())})
    assert shell("mixes", "-m", "classic", "-o", "out", "--bit-depth", "32f").code == 0
    files = table(shell("evaluate", "songs", "out", "--no-bss").out)
    model = table(shell("evaluate", *QUICK).out)
    assert {(t, s): row for (t, m, s), row in files.items() if m == "out"} == {
        (t, s): row for (t, m, s), row in model.items() if m == "classic"
    }


def halved(audio: Audio) -> Audio:
    return audio[: len(audio) // 2]


# damage done to all stems, and the finding about the drums
HARM: dict[str, tuple[Callable[[Song], Song], str]] = {
    "late": (
        lambda stems: {n: np.pad(x, ((1000, 0), (0, 0)))[: len(x)] for n, x in stems.items()},
        "drums is 1000 samples (0.1250 s) too late (costs ",
    ),
    "scaled": (lambda stems: {n: 0.5 * x for n, x in stems.items()}, "drums is scaled by -6.0 dB (costs "),
    "cut": (lambda stems: {n: halved(x) for n, x in stems.items()}, "drums is 1.00 s too short"),
    "inverted": (lambda stems: {n: -x for n, x in stems.items()}, "drums has its polarity inverted (costs "),
    "silent": (lambda stems: {n: 0 * x for n, x in stems.items()}, "drums is silent"),
    "swapped": (
        lambda stems: {**stems, "drums": stems["vocals"], "vocals": stems["drums"]},
        "drums is in the estimate of vocals: are the stems in order? (costs ",
    ),
    "few": (lambda stems: {"drums": stems["drums"]}, "note: nothing estimates bass, other, vocals"),
}


@pytest.mark.parametrize("harm", HARM)
def test_wrong_estimates_are_reported(shell: Shell, songs: Path, harm: str) -> None:
    change, said = HARM[harm]
    noise = song(9)
    guess = {stem: audio + 0.1 * noise[stem] for stem, audio in song(0).items()}
    write(shell.folder / "guess", change(guess))
    ran = shell("evaluate", "songs/a", "guess", "--no-bss")
    assert ran.code == 0
    remarks = ran.out.decode().partition("\n\n")[2].splitlines()
    assert any(line.startswith(f"a: {said}") for line in remarks), remarks
    found = json.loads(shell("evaluate", "songs/a", "guess", "--no-bss", "--json").out)["tracks"][0]
    assert len(found["findings"]) + len(found["notes"]) == len(remarks)


def test_good_files_are_not_accused(shell: Shell, songs: Path) -> None:
    noise = song(9)
    write(shell.folder / "guess", {stem: audio + 0.3 * noise[stem] for stem, audio in song(0).items()})
    assert b"\n\n" not in shell("evaluate", "songs/a", "guess").out


def test_files_of_a_track_are_missing(shell: Shell, songs: Path) -> None:
    write(shell.folder / "out" / "a", song(0))
    write(shell.folder / "out" / "c", song(1))
    ran = shell("evaluate", "songs", "out", "--no-bss", "--json")
    assert ran.code == 3
    assert ran.err.splitlines()[-1] == "stemsplit: error: b: out: nothing named b"
    tracks = json.loads(ran.out)["tracks"]
    assert [track["error"] for track in tracks] == [None, {"code": 1, "message": "out: nothing named b"}]


@pytest.mark.parametrize("name", ["mixture", "irm"])
def test_a_folder_that_is_called_like_a_baseline(shell: Shell, songs: Path, name: str) -> None:
    write(shell.folder / name, song(0))
    found = json.loads(shell("evaluate", "songs/a", name, "--no-bss", "--oracle", "irm", "--json").out)
    assert found["method"] == f"./{name}" and found["summary"]["mean"]["usdr"] > 90
    assert list(found["summary"]["baselines"]) == ["mixture", "irm"]


# ---------------------------------------------------------------- failures


def test_a_broken_track_does_not_stop_the_others(shell: Shell, songs: Path) -> None:
    (songs / "a" / "drums.wav").write_text("no audio, but long enough to be looked at\n" * 9)
    ran = shell("evaluate", *QUICK)
    assert ran.code == 3
    assert {key[0] for key in table(ran.out)} == {"b"}
    lines = ran.err.splitlines()
    assert lines[0].startswith("b (") and len(lines) == 3
    assert lines[1].startswith("stemsplit: error: a: songs/a/drums.wav: ")
    assert lines[2].startswith("  hint: is it the right file")
    (songs / "b" / "drums.wav").write_bytes(b"")
    ran = shell("evaluate", *QUICK)
    assert (ran.code, ran.out) == (1, b"")


@posix
def test_names_that_are_not_utf_8(shell: Shell, songs: Path) -> None:
    (songs / "b").rename(os.fsdecode(os.fsencode(songs) + b"/caf\xe9"))
    ran = shell("evaluate", *QUICK, "--csv", "scores.csv")
    assert ran.code == 0, ran.err
    assert b"\ntrack,caf\xe9,classic,bass," in (shell.folder / "scores.csv").read_bytes()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_scores_are_printed_even_if_the_file_fails(shell: Shell, songs: Path) -> None:
    ran = shell("evaluate", *QUICK, "--csv", "/dev/full")
    assert ran.code == 5
    assert {key[0] for key in table(ran.out)} == {"a", "b", "all"}


BAD = [
    ((), "give a data set, or two folders to compare"),
    (("songs",), "give a data set, or two folders to compare"),
    (("songs", "songs", "songs"), "give a data set, or two folders to compare"),
    (("--dataset", "songs", "songs", "songs"), "--dataset DIR and REF EST exclude each other"),
    (
        ("songs", "songs", "-m", "classic"),
        "--model separates a --dataset; REF and EST are compared as they are",
    ),
    (("--dataset", "nowhere"), "nowhere: no such file or folder"),
    (("--dataset", "empty"), "empty: no multitrack found"),
    (("songs", "empty"), "empty: no multitrack found"),
    (("--dataset", "note.txt"), "note.txt: neither a manifest (.json, .csv) nor a .stem.mp4"),
    (("--dataset", "bad.json"), "bad.json: a manifest is {track: {stem: [file, …]}}"),
    ((*CLASSIC, "--metric", ""), "Invalid value for '--metric': no name is given"),
    ((*CLASSIC, "--metric", "sdr", "--metric", ","), "Invalid value for '--metric': no name is given"),
    ((*CLASSIC, "--only", "c*"), "songs: none of its 2 tracks is called c*"),
    (("--dataset", "songs", "-m", "clasic"), "no model named 'clasic'"),
    ((*CLASSIC, "--device", "abacus"), "--device abacus: "),
    ((*CLASSIC, "--overlap", "1"), "--overlap 1: must be from 0 to 0.99"),
    ((*CLASSIC, "--segment", "0"), "--segment 0.0: must be positive"),
    ((*CLASSIC, "--shifts", "-1"), "--shifts -1: must not be negative"),
    ((*CLASSIC, "--threads", "0"), "--threads 0: must be positive"),
    ((*CLASSIC, "-j", "0"), "'0' is not a whole number of at least 1"),
    ((*CLASSIC, "--oracle", "wiener"), "'wiener' is not one of 'irm', 'mixphase'"),
    ((*CLASSIC, "--csv", "nowhere/x.csv"), "--csv nowhere/x.csv: no such folder"),
    ((*CLASSIC, "--csv", "songs"), "--csv songs: is a folder"),
    ((*CLASSIC, "--csv", "x.csv", "--html", "./x.csv"), "--csv and --html would write the same file, x.csv"),
    ((*CLASSIC, "--metric", "csdr,sar", "--no-bss"), "--metric csdr,sar: nothing is left with --no-bss"),
    (("songs", "songs", "--members"), "--members is for a --dataset; REF and EST are compared as they are"),
    (("songs", "songs", "--overlap", "0.5"), "--overlap is for a --dataset"),
    (("songs", "songs", "--shifts", "1"), "--shifts is for a --dataset"),
    (("songs", "songs", "--segment", "5"), "--segment is for a --dataset"),
    (("songs", "songs", "--device", "cpu"), "--device is for a --dataset"),
    (("songs", "songs", "--precision", "fp32"), "--precision is for a --dataset"),
    (("songs", "songs", "--threads", "1"), "--threads is for a --dataset"),
    ((*CLASSIC, "--jsn"), "No such option '--jsn'"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(case[0])[-40:] or "none" for case in BAD])
def test_bad_input_is_one_line(shell: Shell, songs: Path, arguments: tuple[str, ...], said: str) -> None:
    (shell.folder / "empty").mkdir()
    (shell.folder / "note.txt").write_text("hello")
    (shell.folder / "bad.json").write_text("[]")
    ran = shell("evaluate", *arguments)
    lines = [line for line in ran.err.splitlines() if not line.startswith("  hint: ")]
    assert len(lines) == 1 and lines[0].startswith("stemsplit: error: ") and said in lines[0], ran.err
    assert (ran.code, ran.out) == (2, b"")


def test_the_environments_model_is_ignored_for_files(shell: Shell, songs: Path) -> None:
    ran = shell(
        "evaluate",
        "songs",
        "songs",
        "--no-bss",
        env={
            "STEMSPLIT_MODEL": "classic",
            "STEMSPLIT_DATASET": "x",
            "STEMSPLIT_OVERLAP": "0.5",
            "STEMSPLIT_DEVICE": "cpu",
        },
    )
    assert ran.code == 0
    ran = shell("evaluate", "--dataset", "songs", "--no-bss", env={"STEMSPLIT_MODEL": "a model"})
    assert ran.code == 2 and "a model" in ran.err


def test_progress_as_json(shell: Shell, songs: Path) -> None:
    ran = shell("evaluate", *QUICK, "--progress", "json")
    events = [json.loads(line) for line in ran.err.splitlines()]
    names = [event["event"] for event in events]
    assert list(dict.fromkeys(names)) == ["track_start", "progress", "track_done"]
    assert names.count("track_done") == 2
    assert events[0] == {"event": "track_start", "input": "a", "index": 1, "count": 2, "duration_s": SECONDS}
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["input"], last["done_s"], last["total_s"]) == ("b", SECONDS, SECONDS)


def test_a_bar_leaves_lines(shell: Shell, songs: Path) -> None:
    assert "\nb (" in shell("evaluate", *QUICK, "--progress", "bar").err
    assert shell("evaluate", *QUICK, "--progress", "none", "--fresh").err == ""

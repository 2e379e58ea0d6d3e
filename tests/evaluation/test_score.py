import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from torch import Tensor

from stemsplit.datasets.tracks import Track, find_tracks
from stemsplit.errors import InputError
from stemsplit.evaluation.bsseval import bsseval
from stemsplit.evaluation.metrics import nan_median, usdr
from stemsplit.evaluation.score import ScoreOptions, score_files, score_separation, score_stems
from stemsplit.evaluation.table import DEFAULT_METRICS, METRICS

BSS_METRICS = [name for name in DEFAULT_METRICS if METRICS[name].bss]
STEM_METRICS = [name for name in DEFAULT_METRICS if METRICS[name].function]

RATE = 8000
NAMES = ("bass", "drums", "other", "vocals")


def write(folder: Path, stems: dict[str, npt.NDArray[np.float32]], rate: int = RATE) -> Track:
    folder.mkdir(parents=True, exist_ok=True)
    for name, samples in stems.items():
        soundfile.write(folder / f"{name}.wav", samples.T, rate, subtype="FLOAT")
    return find_tracks(folder)[0]


def song(samples: int = 2 * RATE, names: tuple[str, ...] = NAMES) -> dict[str, npt.NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    return {n: 0.1 * generator.standard_normal((2, samples)).astype(np.float32) for n in names}


def leaking(stems: dict[str, npt.NDArray[np.float32]]) -> dict[str, npt.NDArray[np.float32]]:
    mix = sum(stems.values())
    return {name: (0.9 * stem + 0.1 * mix).astype(np.float32) for name, stem in stems.items()}


def test_every_score_is_that_of_its_metric(tmp_path: Path) -> None:
    stems = song()
    track, estimate = write(tmp_path / "a", stems), write(tmp_path / "b", leaking(stems))
    found = score_files(track, estimate)
    truth, guess = (
        torch.stack([torch.from_numpy(t.stems[n].read()) for n in NAMES]) for t in (track, estimate)
    )
    bss = [nan_median(x) for x in bsseval(truth, guess, window=RATE)]
    assert list(found.stems) == list(NAMES)
    for i, name in enumerate(NAMES):
        row = found.stems[name]
        assert tuple(row) == DEFAULT_METRICS
        assert row["usdr"] == pytest.approx(float(usdr(truth, guess)[i]), abs=1e-6)
        assert [row[m] for m in BSS_METRICS] == pytest.approx([float(x[i]) for x in bss], abs=1e-6)
    assert found.findings == () and found.notes == ()


def exact_noise(seed: int) -> npt.NDArray[np.float64]:
    """Uniform in [-1, 1), [2, 3 s]; the raw bits of a generator are the same in every release of NumPy."""
    return np.random.PCG64(seed).random_raw(6 * RATE).reshape(2, -1) / 2.0**63 - 1


# By museval 0.4.1 and, where it has none, by the formulas in double precision.
GOLDEN = {
    "vocals": {
        "usdr": 9.73687,
        "si_sdr": 9.85333,
        "median_sdr": 12.69912,
        "csdr": 12.69912,
        "isr": 13.67211,
        "sir": 17.66487,
        "sar": 19.00706,
    },
    "bass": {
        "usdr": -2.62167,
        "si_sdr": -36.69802,
        "median_sdr": -2.63635,
        "csdr": -2.63635,
        "isr": -2.53479,
        "sir": 12.78988,
        "sar": 35.02698,
    },
}


def test_golden_numbers() -> None:
    """A stem that leaks and is noisy for a second, and one that is delayed by two samples."""
    a, b, c = map(exact_noise, range(3))
    vocals, bass = 0.3 * a, 0.2 * (b + np.roll(b, 1, -1))
    guess = 0.8 * vocals + 0.1 * bass + 0.02 * c
    guess[:, RATE : 2 * RATE] += 0.1 * c[:, RATE : 2 * RATE]
    late = 0.9 * np.roll(bass, 2, -1) + 0.2 * vocals
    truth, estimates = (
        {"vocals": torch.from_numpy(x).float(), "bass": torch.from_numpy(y).float()}
        for x, y in ((vocals, bass), (guess, late))
    )
    found = score_stems(truth, estimates, RATE)
    for stem, row in GOLDEN.items():
        assert found[stem] == pytest.approx(row, abs=2e-4)


def test_the_mixture_is_a_baseline(tmp_path: Path) -> None:
    stems = song()
    track = write(tmp_path / "a", stems)
    found = score_files(track, track)
    assert list(found.baselines) == ["mixture"]
    # equal power in all: the error is three times the stem
    assert found.baselines["mixture"]["vocals"]["usdr"] == pytest.approx(-10 * math.log10(3), abs=0.2)
    assert found.stems["vocals"]["usdr"] > 80


def test_a_given_mixture_is_taken_not_the_sum(tmp_path: Path) -> None:
    stems = song(names=("bass", "vocals"))
    stems["mixture"] = 2 * stems["vocals"]
    found = score_files(write(tmp_path / "a", stems), find_tracks(tmp_path / "a")[0], ScoreOptions(bss=False))
    assert found.baselines["mixture"]["vocals"]["usdr"] == pytest.approx(0, abs=1e-5)


def test_oracles(tmp_path: Path) -> None:
    track = write(tmp_path / "a", song())
    found = score_files(track, track, ScoreOptions(("mixture", "irm", "mixphase"), bss=False))
    mean = {name: np.mean([row["usdr"] for row in table.values()]) for name, table in found.baselines.items()}
    assert mean["mixture"] + 3 < mean["mixphase"] and mean["mixture"] + 3 < mean["irm"]


def test_without_bss_eval(tmp_path: Path) -> None:
    track = write(tmp_path / "a", song())
    assert tuple(score_files(track, track, ScoreOptions(bss=False)).stems["bass"]) == tuple(STEM_METRICS)


def test_a_separation_gets_the_mixture(tmp_path: Path) -> None:
    stems = song()
    track = write(tmp_path / "a", stems)
    mix = sum(stems.values())

    def separate(mixture: Tensor, rate: int) -> dict[str, Tensor]:
        assert rate == RATE
        np.testing.assert_allclose(mixture.numpy(), mix, atol=1e-6)
        return {name: torch.from_numpy(x) for name, x in stems.items()}

    assert score_separation(track, separate, ScoreOptions(bss=False)).stems["drums"]["usdr"] > 80


def test_silent_references_have_no_score_and_hide_no_other(tmp_path: Path) -> None:
    stems = song()
    stems["bass"] *= 0
    track = write(tmp_path / "a", stems)
    found = score_files(track, write(tmp_path / "b", leaking(stems)))
    assert all(math.isnan(x) for x in found.stems["bass"].values())
    assert not any(math.isnan(x) for name in ("drums", "other", "vocals") for x in found.stems[name].values())
    assert [(f.kind, f.stem) for f in found.findings] == [("silent", "bass")]


def test_estimates_of_another_length_rate_and_channels(tmp_path: Path) -> None:
    stems = song()
    guess = leaking(stems)
    guess["bass"] = guess["bass"][:, : RATE // 2]
    guess["drums"] = np.pad(guess["drums"], ((0, 0), (0, RATE)))
    guess["other"] = guess["other"].mean(0, keepdims=True)
    track = write(tmp_path / "a", stems)
    found = score_files(track, write(tmp_path / "b", guess))
    assert [(f.kind, f.stem) for f in found.findings] == [("length", "bass"), ("length", "drums")]
    full = score_files(track, write(tmp_path / "c", leaking(stems)))
    assert found.stems["drums"]["usdr"] == pytest.approx(full.stems["drums"]["usdr"], abs=1e-6)
    assert found.stems["bass"]["usdr"] < full.stems["bass"]["usdr"] - 10


def test_only_some_stems_are_estimated(tmp_path: Path) -> None:
    stems = song()
    track = write(tmp_path / "a", stems)
    guess = leaking(stems)
    one = score_files(track, write(tmp_path / "b", {"vocals": guess["vocals"]}))
    assert list(one.stems) == ["vocals"] == list(one.baselines["mixture"])
    assert one.notes == ("nothing estimates bass, drums, other",)
    # the other references still count as interference
    everything = score_files(track, write(tmp_path / "c", guess))
    assert one.stems["vocals"] == pytest.approx(everything.stems["vocals"], abs=1e-6)


@pytest.mark.parametrize("name", ["instrumental", "accompaniment", "no_vocals"])
def test_two_stems(tmp_path: Path, name: str) -> None:
    stems = song()
    rest = stems["bass"] + stems["drums"] + stems["other"]
    found = score_files(
        write(tmp_path / "a", stems), write(tmp_path / "b", {"vocals": stems["vocals"], name: rest})
    )
    assert set(found.stems) == {"vocals", name}
    assert min(row["usdr"] for row in found.stems.values()) > 80
    assert not math.isnan(found.stems[name]["sir"])
    assert found.notes == ()


def test_complements_beside_stems_are_left_out(tmp_path: Path) -> None:
    stems = song()
    found = score_files(
        write(tmp_path / "a", stems), write(tmp_path / "b", {**stems, "no_vocals": stems["bass"]})
    )
    assert set(found.stems) == set(NAMES)
    assert found.notes == ("no_vocals isn't scored: no such reference",)
    assert found.stems["other"]["usdr"] > 80


def test_more_stems_than_the_references_have(tmp_path: Path) -> None:
    six = song(names=(*NAMES, "guitar", "piano"))
    four = {name: six[name] for name in NAMES}
    four["other"] = six["other"] + six["guitar"] + six["piano"]
    found = score_files(write(tmp_path / "a", four), write(tmp_path / "b", six))
    assert set(found.stems) == set(NAMES)
    assert min(row["usdr"] for row in found.stems.values()) > 80
    assert found.notes == ("guitar, piano counted as part of other",)


def test_a_model_of_two_stems_whose_other_is_all_the_rest(tmp_path: Path) -> None:
    stems = song()
    track = write(tmp_path / "a", stems)
    rest = torch.from_numpy(stems["bass"] + stems["drums"] + stems["other"])
    two = {"vocals": torch.from_numpy(stems["vocals"]), "other": rest}
    found = score_separation(track, lambda *_: two)
    assert found.stems["other"]["usdr"] > 80
    assert found.notes == ("bass, drums counted as part of other",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["accompaniment", "no_vocals", "linear_mixture", "karaoke", "band"])
@pytest.mark.parametrize("mixed", [True, False])
def test_sums_beside_the_references_change_nothing(tmp_path: Path, name: str, mixed: bool) -> None:
    stems = song()
    guess = leaking(stems)
    extra = {"mixture": sum(stems.values())} if mixed else {}
    held = [*NAMES] if name == "linear_mixture" else [*NAMES[:3]]
    plain = write(tmp_path / "plain", {**stems, **extra})
    with_sum = write(tmp_path / "with", {**stems, **extra, name: sum(stems[stem] for stem in held)})

    def separate(mixture: Tensor, rate: int) -> dict[str, Tensor]:
        return {stem: torch.from_numpy(x) for stem, x in guess.items()}

    expected, found = (score_separation(track, separate) for track in (plain, with_sum))
    assert found.stems == expected.stems
    assert found.baselines["mixture"]["other"] == pytest.approx(expected.baselines["mixture"]["other"])
    (note,) = found.notes
    assert note.startswith(f"{name}.wav is left out: ") and "bass, drums" in note
    files = score_files(with_sum, write(tmp_path / "guess", guess))
    assert files.stems == score_files(plain, write(tmp_path / "guess", guess)).stems
    assert files.notes == found.notes


def test_a_sum_among_the_references_is_taken_where_only_it_is_estimated(tmp_path: Path) -> None:
    stems = song()
    rest = stems["bass"] + stems["drums"] + stems["other"]
    track = write(tmp_path / "a", {**stems, "instrumental": rest})
    two = {"vocals": stems["vocals"], "instrumental": rest}
    found = score_files(track, write(tmp_path / "b", two))
    assert set(found.stems) == {"vocals", "instrumental"}
    assert min(row["usdr"] for row in found.stems.values()) > 80
    assert not math.isnan(found.stems["instrumental"]["sir"])
    assert [note.split(" is left out: ")[1] for note in found.notes] == ["instrumental holds it"] * 3


def test_a_set_of_two_stems(tmp_path: Path) -> None:
    two = song(names=("vocals", "accompaniment"))
    track = write(tmp_path / "a", two)
    found = score_files(track, write(tmp_path / "b", two))
    assert set(found.stems) == set(two) and found.notes == ()
    np.testing.assert_allclose(track.mix.read(), two["vocals"] + two["accompaniment"], atol=1e-6)


@pytest.mark.parametrize("name", ["band", "linear_mixture", "no_bass"])
def test_sums_among_the_estimates_change_nothing(tmp_path: Path, name: str) -> None:
    stems = song()
    track, guess = write(tmp_path / "a", stems), leaking(stems)
    expected = score_files(track, write(tmp_path / "b", guess), ScoreOptions(bss=False))
    mixed = {**guess, name: guess["bass"] + guess["drums"]}
    found = score_files(track, write(tmp_path / "c", mixed), ScoreOptions(bss=False))
    assert found.stems == expected.stems
    (note,) = found.notes
    assert note.endswith(
        ("no such reference", "band.wav is left out: its samples are the sum of bass and drums")
    )


def test_nothing_in_common(tmp_path: Path) -> None:
    track = write(tmp_path / "a", song(names=("bass", "drums")))
    with pytest.raises(InputError, match="the estimates are guitar, the references bass, drums"):
        score_files(track, write(tmp_path / "b", song(names=("guitar",))))


def test_irregular_references_are_noted(tmp_path: Path) -> None:
    stems = song()
    stems["bass"] = stems["bass"][:, :RATE]
    track = write(tmp_path / "a", stems)
    assert any("bass.wav has 8000 samples" in note for note in score_files(track, track).notes)


def test_tracks_shorter_than_a_second() -> None:
    truth = {"vocals": torch.randn(1, 700), "bass": torch.randn(1, 700)}
    row = score_stems(truth, {"vocals": truth["vocals"] + 0.1 * torch.randn(1, 700)}, RATE)["vocals"]
    assert all(math.isfinite(x) for x in row.values())
    assert row["median_sdr"] == pytest.approx(row["usdr"])


def test_only_the_metrics_that_are_asked_for(tmp_path: Path) -> None:
    stems = song()
    track, estimate = write(tmp_path / "a", stems), write(tmp_path / "b", leaking(stems))
    options = ScoreOptions(metrics=("log_wmse", "sir", "sdr"))
    found = score_files(track, estimate, options)
    assert (
        tuple(found.stems["bass"]) == tuple(found.baselines["mixture"]["bass"]) == ("sdr", "log_wmse", "sir")
    )
    usual = score_files(track, estimate)
    assert found.stems["bass"]["sir"] == usual.stems["bass"]["sir"]
    assert found.stems["bass"]["sdr"] == pytest.approx(usual.stems["bass"]["usdr"], abs=1e-6)
    # the mixture as the estimate of a stem that is a quarter of its energy: the error is three quarters of it
    assert found.baselines["mixture"]["bass"]["log_wmse"] == pytest.approx(-4 * math.log(0.75), abs=0.1)
    assert tuple(
        score_files(track, estimate, ScoreOptions(metrics=("sir", "sdr"), bss=False)).stems["bass"]
    ) == ("sdr",)

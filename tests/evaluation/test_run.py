import json
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from stemsplit.errors import Cancelled, InputError, ResourceError, StemsplitError
from stemsplit.evaluation.findings import Finding
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.run import Failure, Outcome, Store, evaluate, plan_dataset, plan_files
from stemsplit.evaluation.score import METRICS, Scores, Wanted
from stemsplit.events import Event, TrackDone, TrackFailed, TrackStart

RATE = 8000
QUICK = Wanted(bss=False)


@dataclass(frozen=True)
class Leaky:
    """Separates a mix of vocals and bass badly; picklable."""

    share: float = 0.5

    def __call__(self, mix: Tensor, sample_rate: int) -> Mapping[str, Tensor]:
        return {"vocals": self.share * mix, "bass": (1 - self.share) * mix}


@dataclass(frozen=True)
class Dying:
    """Leaves a file and kills its process."""

    last_words: Path

    def __call__(self, mix: Tensor, sample_rate: int) -> Mapping[str, Tensor]:
        self.last_words.touch()
        os._exit(1)


@dataclass(frozen=True)
class Counting:
    """Leaves a file for each call."""

    folder: Path

    def __call__(self, mix: Tensor, sample_rate: int) -> Mapping[str, Tensor]:
        (self.folder / str(len(list(self.folder.iterdir())))).touch()
        return Leaky()(mix, sample_rate)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets new processes import this module, of which they are sent classes; the installed package stays."""
    root = str(Path(__file__).parents[__name__.count(".")])
    monkeypatch.setattr(sys, "path", [*sys.path, root])


def dataset(root: Path, names: tuple[str, ...] = ("A", "B", "C"), rate: int = RATE) -> Path:
    generator = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for stem in ("vocals", "bass"):
            samples = 0.1 * generator.standard_normal((rate, 2))
            soundfile.write(root / name / f"{stem}.wav", samples, rate)
    return root


def test_all_tracks_in_order(tmp_path: Path) -> None:
    outcomes = evaluate(plan_dataset(dataset(tmp_path)), Leaky(), QUICK)
    assert [o.name for o in outcomes] == ["A", "B", "C"]
    assert all(o.duration_s == 1 and o.failure is None and not o.reused for o in outcomes)
    # half of the mixture has half the stem's error and half the other's
    for outcome in outcomes:
        assert outcome.scores is not None
        assert outcome.scores.stems["vocals"]["usdr"] == pytest.approx(10 * math.log10(2), abs=0.2)


@pytest.mark.usefixtures("processes")
def test_processes_find_the_same(tmp_path: Path) -> None:
    jobs = plan_dataset(dataset(tmp_path))
    alone = evaluate(jobs, Leaky(), QUICK)
    together = evaluate(jobs, Leaky(), QUICK, workers=2)
    assert [replace(o, wall_s=0) for o in together] == [replace(o, wall_s=0) for o in alone]


def test_events(tmp_path: Path) -> None:
    events: list[Event] = []
    evaluate(plan_dataset(dataset(tmp_path, ("A", "B"))), Leaky(), QUICK, callback=events.append)
    assert [type(e) for e in events] == [TrackStart, TrackDone] * 2
    assert events[2] == TrackStart("B", 2, 2, 1.0)


@pytest.mark.usefixtures("processes")
def test_a_callback_may_cancel(tmp_path: Path) -> None:
    jobs = plan_dataset(dataset(tmp_path))
    for workers in (1, 2):
        with pytest.raises(Cancelled):
            evaluate(jobs, Leaky(), QUICK, workers=workers, callback=lambda e: not isinstance(e, TrackDone))


@pytest.mark.usefixtures("processes")
def test_a_dead_worker_is_reported(tmp_path: Path) -> None:
    jobs, last_words = plan_dataset(dataset(tmp_path)), tmp_path / "dying"
    with pytest.raises(ResourceError, match="worker process died"):
        evaluate(jobs, Dying(last_words), QUICK, workers=2)
    assert last_words.exists()  # it had begun


def test_what_fails_does_not_stop_the_others(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    (root / "B" / "bass.wav").write_text("no audio, but long enough to be looked at")
    events: list[Event] = []
    outcomes = evaluate(plan_dataset(root), Leaky(), QUICK, callback=events.append)
    assert [o.failure is None for o in outcomes] == [True, False, True]
    assert outcomes[1].failure is not None and "bass.wav" in outcomes[1].failure.message
    assert [type(e) for e in events].count(TrackFailed) == 1
    assert Evaluation("leaky", tuple(outcomes)).exit_code == 3


def test_a_separation_that_raises(tmp_path: Path) -> None:
    def broken(mix: Tensor, sample_rate: int) -> Mapping[str, Tensor]:
        raise ZeroDivisionError("oh")

    (outcome,) = evaluate(plan_dataset(dataset(tmp_path, ("A",))), broken, QUICK)
    assert outcome.failure == Failure(1, "ZeroDivisionError: oh")


# ---------------------------------------------------------------- pairs


def test_files_are_paired_by_name(tmp_path: Path) -> None:
    truth, guess = dataset(tmp_path / "truth"), dataset(tmp_path / "guess", ("C", "A", "Z"))
    outcomes = evaluate(plan_files(truth, guess), wanted=QUICK)
    assert [(o.name, o.failure is None) for o in outcomes] == [("A", True), ("B", False), ("C", True)]
    assert outcomes[1].failure is not None and outcomes[1].failure.message.endswith("guess: nothing named B")


def test_two_single_tracks_are_a_pair(tmp_path: Path) -> None:
    truth, guess = dataset(tmp_path / "truth", ("A",)), dataset(tmp_path / "guess", ("anything",))
    (outcome,) = evaluate(plan_files(truth / "A", guess / "anything"), wanted=QUICK)
    assert outcome.name == "A" and outcome.scores is not None


def test_estimates_of_another_rate_are_resampled_and_reported(tmp_path: Path) -> None:
    truth = dataset(tmp_path / "truth", ("A",))
    (tmp_path / "guess").mkdir()
    for stem in ("vocals", "bass"):
        samples, _ = soundfile.read(truth / "A" / f"{stem}.wav")
        spectrum = np.fft.rfft(samples, axis=0)
        doubled = 2 * np.fft.irfft(np.pad(spectrum, ((0, RATE // 2), (0, 0))), axis=0)
        soundfile.write(tmp_path / "guess" / f"{stem}.wav", doubled, 2 * RATE, subtype="FLOAT")
    (outcome,) = evaluate(plan_files(truth, tmp_path / "guess"), wanted=QUICK)
    assert outcome.scores is not None
    assert [(f.kind, f.value) for f in outcome.scores.findings] == [("rate", 2.0)] * 2
    # white noise loses what the filter takes below the Nyquist frequency
    assert outcome.scores.stems["vocals"]["usdr"] > 8


def test_no_track_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no multitrack"):
        plan_dataset(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        plan_files(dataset(tmp_path / "x"), tmp_path / "gone")


# ---------------------------------------------------------------- memory of earlier runs


def test_scores_are_found_again(tmp_path: Path) -> None:
    jobs, store = plan_dataset(dataset(tmp_path / "d")), Store(tmp_path / "s")
    (tmp_path / "calls").mkdir()
    counting = Counting(tmp_path / "calls")
    first = evaluate(jobs[:2], counting, QUICK, method="m", store=store)
    second = evaluate(jobs, counting, QUICK, method="m", store=store)
    assert [o.reused for o in second] == [True, True, False]
    assert [o.scores for o in second[:2]] == [o.scores for o in first]
    assert len(list((tmp_path / "calls").iterdir())) == 3


def test_not_after_anything_has_changed(tmp_path: Path) -> None:
    root, store = dataset(tmp_path / "d", ("A",)), Store(tmp_path / "s")

    def reused(method: str | None = "m", wanted: Wanted = QUICK) -> bool:
        return evaluate(plan_dataset(root), Leaky(), wanted, method=method, store=store)[0].reused

    assert [reused(), reused()] == [False, True]
    assert not reused(method="another")
    assert not reused(wanted=Wanted(("mixture", "irm"), bss=False))
    os.utime(root / "A" / "bass.wav", ns=(1, 1))
    assert not reused()
    assert reused()
    # what separates isn't known
    assert [reused(method=None), reused(method=None)] == [False, False]


def test_files_need_no_method(tmp_path: Path) -> None:
    truth, guess = dataset(tmp_path / "truth", ("A",)), dataset(tmp_path / "guess", ("A",))
    store = Store(tmp_path / "s")
    for expected in (False, True):
        (outcome,) = evaluate(plan_files(truth, guess), wanted=QUICK, store=store)
        assert outcome.reused is expected


def test_nan_and_findings_survive(tmp_path: Path) -> None:
    store, finding = Store(tmp_path), Finding("gain", "bass", "is scaled by +3.0 dB", 3.0, 2.5)
    scores = Scores({"bass": {"usdr": math.nan, "sir": math.inf}}, {"mixture": {}}, (finding,), ("a note",))
    store.put("k", scores)
    found = store.get("k")
    assert found is not None and math.isnan(found.stems["bass"]["usdr"])
    assert replace(found, stems={}) == replace(scores, stems={})


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"stems": {}}'])
def test_a_damaged_store_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.json").write_text(text)
    assert Store(tmp_path).get("k") is None


def test_a_store_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    Store(tmp_path / "file").put("k", Scores({}, {}))


def test_failures_are_not_remembered(tmp_path: Path) -> None:
    root, store = dataset(tmp_path / "d", ("A",)), Store(tmp_path / "s")

    def broken(mix: Tensor, sample_rate: int) -> Mapping[str, Tensor]:
        raise StemsplitError("no")

    assert evaluate(plan_dataset(root), broken, QUICK, method="m", store=store)[0].failure == Failure(1, "no")
    assert evaluate(plan_dataset(root), Leaky(), QUICK, method="m", store=store)[0].scores is not None


def test_exit_codes_of_failures() -> None:
    assert Failure.of(MemoryError()).code == 5
    assert Failure.of(InputError("a.wav", "is empty")) == Failure(1, "a.wav: is empty")


# ---------------------------------------------------------------- results


def outcome(name: str, **usdr: float) -> Outcome:
    table = {stem: dict.fromkeys(METRICS, value) for stem, value in usdr.items()}
    return Outcome(name, 10.0, Scores(table, {"mixture": table}))


EVALUATION = Evaluation(
    "m",
    (
        outcome("a", vocals=1.0, bass=math.nan),
        outcome("b", vocals=2.0, bass=4.0),
        outcome("c", vocals=9.0, bass=math.inf),
        Outcome("d", None, failure=Failure(1, "broken")),
    ),
)

NUMBER = {"type": ["number", "null"]}
TABLE = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "properties": dict.fromkeys(METRICS, NUMBER),
        "additionalProperties": False,
    },
}
TABLES = {"type": "object", "additionalProperties": TABLE}
SCHEMA = {
    "type": "object",
    "required": ["schema", "version", "method", "tracks", "summary"],
    "additionalProperties": False,
    "properties": {
        "schema": {"const": 1},
        "version": {"type": "string"},
        "method": {"type": "string"},
        "tracks": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name", "duration_s", "stems", "baselines", "findings", "notes", "error"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "duration_s": NUMBER,
                    "stems": TABLE,
                    "baselines": TABLES,
                    "findings": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["kind", "stem", "message", "value", "cost_db"],
                            "properties": {"value": NUMBER, "cost_db": NUMBER},
                        },
                    },
                    "notes": {"type": "array", "items": {"type": "string"}},
                    "error": {"type": ["object", "null"], "required": ["code", "message"]},
                },
            },
        },
        "summary": {
            "type": "object",
            "required": ["stems", "mean", "baselines", "over_songs", "tracks", "failed"],
            "properties": {"stems": TABLE, "baselines": TABLES, "tracks": {"type": "integer"}},
        },
    },
}


def strict(text: str) -> object:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_json_fits_its_schema(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    real = Evaluation("leaky", tuple(evaluate(plan_dataset(dataset(tmp_path)), Leaky())))
    for evaluation in (EVALUATION, real):
        jsonschema.validate(strict(json.dumps(evaluation.as_dict())), SCHEMA)


def test_summary_by_hand() -> None:
    summary = EVALUATION.summary()
    assert list(summary) == ["m", "mixture"]
    vocals, bass = summary["m"]["vocals"], summary["m"]["bass"]
    assert vocals["usdr"] == vocals["si_sdr"] == 4  # means of 1, 2, 9
    assert [vocals[m] for m in ("median_sdr", "csdr", "isr", "sir", "sar")] == [2] * 5
    assert bass["usdr"] == math.inf and bass["csdr"] == math.inf  # of 4 and ∞
    found = EVALUATION.as_dict()["summary"]
    assert found["tracks"] == 3 and found["failed"] == 1
    assert found["stems"]["bass"]["usdr"] is None
    assert found["over_songs"]["usdr"] == "mean" and found["over_songs"]["csdr"] == "median"


def test_mean_over_stems() -> None:
    evaluation = Evaluation("m", (outcome("a", vocals=1.0, bass=4.0, drums=math.nan),))
    *_, mean, _, _, _, _ = evaluation.summary_rows()
    assert (mean.track, mean.method, mean.stem, mean.metrics["csdr"]) == (None, "m", "mean", 2.5)
    assert evaluation.as_dict()["summary"]["mean"]["csdr"] == 2.5


def test_stems_that_only_some_tracks_have() -> None:
    evaluation = Evaluation("m", (outcome("a", vocals=1.0), outcome("b", bass=3.0)))
    assert {s: row["usdr"] for s, row in evaluation.summary()["m"].items()} == {"vocals": 1, "bass": 3}


def test_csv_by_hand() -> None:
    header, *lines = Evaluation("m", (outcome("x,y", vocals=1.0, bass=math.nan),)).as_csv().splitlines()
    assert header == "scope,track,method,stem," + ",".join(METRICS)
    values, nothing = "1.00000," * 6 + "1.00000", "," * 6
    assert lines == [
        f'track,"x,y",m,vocals,{values}',
        f'track,"x,y",m,bass,{nothing}',
        f'track,"x,y",mixture,vocals,{values}',
        f'track,"x,y",mixture,bass,{nothing}',
        f"summary,,m,vocals,{values}",
        f"summary,,m,bass,{nothing}",
        f"summary,,m,mean,{values}",
        f"summary,,mixture,vocals,{values}",
        f"summary,,mixture,bass,{nothing}",
        f"summary,,mixture,mean,{values}",
    ]


@pytest.mark.parametrize(
    ("codes", "expected"), [((), 0), ((0, 0), 0), ((0, 1), 3), ((1, 1), 1), ((5, 5), 5), ((1, 5), 1)]
)
def test_exit_code(codes: tuple[int, ...], expected: int) -> None:
    outcomes = [
        Outcome("t", failure=Failure(c, "")) if c else Outcome("t", scores=Scores({}, {})) for c in codes
    ]
    assert Evaluation("m", tuple(outcomes)).exit_code == expected


def test_nothing_was_scored() -> None:
    found = Evaluation("m", (Outcome("t", failure=Failure(1, "x")),)).as_dict()
    assert found["summary"]["stems"] == {} and found["summary"]["mean"] == {}


# ---------------------------------------------------------------- real music


@pytest.mark.slow
def test_the_album_with_oracles(shared_data: Path) -> None:
    """A whole song: the oracles beat the mixture, and nothing is found wrong with them."""
    jobs = plan_dataset(shared_data / "everything-is-free-cc0")[5:6]

    def oracle(mix: Tensor, sample_rate: int) -> Mapping[str, Tensor]:
        track = jobs[0].track
        assert track is not None
        return {stem: torch.from_numpy(source.read(0, track.frames)) for stem, source in track.stems.items()}

    (found,) = evaluate(jobs, oracle, Wanted(("mixture", "irm", "mixphase"), bss=False))
    assert found.scores is not None
    for stem in ("drums", "other", "vocals"):
        row = {name: table[stem]["usdr"] for name, table in found.scores.baselines.items()}
        assert row["irm"] > row["mixture"] + 5 and row["mixphase"] > row["mixture"] + 5
    assert {f.kind for f in found.scores.findings} <= {"silent"}

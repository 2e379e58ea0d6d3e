import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit import evaluate
from stemsplit.evaluation.outcome import Outcome
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.score import Scores
from stemsplit.evaluation.table import DEFAULT_METRICS, METRICS
from stemsplit.outcome import Failure


def outcome(name: str, **usdr: float) -> Outcome:
    table = {stem: dict.fromkeys(DEFAULT_METRICS, value) for stem, value in usdr.items()}
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
    generator = np.random.default_rng(0)
    for stem in ("vocals", "bass"):
        (tmp_path / "A").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "A" / f"{stem}.wav", 0.1 * generator.standard_normal((8000, 2)), 8000)
    real = evaluate(tmp_path, lambda mix, rate: {"vocals": 0.5 * mix, "bass": 0.5 * mix})
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
    assert header == "scope,track,method,stem," + ",".join(DEFAULT_METRICS)
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

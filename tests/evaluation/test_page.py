import math
import re
from xml.etree import ElementTree

from stemsplit.evaluation.findings import Finding
from stemsplit.evaluation.outcome import Outcome
from stemsplit.evaluation.page import as_html
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.score import Scores
from stemsplit.outcome import Failure


def outcome(name: str, score: float, *findings: Finding) -> Outcome:
    table = {"vocals": {"usdr": score, "bleedless": 50.0}}
    return Outcome(
        name, 1.0, Scores(table, {"mixture": {"vocals": {"usdr": 0.0, "bleedless": 9.0}}}, findings)
    )


def test_every_track_is_a_point_with_its_score() -> None:
    page = as_html(
        Evaluation("m", tuple(outcome(name, score) for name, score in (("a", 1), ("b", 3), ("c", 5))))
    )
    plot = ElementTree.fromstring(re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0])
    points = {p.findtext("title"): float(p.attrib["cx"]) for p in plot.iter("circle")}
    assert {"a: 1.00", "b: 3.00", "c: 5.00", "a: 0.00"} <= set(points)
    assert points["c: 5.00"] - points["b: 3.00"] == points["b: 3.00"] - points["a: 1.00"] > 0
    assert "<td>all</td><td>m</td><td>vocals</td><td>3.00</td><td>50.00</td>" in page


def test_the_page_stands_alone_and_escapes_names() -> None:
    page = as_html(Evaluation("<m>", (outcome("a&b<script>", 1.0),)))
    assert not re.search(r"<script|https?:|src=|href=|@import|url\(", page)
    assert "a&amp;b&lt;script&gt;: 1.00" in page and "<h1>Scores of &lt;m&gt;</h1>" in page


def test_findings_failures_and_missing_scores_are_shown() -> None:
    late = Finding("delay", "vocals", "is 5 samples late")
    page = as_html(
        Evaluation("m", (outcome("a", math.nan, late), Outcome("d", None, failure=Failure(1, "broken"))))
    )
    assert "<li>a: vocals is 5 samples late</li>" in page and "<li>d: broken</li>" in page
    assert "<td>m</td><td>vocals</td><td></td>" in page


def test_a_page_without_any_score() -> None:
    page = as_html(Evaluation("m", (Outcome("d", None, failure=Failure(1, "broken")),)))
    assert "No track has this score." in page and "<li>d: broken</li>" in page

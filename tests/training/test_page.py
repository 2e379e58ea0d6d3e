import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from stemsplit.training.page import as_html, plot
from tests.training.test_run import AVERAGES, Crash, MakeConfig, crash_at, records, run


def drawn(svg: str) -> tuple[list[str], dict[str, tuple[float, float]]]:
    """Return the texts of a plot, and the place of each of its points by its title."""
    tree = ElementTree.fromstring(svg)
    points = {
        p.findtext("title"): (float(p.attrib["cx"]), float(p.attrib["cy"])) for p in tree.iter("circle")
    }
    return [text.text or "" for text in tree.iter("text")], points  # type: ignore[return-value]


def plots(page: str) -> list[tuple[list[str], dict[str, tuple[float, float]]]]:
    return [drawn(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def test_curves_lie_on_common_axes() -> None:
    texts, points = drawn(plot({"a": [(0, 1.0), (10, 3.0)], "b": [(10, 2.0), (20, 5.0)]}))
    assert {"1", "5", "0", "20", "a", "b"} == set(texts)
    first, second, third, last = (
        points[k] for k in ("a, step 0: 1", "a, step 10: 3", "b, step 10: 2", "b, step 20: 5")
    )
    assert first[0] < second[0] == third[0] < last[0] and second[0] - first[0] == last[0] - second[0]
    assert first[1] - second[1] == pytest.approx((first[1] - last[1]) / 2)  # up is more
    assert first[1] > third[1] > second[1] > last[1]


def test_a_logarithmic_axis() -> None:
    curve = {"a": [(0, 1.0), (1, 0.1), (2, 0.01)]}
    _, points = drawn(plot(curve, logarithmic=True))
    heights = [y for _, y in points.values()]
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1]) and heights[1] > heights[0]
    _, linear = drawn(plot({"a": [(0, 1.0), (1, 0.0)]}, logarithmic=True))  # zero has no logarithm
    assert len(linear) == 2


def test_one_point_and_none() -> None:
    texts, points = drawn(plot({"a": [(3, 2.0)]}))
    assert texts == ["2", "3", "a"] and len(points) == 1
    assert plot({}) == "<p>There are no values yet.</p>"


def test_the_page_of_a_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config(extra=AVERAGES + "valid: {at_start: true, metric: si_sdr}")
    with pytest.raises(Crash):
        run(text, callback=crash_at(7))
    assert "<td>1</td><td>4</td>" in (tmp_path / "run/curves.html").read_text()
    run(text, resume=True)
    page, lines = (tmp_path / "run/curves.html").read_text(), records(tmp_path / "run")
    assert not re.search(r"<script|https?:|src=|href=|@import|url\(", page)
    assert "<h1>Training of run</h1>" in page and "<h2>Validation: SI-SDR</h2>" in page
    best: dict[str, Any] = lines[-1]["best"]
    assert f"Best: {best['score']:.2f} with {best['candidate']} weights after {best['step']} steps." in page
    loss, means, stems, rate = plots(page)
    shown = {f"loss, step {r['step']}: {r['loss']:.4g}" for r in lines if "loss" in r}
    assert len(shown) == 2 and shown <= loss[1].keys() and "drums" in loss[0]
    for line in lines:
        for candidate, row in line["valid"].items():
            assert f"{candidate}, step {line['step']}: {row['mean']:.4g}" in means[1]
        for stem, score in line["valid"].get(best["candidate"], {}).items():
            assert f"{stem}, step {line['step']}: {score:.4g}" in stems[1]
    assert list(rate[1]) == ["lr, step 4: 0.003", "lr, step 8: 0.003"]
    assert page.count("<td>8</td>") == 1  # the steps after the crash are there once


def test_the_page_without_validation(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "data.valid=[]", "fit.epochs=1")
    page = (tmp_path / "run/curves.html").read_text()
    assert "Validation" not in page and len(plots(page)) == 2


def test_names_are_escaped_and_missing_scores_left_out() -> None:
    scores = {"raw": {"a&b": None, "c": 2.0, "mean": 2.0}}
    best = {"score": None, "candidate": "", "step": 0, "losses": 1}
    page = as_html(
        "<run>", [{"step": 4, "epoch": 1, "loss": 0.5, "valid": scores, "best": best}], "usdr_median"
    )
    assert "<h1>Training of &lt;run&gt;</h1>" in page and "<h2>Validation: usdr_median</h2>" in page
    assert "No validation gave a score." in page and "c, step 4: 2" in page and "a&amp;b" not in page

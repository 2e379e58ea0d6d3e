"""The benchmark that compares with the parent commit fails when it should, and only then."""

from pathlib import Path

import pytest
from click import ClickException
from click.testing import CliRunner

from tests.benchmarks import guard


def test_the_median_of_the_rounds_counts() -> None:
    rounds = [({"a": 1.0, "b": 2.0}, {"a": now, "b": 2.0}) for now in (1.2, 5.0, 1.1)]
    assert guard.ratios(rounds) == {"a": 1.2, "b": 1.0}
    assert guard.table(rounds)[1].split() == ["a", "1.00s", "1.20s", "1.20"]


def test_new_and_dropped_cases_are_not_compared() -> None:
    assert guard.ratios([({"old": 1.0, "both": 1.0}, {"both": 1.0, "new": 9.0})]) == {"both": 1.0}


@pytest.mark.parametrize(("now", "code"), [(1.25, 0), (1.26, 1)])
def test_it_fails_beyond_a_quarter_more(now: float, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "source_of", lambda commit, folder: None)
    monkeypatch.setattr(guard, "install", lambda source, target: target)
    monkeypatch.setattr(guard, "measure", lambda *_: ({"song": 1.0}, {"song": now}))
    ran = CliRunner().invoke(guard.main, [])
    assert ran.exit_code == code
    assert ("slower" in ran.output) == bool(code)


PROGRAM = """
import os, sys
for line in sys.stdin:
    print("" if line == "song\\n" and os.environ["PYTHONPATH"].endswith("unable") else 0.5, flush=True)
"""


def test_cases_that_only_the_parent_cannot_run_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, able, unable = (tmp_path / name for name in ("program.py", "able", "unable"))
    program.write_text(PROGRAM)
    monkeypatch.setattr(guard, "PROGRAM", program)
    before, now = guard.measure(unable, able, tmp_path, tmp_path)
    assert set(now) - set(before) == {"song"} and set(now.values()) == {0.5}
    with pytest.raises(ClickException, match="song can't be run"):
        guard.measure(able, unable, tmp_path, tmp_path)


def test_without_a_parent_it_says_why_and_passes() -> None:
    ran = CliRunner().invoke(guard.main, ["--parent", "no-such-commit"])
    assert ran.exit_code == 0
    assert "skipped" in ran.output and "no-such-commit" in ran.output


def test_the_files_of_a_commit_are_written(tmp_path: Path) -> None:
    reason = guard.source_of("HEAD", tmp_path)
    if reason is not None:
        pytest.skip(f"not in a repository: {reason}")
    assert (tmp_path / "pyproject.toml").is_file()

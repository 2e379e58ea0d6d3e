import math
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from stemsplit.engines import Threads
from stemsplit.errors import Cancelled, InputError, StemsplitError
from stemsplit.evaluation.plan import plan_dataset, plan_files
from stemsplit.evaluation.results import Evaluation
from stemsplit.evaluation.run import Array, Method, MixtureSeparator, score_tracks
from stemsplit.evaluation.score import ScoreOptions
from stemsplit.evaluation.store import Store
from stemsplit.events import Callback, Event, Progress, TrackDone, TrackFailed, TrackStart, emit
from stemsplit.outcome import Failure

RATE = 8000
QUICK = ScoreOptions(bss=False)


@dataclass
class Leaky:
    """Separates a mix of vocals and bass badly; picklable."""

    share: float = 0.5
    callback: Callback | None = None

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        emit(self.callback, Progress("audio", 1.0, None, None))
        return {"vocals": self.share * source, "bass": (1 - self.share) * source}


@dataclass
class Dying(Leaky):
    """Leaves a file and kills its process, if the track is A's."""

    last_words: Path = Path()

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        if source.shape[1] > RATE:
            self.last_words.touch()
            os.kill(os.getpid(), signal.SIGTERM)
        return super().separate(source, sample_rate)


@dataclass
class Counting(Leaky):
    """Leaves a file for each call."""

    folder: Path = Path()

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        (self.folder / str(len(list(self.folder.iterdir())))).touch()
        return super().separate(source, sample_rate)


@dataclass
class Broken(Leaky):
    """Raises."""

    error: Exception = ZeroDivisionError("oh")

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        raise self.error


@dataclass
class Knowing(Leaky):
    """Gives the stems that it was made with."""

    stems: Mapping[str, Array] = field(default_factory=dict)

    def separate(self, source: Array, sample_rate: float, /) -> Mapping[str, Array]:
        return self.stems


def method(separator: MixtureSeparator, identity: str | None = None) -> Method:
    return Method("m", separator, identity)


FILES = Method("files")


def dataset(root: Path, names: tuple[str, ...] = ("A", "B", "C"), rate: int = RATE) -> Path:
    generator = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for stem in ("vocals", "bass"):
            samples = 0.1 * generator.standard_normal((rate, 2))
            soundfile.write(root / name / f"{stem}.wav", samples, rate)
    return root


def test_all_tracks_in_order(tmp_path: Path) -> None:
    outcomes = score_tracks(plan_dataset(dataset(tmp_path)), method(Leaky()), QUICK)
    assert [o.name for o in outcomes] == ["A", "B", "C"]
    assert all(o.duration_s == 1 and o.failure is None and not o.reused for o in outcomes)
    # half of the mixture has half the stem's error and half the other's
    for outcome in outcomes:
        assert outcome.scores is not None
        assert outcome.scores.stems["vocals"]["usdr"] == pytest.approx(10 * math.log10(2), abs=0.2)


@pytest.mark.slow
def test_processes_find_the_same(tmp_path: Path) -> None:
    jobs = plan_dataset(dataset(tmp_path))
    alone = score_tracks(jobs, method(Leaky()), QUICK)
    together = score_tracks(jobs, method(Leaky()), QUICK, workers=2)
    assert [replace(o, wall_s=0) for o in together] == [replace(o, wall_s=0) for o in alone]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_events(tmp_path: Path, workers: int) -> None:
    events: list[Event] = []
    jobs, separator = plan_dataset(dataset(tmp_path, ("A", "B"))), Leaky()
    score_tracks(jobs, method(separator), QUICK, workers=workers, callback=events.append)
    for number, name in enumerate("AB", 1):
        own = [e for e in events if getattr(e, "input", None) == name]
        assert own[:2] == [TrackStart(name, number, 2, 1.0), Progress(name, 1.0, 1.0, None)]
        assert len(own) == 3 and isinstance(own[2], TrackDone)
    assert len(events) == 6 and separator.callback is None


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("kind", [TrackStart, Progress, TrackDone])
def test_a_callback_may_cancel(tmp_path: Path, workers: int, kind: type[Event]) -> None:
    jobs = plan_dataset(dataset(tmp_path))
    with pytest.raises(Cancelled):
        score_tracks(
            jobs, method(Leaky()), QUICK, workers=workers, callback=lambda e: not isinstance(e, kind)
        )


def test_an_engine_of_one_s_own(tmp_path: Path) -> None:
    jobs = plan_dataset(dataset(tmp_path))
    alone = score_tracks(jobs, method(Leaky()), QUICK)
    assert [replace(o, wall_s=0) for o in score_tracks(jobs, method(Leaky()), QUICK, engine=Threads(2))] == [
        replace(o, wall_s=0) for o in alone
    ]


def test_a_dead_worker_is_one_failed_track(tmp_path: Path) -> None:
    root, last_words = dataset(tmp_path / "d"), tmp_path / "dying"
    for stem in ("vocals", "bass"):
        soundfile.write(root / "A" / f"{stem}.wav", np.full((2 * RATE, 2), 0.1), RATE)
    events: list[Event] = []
    store, separator = Store(tmp_path / "s"), Dying(last_words=last_words)
    found = score_tracks(
        plan_dataset(root), method(separator, "m"), QUICK, workers=2, store=store, callback=events.append
    )
    assert last_words.exists()  # it had begun
    assert [o.failure is None for o in found] == [False, True, True]
    hint = "it may have been out of memory; use fewer --jobs"
    assert found[0].failure == Failure(5, "a worker process died", hint)
    assert sum(isinstance(e, TrackFailed) for e in events) == 1
    assert [o.reused for o in score_tracks(plan_dataset(root), method(Leaky(), "m"), QUICK, store=store)] == [
        False,
        True,
        True,
    ]


def test_a_failed_track_does_not_stop_the_others(tmp_path: Path) -> None:
    root = dataset(tmp_path)
    (root / "B" / "bass.wav").write_text("no audio, but long enough to be looked at")
    events: list[Event] = []
    outcomes = score_tracks(plan_dataset(root), method(Leaky()), QUICK, callback=events.append)
    assert [o.failure is None for o in outcomes] == [True, False, True]
    assert outcomes[1].failure is not None and "bass.wav" in outcomes[1].failure.message
    assert [type(e) for e in events].count(TrackFailed) == 1
    assert Evaluation("leaky", tuple(outcomes)).exit_code == 3


def test_a_separation_that_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG", "stemsplit"):
        (outcome,) = score_tracks(plan_dataset(dataset(tmp_path, ("A",))), method(Broken()), QUICK)
    assert "ZeroDivisionError" in caplog.text  # --debug shows where
    assert outcome.failure is not None
    assert (outcome.failure.code, outcome.failure.message) == (1, "ZeroDivisionError: oh")


# ---------------------------------------------------------------- pairs


def test_files_are_paired_by_name(tmp_path: Path) -> None:
    truth, guess = dataset(tmp_path / "truth"), dataset(tmp_path / "guess", ("C", "A", "Z"))
    outcomes = score_tracks(plan_files(truth, guess), FILES, QUICK)
    assert [(o.name, o.failure is None) for o in outcomes] == [("A", True), ("B", False), ("C", True)]
    assert outcomes[1].failure is not None and outcomes[1].failure.message.endswith("guess: nothing named B")


def test_two_single_tracks_are_a_pair(tmp_path: Path) -> None:
    truth, guess = dataset(tmp_path / "truth", ("A",)), dataset(tmp_path / "guess", ("anything",))
    (outcome,) = score_tracks(plan_files(truth / "A", guess / "anything"), FILES, QUICK)
    assert outcome.name == "A" and outcome.scores is not None


def test_estimates_of_another_rate_are_resampled_and_reported(tmp_path: Path) -> None:
    truth = dataset(tmp_path / "truth", ("A",))
    (tmp_path / "guess").mkdir()
    for stem in ("vocals", "bass"):
        samples, _ = soundfile.read(truth / "A" / f"{stem}.wav")
        spectrum = np.fft.rfft(samples, axis=0)
        doubled = 2 * np.fft.irfft(np.pad(spectrum, ((0, RATE // 2), (0, 0))), axis=0)
        soundfile.write(tmp_path / "guess" / f"{stem}.wav", doubled, 2 * RATE, subtype="FLOAT")
    (outcome,) = score_tracks(plan_files(truth, tmp_path / "guess"), FILES, QUICK)
    assert outcome.scores is not None
    assert [(f.kind, f.value) for f in outcome.scores.findings] == [("rate", 2.0)] * 2
    # white noise loses what the filter takes below the Nyquist frequency
    assert outcome.scores.stems["vocals"]["usdr"] > 8


def test_no_track_at_all(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no multitrack"):
        plan_dataset(tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        plan_files(dataset(tmp_path / "x"), tmp_path / "gone")


# ---------------------------------------------------------------- scores of earlier runs


def test_stored_scores_are_reused(tmp_path: Path) -> None:
    jobs, store = plan_dataset(dataset(tmp_path / "d")), Store(tmp_path / "s")
    (tmp_path / "calls").mkdir()
    counting = Counting(folder=tmp_path / "calls")
    first = score_tracks(jobs[:2], method(counting, "m"), QUICK, store=store)
    second = score_tracks(jobs, method(counting, "m"), QUICK, store=store)
    assert [o.reused for o in second] == [True, True, False]
    assert [o.scores for o in second[:2]] == [o.scores for o in first]
    assert len(list((tmp_path / "calls").iterdir())) == 3


def test_a_change_makes_scores_be_computed_again(tmp_path: Path) -> None:
    root, store = dataset(tmp_path / "d", ("A",)), Store(tmp_path / "s")

    def reused(identity: str | None = "m", wanted: ScoreOptions = QUICK) -> bool:
        return score_tracks(plan_dataset(root), method(Leaky(), identity), wanted, store=store)[0].reused

    assert [reused(), reused()] == [False, True]
    assert not reused(identity="another")
    assert not reused(wanted=ScoreOptions(("mixture", "irm"), bss=False))
    os.utime(root / "A" / "bass.wav", ns=(1, 1))
    assert not reused()
    assert reused()
    # without an identity nothing is stored
    assert [reused(identity=None), reused(identity=None)] == [False, False]


def test_scores_of_files_are_stored_without_a_method(tmp_path: Path) -> None:
    truth, guess = dataset(tmp_path / "truth", ("A",)), dataset(tmp_path / "guess", ("A",))
    store = Store(tmp_path / "s")
    for expected in (False, True):
        (outcome,) = score_tracks(plan_files(truth, guess), FILES, QUICK, store=store)
        assert outcome.reused is expected


def test_failures_are_not_stored(tmp_path: Path) -> None:
    root, store, broken = (
        dataset(tmp_path / "d", ("A",)),
        Store(tmp_path / "s"),
        Broken(error=StemsplitError("no")),
    )
    (outcome,) = score_tracks(plan_dataset(root), method(broken, "m"), QUICK, store=store)
    assert outcome.failure == Failure(1, "no")
    (outcome,) = score_tracks(plan_dataset(root), method(Leaky(), "m"), QUICK, store=store)
    assert outcome.scores is not None and not outcome.reused


# ---------------------------------------------------------------- real music


@pytest.mark.slow
def test_the_album_with_oracles(shared_data: Path) -> None:
    """A whole song: the oracles beat the mixture, and nothing is found wrong with them."""
    jobs = plan_dataset(shared_data / "everything-is-free-cc0")[5:6]
    track = jobs[0].track
    assert track is not None
    truth = {stem: source.read(0, track.frames) for stem, source in track.stems.items()}
    wanted = ScoreOptions(("mixture", "irm", "mixphase"), bss=False)
    (found,) = score_tracks(jobs, method(Knowing(stems=truth)), wanted)
    assert found.scores is not None
    for stem in ("drums", "other", "vocals"):
        row = {name: table[stem]["usdr"] for name, table in found.scores.baselines.items()}
        assert row["irm"] > row["mixture"] + 5 and row["mixphase"] > row["mixture"] + 5
    assert {f.kind for f in found.scores.findings} <= {"silent"}

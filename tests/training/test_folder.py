"""Folders of runs with foreign or damaged files, and folders of runs that never began."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest

from stemsplit.errors import CheckpointError, InputError, SettingsError
from stemsplit.events import Event
from stemsplit.hub.load import load_model
from stemsplit.training.configfile import parse_config, read_config
from stemsplit.training.folder import RunFolder
from stemsplit.training.progress import Trained
from stemsplit.training.run import Result, train
from tests.training.test_run import Crash, crash_at, differences, records

MakeConfig = Callable[..., str]


def run(text: str, *overrides: str, **how: Any) -> Result:
    return train(parse_config(text, "config.yaml", overrides), **how)


@pytest.fixture(autouse=True)
def _tell_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stemsplit.training.recorder._REPORT_INTERVAL_S", -1.0)


@pytest.mark.parametrize("fresh", [False, True])
def test_a_configuration_of_the_user_is_not_overwritten(
    tiny_config: MakeConfig, tmp_path: Path, fresh: bool
) -> None:
    own = tmp_path / "run" / "config.yaml"
    own.parent.mkdir()
    own.write_text(tiny_config())
    with pytest.raises(SettingsError, match="not written by a run; training would overwrite it"):
        train(read_config(own), fresh=fresh)
    assert own.read_text() == tiny_config() and list(own.parent.iterdir()) == [own]


def test_a_run_resumes_from_its_own_configuration(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "fit.epochs=1")
    own = tmp_path / "run" / "config.yaml"
    assert train(read_config(own, ["fit.epochs=2"]), resume=True).step == 8
    assert train(read_config(own, ["fit.epochs=1"]), fresh=True).step == 4


def test_fresh_removes_only_the_files_of_a_run(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "fit.epochs=1")
    mine = [tmp_path / "run" / name for name in ("logs/mine.txt", "logs/csv/mine.csv", "mine.txt")]
    for file in mine:
        file.write_text("mine")
    run(tiny_config(), "fit.epochs=1", fresh=True)
    assert all(file.exists() for file in mine)
    assert [one.name for one in (tmp_path / "run" / "logs" / "csv").glob("start-*")] == ["start-0"]


def test_an_abandoned_start_leaves_nothing(tiny_config: MakeConfig, tmp_path: Path) -> None:
    text = tiny_config(extra="valid: {at_start: true}")
    with pytest.raises(Crash):
        run(text, callback=crash_at(1))
    run(text)
    assert [record["step"] for record in records(tmp_path / "run")] == [0, 4, 8]


def test_two_runs_at_once_need_two_folders(tiny_config: MakeConfig) -> None:
    def second(event: Event) -> None:
        if isinstance(event, Trained):
            run(tiny_config())

    with pytest.raises(SettingsError, match="run: another process trains in it"):
        run(tiny_config(), callback=second)
    assert run(tiny_config()).step == 8


def test_an_interrupted_checkpoint_leaves_no_part(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(OSError, match="No space"):
        run(tiny_config())
    assert not list((tmp_path / "run").rglob("*.part"))


@pytest.mark.parametrize("left", [0, 100, 5000])
def test_a_damaged_checkpoint_is_reported(tiny_config: MakeConfig, tmp_path: Path, left: int) -> None:
    run(tiny_config(), "fit.epochs=1")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:left])
    with pytest.raises(CheckpointError, match="last.ckpt: damaged") as caught:
        run(tiny_config(), resume=True)
    assert "best.ckpt" in str(caught.value.hint)
    last.with_name("best.ckpt").replace(last)
    assert run(tiny_config(), resume=True).step == 8


@pytest.mark.parametrize("line", ["\0\0\0", "7", "{}", '{"step": null}'])
def test_invalid_lines_of_metrics_are_dropped(tiny_config: MakeConfig, tmp_path: Path, line: str) -> None:
    run(tiny_config(), "fit.epochs=1")
    metrics = tmp_path / "run" / "metrics.jsonl"
    metrics.write_text(f"{line}\n{metrics.read_text()}")
    run(tiny_config(), resume=True)
    assert [record["step"] for record in records(tmp_path / "run")] == [4, 8]


def no_data(*_: object) -> None:
    pytest.fail("data was prepared")


@pytest.mark.parametrize("how", [{}, {"resume": True}, {"fresh": True}])
def test_a_second_run_is_refused_before_any_data_is_prepared(
    tiny_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]
) -> None:
    monkeypatch.setattr("stemsplit.training.run.prepare", no_data)
    monkeypatch.setattr("stemsplit.training.run.build_network", no_data)
    file = parse_config(tiny_config(), "config.yaml")
    with (
        RunFolder(file.config.folder).locked(),
        pytest.raises(SettingsError, match="run: another process trains in it"),
    ):
        train(file, **how)


@pytest.mark.parametrize("held", ["run", "run/drums"])
def test_a_run_per_stem_locks_its_folder_and_the_stem_s(
    tiny_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str
) -> None:
    monkeypatch.setattr("stemsplit.training.run.prepare", no_data)
    file = parse_config(tiny_config(extra="per_stem: {}"), "config.yaml")
    with (
        RunFolder(tmp_path / held).locked(),
        pytest.raises(SettingsError, match=f"{held}: another process trains in it"),
    ):
        train(file, fresh=True)


def test_a_run_that_never_began_leaves_no_folder(tiny_config: MakeConfig, tmp_path: Path) -> None:
    nothing = f"data.train=[{{path: {tmp_path}/songs, only: [x]}}]"
    with pytest.raises(InputError, match="only and exclude leave none of its 3 tracks"):
        run(tiny_config(), f"folder={tmp_path}/new/deep", nothing)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("left", ["checkpoints/best.ckpt", "metrics.jsonl", "model.safetensors"])
def test_a_run_that_lost_its_last_checkpoint_is_not_overwritten(
    tiny_config: MakeConfig, tmp_path: Path, left: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.last.parent.mkdir(parents=True)
    (folder.path / left).write_text('{"step": 4}\n')
    file = parse_config(tiny_config(), "config.yaml")
    with pytest.raises(SettingsError, match="run: already holds a run") as caught:
        folder.check_usable(file, resume=False, fresh=False)
    assert caught.value.hint == "continue it with --resume, or start over with --fresh"
    with pytest.raises(SettingsError, match="last.ckpt: missing, so that the run can't be") as caught:
        folder.check_usable(file, resume=True, fresh=False)
    assert ("copy best.ckpt over it" in str(caught.value.hint)) == (left == "checkpoints/best.ckpt")
    folder.check_usable(file, resume=False, fresh=True)


def test_an_altered_byte_of_a_checkpoint_is_found(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "fit.epochs=1")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    with ZipFile(last) as archive:
        tensors = [one for one in archive.infolist() if "/data/" in one.filename]
        largest = max(tensors, key=lambda one: one.file_size)
        content = archive.read(largest)
    whole = last.read_bytes()
    place = whole.index(content) + len(content) // 2
    last.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(CheckpointError, match="last.ckpt: damaged"):
        run(tiny_config(), resume=True)


@pytest.mark.parametrize("extra", ["", "data.valid=[]", "fit.epochs=3"])
def test_a_missing_model_is_exported_again(tiny_config: MakeConfig, tmp_path: Path, extra: str) -> None:
    text = tiny_config(extra="ema: {step: [0.5]}")
    setting = [extra] if "valid" in extra else []
    run(text, *setting)
    model = tmp_path / "run" / "model.safetensors"
    before = load_model(tmp_path / "run").state_dict()
    model.unlink()
    if extra == "fit.epochs=3":  # a run that goes on: no later validation may be better
        with pytest.raises(Crash):
            run(text, extra, resume=True, callback=crash_at(9))
    else:
        run(text, *setting, resume=True)
    after = load_model(tmp_path / "run").state_dict()
    assert differences(dict(before), dict(after)) == []


def test_a_missing_model_without_its_checkpoint_is_an_error(tiny_config: MakeConfig, tmp_path: Path) -> None:
    run(tiny_config(), "fit.epochs=1")
    for name in ("model.safetensors", "checkpoints/best.ckpt"):
        (tmp_path / "run" / name).unlink()
    with pytest.raises(CheckpointError, match="best.ckpt: missing, like model.safetensors"):
        run(tiny_config(), "fit.epochs=1", resume=True)


def test_the_best_weights_of_before_the_first_step_are_exported_again(
    tiny_config: MakeConfig, tmp_path: Path
) -> None:
    text, still = tiny_config(extra="valid: {at_start: true}"), ["fit.epochs=1", "optim.lr=1e-30"]
    run(text, *still)
    before = load_model(tmp_path / "run").state_dict()
    (tmp_path / "run" / "model.safetensors").unlink()
    run(text, *still, resume=True)
    assert differences(dict(before), dict(load_model(tmp_path / "run").state_dict())) == []


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("ema.step=[]", "ema.step=[0.9]", r"ema.step: is \[0.9\], but not set in the run to resume"),
        ("ema.step=[0.9]", "ema.step=[]", r"ema.step: is not set, but \[0.9\] in the run"),
        ("ema.step=[0.5]", "ema.step=[0.5, 0.9]", r"ema.step: is \[0.5, 0.9\], but \[0.5\] in the run"),
        ("seed=1", "optim.groups=[{match: 'a'}]", "optim.groups.0.match: is a, but not set in the run"),
    ],
)
def test_a_list_that_changed_is_named(
    tiny_config: MakeConfig, tmp_path: Path, before: str, now: str, said: str
) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.begin(parse_config(tiny_config(), "config.yaml", ["seed=1", before]).config, fresh=True)
    folder.last.touch()
    with pytest.raises(SettingsError, match=said):
        folder.check_usable(parse_config(tiny_config(), "c", ["seed=1", now]), resume=True, fresh=False)

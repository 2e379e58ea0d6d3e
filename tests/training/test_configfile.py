import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from stemsplit.errors import SettingsError
from stemsplit.training.config import Config
from stemsplit.training.configfile import dump_config, parse_config, read_config
from stemsplit.training.sampling import DataSetConfig

GOOD = """\
folder: runs/mine
model:
  start: htdemucs
data:
  train:
    - path: songs
      weight: 2
    - {path: more.csv, only: ["7.*", "8.*"]}
  valid: [{path: songs}]
  segment_s: 4
augment:
  gain_db: [-10, 10]
optim:
  lr: 1e-4
  betas: [0.9, 0.999]
fit:
  batch_size: 8
"""


def parse(text: str, *overrides: str) -> Config:
    return parse_config(text, "config.yaml", overrides).config


def complaint(text: str, *overrides: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse(text, *overrides)
    assert caught.value.hint is None
    return caught.value.reason


def test_a_good_file() -> None:
    config = parse(GOOD)
    assert config.data.train == (
        DataSetConfig("songs", 2.0),
        DataSetConfig("more.csv", only=("7.*", "8.*")),
    )
    assert config.augment.gain_db == (-10.0, 10.0) and config.optim.lr == 1e-4
    assert config.fit.epochs == 50 and config.loss.terms == {"l1": 1.0} and config.seed == 42


def test_names_of_stems_are_written_as_people_write_them() -> None:
    own = """
loss: {weights: {Vocals: 2, No-Reverb: 1}}
per_stem: {changes: {No Reverb: {optim.lr: 1e-3}}}
"""
    groups = "data.groups={Other: [Lead Synth]}"
    config = parse(GOOD + own, "data.stems=[Vocals, No Reverb]", groups)
    assert config.data.stems == ("vocals", "no_reverb")
    assert config.data.groups == {"other": ("lead_synth",)}
    assert config.loss.weights == {"vocals": 2, "no_reverb": 1}
    assert config.per_stem is not None and list(config.per_stem.changes) == ["no_reverb"]
    assert "names a stem twice" in complaint(GOOD, "loss.weights={Vocals: 1, vocals: 2}")
    assert "names a stem twice" in complaint(GOOD, "data.stems=[No Reverb, no_reverb]")


# line by line of GOOD: what is replaced, by what, the line, and what is said of it
BAD = [
    ("folder: runs/mine\n", "", 1, "folder is missing"),
    ("folder: runs/mine", "folder: 3", 1, "folder: must be text, is 3"),
    ("folder: runs/mine", "folder: [a]", 1, "folder: must be text, is a list"),
    ("folder:", "foldr:", 1, "foldr: no such key; did you mean folder?"),
    ("folder: runs/mine", "folder: 'runs", 1, "not YAML (found unexpected end of stream)"),
    ("folder: runs/mine", "folder: runs/mine\nfolder: again", 2, "folder: is defined a second time"),
    (
        "  start: htdemucs",
        "\tstart: htdemucs",
        3,
        "not YAML (found character '\\t' that cannot start any token)",
    ),
    ("  start: htdemucs", "  {}", 2, "model.start: give either start (a model) or family (a new network)"),
    (
        "  start: htdemucs",
        "  start: htdemucs\n  arguments: {a: 1}",
        4,
        "model.arguments: only a new network (family) takes arguments",
    ),
    ("  train:", "  trian:", 5, "data.trian: no such key; did you mean train?"),
    ("- path: songs\n      weight: 2", "- weight: 2", 6, "data.train.0: path is missing"),
    ("weight: 2", "weight: 0", 7, "data.train.0.weight: must be above 0, is 0"),
    ("weight: 2", "weight: heavy", 7, "data.train.0.weight: must be a number, is 'heavy'"),
    ('["7.*", "8.*"]', "7.*", 8, "data.train.1.only: must be a list, is '7.*'"),
    ("valid: [{path: songs}]", "valid: songs", 9, "data.valid: must be a list, is 'songs'"),
    ("segment_s: 4", "segment_s: -4", 10, "data.segment_s: must be above 0, is -4"),
    ("segment_s: 4", "segment_s: 4\n  activity_s: 3", 11, "data.activity_s: must be at least 4, is 3"),
    ("[-10, 10]", "[10, -10]", 12, "augment.gain_db: the first must not exceed the second, is [10.0, -10.0]"),
    ("[-10, 10]", "[-10]", 12, "augment.gain_db: must be a list of 2, has 1"),
    ("gain_db: [-10, 10]", "drop: 1.5", 12, "augment.drop: must be between 0 and 1, is 1.5"),
    ("gain_db: [-10, 10]", "polarity: 1", 12, "augment.polarity: must be true or false, is 1"),
    ("lr: 1e-4", "learning_rate: 1", 14, "optim.learning_rate: no such key; choose from kind, lr, betas"),
    ("lr: 1e-4", "lr: 1e-4x", 14, "optim.lr: must be a number, is '1e-4x'"),
    ("lr: 1e-4", "lr: .nan", 14, "optim.lr: must be a number, is nan"),
    ("lr: 1e-4", "lr:", 14, "optim.lr: must be a number, is empty"),
    (
        "lr: 1e-4",
        "kind: adamW",
        14,
        "optim.kind: must be one of adam, adamw, adamw8bit, muon, prodigy, is 'adamW'; did you mean adamw?",
    ),
    ("[0.9, 0.999]", "[0.9, 1]", 15, "optim.betas: must be between 0 and 1 (below 1), is 1"),
    ("batch_size: 8", "batch_size: 8.5", 17, "fit.batch_size: must be a whole number, is 8.5"),
    (
        "batch_size: 8",
        "batch_size: 8\n  devices: 3",
        17,
        "fit.batch_size: must be a multiple of devices × nodes × accumulate (3)",
    ),
    (
        "batch_size: 8",
        "precision: fp16\n  device: cpu",
        17,
        "fit.precision: fp16 needs a GPU; a CPU takes fp32 or bf16",
    ),
    ("optim:", "schedule: {kind: noam}\noptim:", 13, "schedule.kind: noam needs dimension and warmup_steps"),
    ("optim:", "loss: {terms: {l2: 1}}\noptim:", 13, "loss.terms.l2: no such key; did you mean l1?"),
    ("optim:", "loss: {terms: {}}\noptim:", 13, "loss.terms: must name at least one term"),
    ("optim:", "semi: {}\noptim:", 13, "semi: needs data.unlabelled"),
    ("optim:", "valid: {overlap: 1.0}\noptim:", 13, "valid.overlap: must be between 0 and 1 (below 1), is 1"),
    (
        "gain_db: [-10, 10]",
        "effects: {both: {reverb_s: [2, 1]}}",
        12,
        "augment.effects.both.reverb_s: the first must not exceed the second, is [2.0, 1.0]",
    ),
    (
        "gain_db: [-10, 10]",
        "image: {mono: 1.5}",
        12,
        "augment.image.mono: must be between 0 and 1, is 1.5",
    ),
    (
        "  segment_s: 4",
        "  segment_s: 4\n  input: file\n  remix: 1",
        12,
        "data.remix: must be 0 with input: file",
    ),
    (
        "weight: 2",
        "layout: stems",
        7,
        "data.train.0.layout: needs stems that are sampled independently: remix: 1 and remix_group: null",
    ),
    ("weight: 2", "song_weights: {a: 0}", 7, "data.train.0.song_weights.a: must be above 0, is 0"),
    ("weight: 2", "stem_weights: {a: -1}", 7, "data.train.0.stem_weights.a: must be at least 0, is -1"),
    (
        "valid: [{path: songs}]",
        "valid: [{path: songs, layout: stems}]",
        9,
        "data.valid.0.layout: stems are for training only",
    ),
    ("  valid: [{path: songs}]", "valid: {patience: 3}", 9, "valid.patience: needs data.valid"),
]


@pytest.mark.parametrize(("old", "new", "line", "rule"), BAD, ids=[case[3][:40] for case in BAD])
def test_a_bad_file_gives_one_line_with_the_place(old: str, new: str, line: int, rule: str) -> None:
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new, 1)
    if old.startswith("  valid"):  # moved to the top level
        text = GOOD.replace("  valid: [{path: songs}]\n", "") + "valid: {patience: 3}\n"
        line = 17
    said = complaint(text)
    assert said.startswith(f"config.yaml:{line}: {rule}") and "\n" not in said


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "just words\n"])
def test_a_file_without_keys(text: str) -> None:
    assert complaint(text) == "config.yaml:1: must be keys with values (a YAML mapping)"


@pytest.mark.parametrize("text", ["a: &a [*a]", "a: " + 2000 * "["])
def test_endless_documents_are_refused(text: str) -> None:
    assert complaint(text) == "config.yaml: something holds itself, or is nested too deeply"


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1" + 400 * "0"])
@pytest.mark.parametrize("key", ["data.segment_s", "data.activity_s", "augment.shift_s", "loss.weights.bass"])
def test_numbers_are_finite(key: str, value: str) -> None:
    assert f"{key}: must be a number, is " in complaint(GOOD, f"{key}={value}")


@pytest.mark.parametrize(
    "change", ["drop=0.1", "solo=1", "repitch=0.5", "equalise=0.5", "effects.stems.reverb=1"]
)
def test_what_would_break_pairs_is_refused(change: str) -> None:
    key = change.split("=")[0].replace(".reverb", "")
    said = complaint(GOOD, "data.input=file", f"augment.{change}")
    assert f"augment.{key}: changes stems, but not the input file (data.input)" in said
    assert parse(GOOD, "data.input=file", "augment.effects.both.reverb=1").data.input == "file"


@pytest.mark.parametrize("change", ["codec=0.1", "effects.both.reverb=1", "image.balance=0.5"])
def test_what_comes_after_the_mix_is_refused_where_mixing_is_later(change: str) -> None:
    key = change.split("=")[0].split(".")[0]
    semi = ("semi={promote: false}", "data.unlabelled=[{path: x}]", "model={start: tiny}")
    said = complaint(GOOD, *semi, f"augment.{change}")
    assert f"augment.{key}: is not for semi-supervised training, which mixes later" in said


def test_bytes_that_are_not_yaml() -> None:
    assert (
        complaint("folder: \x00")
        == "config.yaml: not YAML (unacceptable character #x0000: special characters are not allowed)"
    )


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optim.lr", "--set optim.lr: write it as a.b=value"),
        ("=3", "--set =3: write it as a.b=value"),
        ("optim.lt=3", "--set optim.lt=3: optim.lt: no such key; did you mean lr?"),
        ("optim.lr=.inf", "--set optim.lr=.inf: optim.lr: must be a number, is inf"),
        ("optim.lr=0", "--set optim.lr=0: optim.lr: must be above 0, is 0"),
        ("data.train.5.path=x", "--set data.train.5.path=x: 5 is no index of a list of 2"),
        ("data.train.0=x", "--set data.train.0=x: data.train.0: must be keys with values, is 'x'"),
        (
            "fit.epochs=[",
            "--set fit.epochs=[: not YAML (expected the node content, but found '<stream end>')",
        ),
        ("fit=3", "--set fit=3: fit: must be keys with values, is 3"),
        ("fit.epochs.x=3", "--set fit.epochs.x=3: fit.epochs: must be a whole number, is keys with values"),
    ],
)
def test_invalid_overrides_are_named(override: str, said: str) -> None:
    assert complaint(GOOD, override) == said


def test_overrides() -> None:
    config = parse(
        GOOD,
        "optim.lr=3e-5",
        "data.train.1.weight=0.5",
        "data.valid=[{path: elsewhere}]",
        "loss.terms={mse: 1}",
        "valid.patience=3",
        "folder=runs/other",
        "augment.gain_db=null",
    )
    assert config.optim.lr == 3e-5 and config.optim.betas == (0.9, 0.999)
    assert config.data.train[1] == DataSetConfig("more.csv", 0.5, only=("7.*", "8.*"))
    assert config.data.valid == (DataSetConfig("elsewhere"),) and config.loss.terms == {"mse": 1.0}
    assert config.valid.patience == 3 and config.folder == "runs/other" and config.augment.gain_db is None


def test_later_overrides_win() -> None:
    assert parse(GOOD, "seed=1", "seed=2").seed == 2


@pytest.mark.parametrize("written", ["1e-4", "1E-4", "0.0001", "1.e-4", ".1e-3", "1.0e-04"])
def test_every_spelling_of_a_number(written: str) -> None:
    assert parse(GOOD.replace("1e-4", written)).optim.lr == pytest.approx(1e-4)


def test_a_quoted_number_is_a_text() -> None:
    assert parse(GOOD.replace("runs/mine", "'1e5'")).folder == "1e5"
    assert "must be a number" in complaint(GOOD.replace("1e-4", "'1e-4'"))


def test_a_section_may_be_empty() -> None:
    assert parse(GOOD + "ema:\n  # step: [0.999]\n").ema.step == ()


def test_changes_for_a_stem() -> None:
    file = parse_config(GOOD, "config.yaml")
    changed = file.changed({"loss.weights": {"bass": 0}, "data.segment_s": 3}, "config.yaml:20")
    assert changed.config.loss.weights == {"bass": 0.0} and changed.config.data.segment_s == 3.0
    assert file.config.data.segment_s == 4.0
    with pytest.raises(
        SettingsError, match=r"config.yaml:20: data.segment: no such key; did you mean segment_s\?"
    ):
        file.changed({"data.segment": 3}, "config.yaml:20")


def test_later_errors_name_the_line() -> None:
    file = parse_config(GOOD, "config.yaml", ["fit.epochs=3"])
    places = {
        "data.train.1.path": "config.yaml:8",
        "data.train": "config.yaml:5",
        "data.cache": "config.yaml:4",
        "seed": "config.yaml:1",
        "fit.epochs": "--set fit.epochs=3",
    }
    for key, place in places.items():
        assert file.error(key, "is bad").reason == f"{place}: {key}: is bad"


def test_a_dumped_configuration_reads_back_equal() -> None:
    groups, nothing = "optim.groups=[{match: 'x.*', weight_decay: 0.05}]", "data.remix_group=null"
    config = parse(GOOD, groups, "loss.svd.penalty=1e-05", nothing)
    assert config.data.remix_group is None  # although the default is something
    again = parse_config(dump_config(config), "again").config
    assert again == config
    assert "1.0e-05" in dump_config(config)


def test_reading_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(GOOD, encoding="utf-8")
    assert read_config(file).config == parse(GOOD)
    file.write_text(GOOD.replace("seed", "").replace("lr:", "rl:"), encoding="utf-8")
    with pytest.raises(SettingsError, match=re.escape("mine.yaml:14: optim.rl: no such key")):
        read_config(file)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="can't be read \\(it isn't text in UTF-8\\)"):
        read_config(file)
    with pytest.raises(SettingsError, match="can't be read"):
        read_config(tmp_path / "missing.yaml")


def dataclasses_of(cls: Any) -> list[Any]:
    inner = [one.default for one in fields(cls)]
    return [cls, *(c for value in inner if is_dataclass(value) for c in dataclasses_of(type(value)))]


def test_every_key_is_explained() -> None:
    for cls in dataclasses_of(Config):
        for one in fields(cls):
            assert re.search(rf"\b{one.name}: ", cls.__doc__), f"{cls.__name__}.{one.name}"

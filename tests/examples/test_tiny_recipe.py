"""The recipe of the bundled model: it is a valid configuration, and one step of it trains."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from make_songs import main
from stemsplit import models
from stemsplit.training.configfile import read_config

RECIPE = Path(__file__).parents[2] / "examples/tiny/tiny.yaml"


def test_the_recipe_is_a_valid_configuration() -> None:
    config = read_config(RECIPE).config
    assert config.model.family == "band_unet" and config.half
    albums = [d for d in config.data.train if d.path == "album"]
    assert all("3.*" in d.exclude or d.only == ("2.*",) for d in albums) and len(albums) == 2


def test_the_recipe_explains_itself() -> None:
    text = RECIPE.read_text()
    assert text.startswith("# ") and "stemsplit train --config examples/tiny/tiny.yaml" in text
    assert read_config(RECIPE).config.folder == "runs/tiny"


def test_its_network_can_be_built_and_takes_its_segments() -> None:
    config = read_config(RECIPE).config
    with torch.device("meta"):
        network = models.build(config.model.family or "", config.model.arguments)
    samples = round(config.data.segment_s * network.sample_rate)
    assert samples == network.padded_samples(samples) or samples == network.segment_samples
    assert set(network.stems) <= set(config.data.stems or network.stems)


def test_a_step_of_the_recipe_trains_on_generated_songs(tmp_path: Path) -> None:
    run = pytest.importorskip("stemsplit.training.run")
    for name, seed in (("songs", "1"), ("songs-held-out", "2")):
        arguments = [str(tmp_path / name), "--songs", "2", "--seconds", "4", "--seed", seed]
        assert CliRunner().invoke(main, arguments).exit_code == 0
    changes = [
        f"folder={tmp_path}/run",
        f"data.train=[{{path: {tmp_path}/songs}}]",
        f"data.valid=[{{path: {tmp_path}/songs-held-out}}]",
        "data.segment_s=1",
        "data.activity_s=2",
        "fit.batch_size=1",
        "fit.devices=1",
    ]
    seen: list[object] = []
    run.dry_run(read_config(RECIPE, changes), seen.append)
    assert seen

"""The recipes are valid configurations with the values of their papers and models."""

from typing import Any

import pytest
import torch

from stemsplit import models
from stemsplit.errors import UnknownNameError
from stemsplit.training.config import Config
from stemsplit.training.configfile import parse_config
from stemsplit.training.optim import schedule_factor
from stemsplit.training.recipes import recipe_names, recipe_text

NAMES = ["bsrnn", "fine-tune", "mask-transformer", "per-stem", "restore", "scratch", "semi-supervised"]


def recipe(name: str) -> Config:
    return parse_config(recipe_text(name), f"{name}.yaml").config


def test_names_of_recipes() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_is_a_configuration_and_explains_itself(name: str) -> None:
    text = recipe_text(name)
    config = recipe(name)
    assert config.folder.startswith("runs/")
    assert text.startswith("# ") and f"stemsplit train --config {name}.yaml" in text


@pytest.mark.parametrize("name", NAMES)
def test_new_networks_can_be_built_and_take_their_segments(name: str) -> None:
    config = recipe(name)
    if config.model.family is None:
        return
    changes = {"": {}, **(config.per_stem.changes if config.per_stem else {})}
    for stem in changes:
        part = parse_config(recipe_text(name), name).changed(dict(changes[stem]), name).config
        with torch.device("meta"):
            network = models.build(part.model.family or "", part.model.arguments)
        samples = round(part.data.segment_s * network.sample_rate)
        assert samples == network.padded_samples(samples) or samples == network.segment_samples
        assert set(network.stems) <= set(part.data.stems or network.stems)
        assert not stem or network.stems == (stem,)


def test_an_unknown_recipe() -> None:
    with pytest.raises(UnknownNameError) as caught:
        recipe_text("finetune")
    assert caught.value.hint == "did you mean fine-tune?"


def values(section: Any, **expected: Any) -> None:
    assert {key: getattr(section, key) for key in expected} == expected


def test_per_stem_is_how_htdemucs_ft_was_made() -> None:
    config = recipe("per-stem")
    values(config.optim, kind="adamw", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.0, clip=5.0)
    assert [(g.match, g.weight_decay) for g in config.optim.groups] == [("crosstransformer.*", 0.05)]
    values(config.fit, epochs=50, steps_per_epoch=800, batch_size=8)
    values(config.augment, shift_s=1.0, shift_together=True, repitch=0.2, semitones=2, tempo=0.12)
    values(config.augment, swap_channels=True, polarity=True, gain=None, gain_db=None)
    assert config.data.remix == 0 and config.ema.step == (0.9995, 0.9999) and config.seed == 42


def test_scratch_is_how_htdemucs_was_made() -> None:
    config = recipe("scratch")
    values(config.optim, kind="adam", lr=3e-4, betas=(0.9, 0.999), weight_decay=0.0, clip=None)
    values(config.fit, epochs=1200, steps_per_epoch=800, batch_size=32)
    values(config.data, remix=1.0, remix_group=4, segment_s=7.8)
    values(config.augment, shift_s=1.0, shift_together=False, gain=(0.25, 1.25), repitch=0.2)
    values(config.ema, step=(0.9995, 0.9999), epoch=(0.9, 0.95))
    with torch.device("meta"):
        network = models.build("htdemucs", config.model.arguments)
    assert sum(p.numel() for p in network.parameters()) == 41_984_456


@pytest.mark.parametrize(("name", "rate"), [("bsrnn", 1e-3), ("semi-supervised", 1e-4)])
def test_bsrnn_is_the_paper_s(name: str, rate: float) -> None:
    config = recipe(name)
    values(config.optim, kind="adam", lr=rate, clip=5.0)
    values(config.schedule, kind="decay", decay=0.98, every_epochs=2)
    values(config.fit, epochs=100, steps_per_epoch=10000, batch_size=16, devices=8)
    values(config.data, activity_s=6.0, segment_s=3.0, remix=1.0, remix_group=None)
    values(config.augment, gain_db=(-10.0, 10.0), drop=0.1, peak=True)
    assert config.loss.terms == {"frequency_time": 1.0} and config.valid.patience == 10


def test_the_masking_transformer_is_the_thesis_s() -> None:
    config = recipe("mask-transformer")
    values(config.optim, kind="adamw", lr=1.0, betas=(0.9, 0.99), eps=1e-6, weight_decay=1e-4)
    values(config.fit, epochs=20, batch_size=8)
    assert config.loss.terms == {"magnitude": 1.0} and config.valid.metric == "median_sdr"
    peak = schedule_factor(config.schedule, 3999, config.fit.steps_per_epoch, 10000)
    assert peak == pytest.approx((1025 * 4000) ** -0.5)
    assert 3999 // config.fit.steps_per_epoch == 7  # the warm-up ends with the eighth epoch

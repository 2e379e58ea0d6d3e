"""Every network family learns with the samples and losses of the training code."""

from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from stemsplit.models import FAMILIES, build
from stemsplit.training.config import Config, ModelConfig
from stemsplit.training.data import Sample, Samples, SampleSpec
from stemsplit.training.fit import Objective
from stemsplit.training.learning import LossConfig, OptimConfig
from stemsplit.training.library import SampledStem, Song, SongSet
from stemsplit.training.rng import generator
from stemsplit.training.sampling import AugmentConfig, DataConfig, DataSetConfig
from stemsplit.training.state import RunState
from tests.training.cases import CASES, NETWORKS


class Noise:
    """Stem of coloured noise."""

    frames = 20000

    def __init__(self, number: int, channels: int) -> None:
        noise = torch.randn(channels, self.frames, generator=generator(number))
        self.audio = (noise.cumsum(1) * 0.01 if number == 0 else noise * 0.2).numpy()

    def read(self, start: int = 0, frames: int | None = None) -> Any:
        return self.audio[:, start : start + (frames or 0)]


def test_no_family_is_left_out() -> None:
    without_weights = {"classic", "ica", "nmf", "repet", "repet_sim"}
    assert {name for name, _ in NETWORKS} | without_weights == set(FAMILIES)


@pytest.mark.parametrize(("family", "arguments"), CASES)
@pytest.mark.parametrize("term", ["l1", "frequency_time"])
def test_two_steps_lower_the_loss(family: str, arguments: dict[str, Any], term: str) -> None:
    network = build(family, arguments).train()
    stems = network.stems if len(network.stems) > 1 else (*network.stems, "rest")
    sampled = {stem: SampledStem(Noise(i, network.channels)) for i, stem in enumerate(stems)}
    samples = network.padded_samples(network.segment_samples)
    spec = SampleSpec(
        1, stems, tuple(range(len(network.stems))), network.channels, samples, network.sample_rate
    )
    config = Config(
        "runs/x",
        ModelConfig(family=family),
        DataConfig((DataSetConfig("x"),)),
        loss=LossConfig(terms={term: 1.0}, fft=64, hop=16),  # type: ignore[dict-item]
        optim=OptimConfig(lr=1e-3),
    )
    source = Samples(
        [SongSet(1.0, (Song("x", Noise.frames, sampled),))], spec, config.data, AugmentConfig(polarity=True)
    )
    batch = Sample(*default_collate([source[i] for i in range(2)]))
    state = RunState(network, config)
    objective, optimizer = Objective(state), state.optimizer

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return objective(batch)[0].item()

    before = loss()
    for _ in range(2):
        torch.manual_seed(0)
        optimizer.zero_grad()
        objective(batch)[0].backward()
        optimizer.step()
    assert loss() < before

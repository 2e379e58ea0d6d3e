import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from stemsplit import evaluate
from stemsplit.core.compute import Compute
from stemsplit.core.stream import separate_array
from stemsplit.evaluation import metrics
from stemsplit.evaluation.table import Signals
from stemsplit.hub.load import load_model
from stemsplit.models.network import Network
from stemsplit.training.config import ValidConfig
from stemsplit.training.configfile import parse_config
from stemsplit.training.library import WholeSong, data_spec, open_whole
from stemsplit.training.run import train
from stemsplit.training.sampling import DataConfig, DataSetConfig
from stemsplit.training.validation import VALIDATION, BestCandidate, score_song, summary

RATE = 100


class Share(Network):
    """Network of three stems, each a tenth of the mix, that counts its calls."""

    def __init__(self) -> None:
        super().__init__(None, stems=("a", "b", "c"), sample_rate=RATE, channels=2, segment_samples=40)
        self.calls = 0

    def estimate(self, mix: Tensor) -> Tensor:
        self.calls += 1
        return (0.1 * mix)[:, None].expand(-1, 3, -1, -1)


class Sound:
    def __init__(self, audio: np.ndarray) -> None:
        self.audio, self.frames = audio, audio.shape[1]

    def read(self, start: int = 0, frames: int | None = None) -> np.ndarray:
        return self.audio[:, start : start + (self.frames if frames is None else frames)]


def noise(seed: int, samples: int = 330) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((2, samples)).astype(np.float32)


def song(**stems: np.ndarray) -> WholeSong:
    frames = next(iter(stems.values())).shape[1]
    return WholeSong("song", frames, {name: Sound(audio) for name, audio in stems.items()}, None)


def scores(one: WholeSong, network: Network | None = None, **config: Any) -> Tensor:
    return score_song(network or Share(), one, ValidConfig(**config), Compute())


def test_whole_songs_are_separated_and_scored() -> None:
    a, b, c = noise(0), noise(1), noise(2)
    found = scores(song(a=a, b=b, c=c))
    mix = torch.from_numpy(a + b + c)
    expected = [metrics.usdr(torch.from_numpy(x), 0.1 * mix).item() for x in (a, b, c)]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


def test_the_median_of_seconds() -> None:
    a, b = noise(0), noise(1)
    found = scores(song(a=a, b=b), metric="median_sdr")
    expected = metrics.median_sdr(torch.from_numpy(a), 0.1 * torch.from_numpy(a + b), RATE)
    assert found[0].item() == pytest.approx(expected.item(), abs=1e-4)


def test_absent_and_silent_stems_have_no_score() -> None:
    found = scores(song(a=noise(0), b=0.0009 / 0.1 * noise(1)))
    assert found.isnan().tolist() == [False, True, True]


@pytest.mark.parametrize("silent", [False, True])
def test_a_song_without_a_stem_scores_as_in_an_evaluation(tmp_path: Path, silent: bool) -> None:
    class Spread(Network):
        """Network whose stems are different parts of the mix."""

        def __init__(self) -> None:
            super().__init__(
                None, stems=("drums", "bass", "other"), sample_rate=8000, channels=2, segment_samples=4000
            )

        def estimate(self, mix: Tensor) -> Tensor:
            return torch.stack([0.5 * mix, 0.2 * mix, 0.3 * mix], dim=1)

    names = {"drums": ["song/drums.wav"], "other": ["song/other.wav"]} | ({"bass": []} if silent else {})
    (tmp_path / "song").mkdir()
    for seed, name in enumerate(("drums", "other")):
        soundfile.write(tmp_path / f"song/{name}.wav", noise(seed, 9000).T, 8000, subtype="FLOAT")
    (tmp_path / "set.json").write_text(json.dumps({"song": names}))
    root = tmp_path / "set.json" if silent else tmp_path
    config = DataConfig((DataSetConfig(str(root)),), (DataSetConfig(str(root)),))
    network = Spread()
    (song,) = open_whole(config.valid, data_spec(config, network.stems, 8000, 2, False), lambda _: None)
    expected = evaluate(root, network, bss=False, metrics=["usdr"]).summary()["Spread"]
    found = dict(zip(network.stems, scores(song, network).tolist(), strict=True))
    assert np.isnan(found.pop("bass"))
    for stem, score in found.items():
        assert score == pytest.approx(expected[stem]["usdr"], abs=1e-4)


@pytest.mark.parametrize("mixture", [False, True])
def test_a_mono_song_scores_as_in_an_evaluation(tmp_path: Path, mixture: bool) -> None:
    class Wide(Network):
        """Network whose stems differ from channel to channel."""

        def __init__(self) -> None:
            super().__init__(
                None, stems=("drums", "bass"), sample_rate=8000, channels=2, segment_samples=4000
            )

        def estimate(self, mix: Tensor) -> Tensor:
            gains = torch.tensor([[0.9, 0.1], [0.2, 0.7]])[:, :, None]  # [S, C, 1]
            return gains * mix[:, None]

    (tmp_path / "song").mkdir()
    parts = {name: noise(seed, 9000)[0] for seed, name in enumerate(("drums", "bass"))}
    parts |= {"mixture": sum(parts.values())} if mixture else {}
    for name, audio in parts.items():
        soundfile.write(tmp_path / f"song/{name}.wav", audio, 8000, subtype="FLOAT")
    config = DataConfig((DataSetConfig(str(tmp_path)),), (DataSetConfig(str(tmp_path)),))
    network = Wide()
    (song,) = open_whole(config.valid, data_spec(config, network.stems, 8000, 2, False), lambda _: None)
    expected = evaluate(tmp_path, network, bss=False, metrics=["usdr"]).summary()["Wide"]
    wanted = [expected[stem]["usdr"] for stem in network.stems]
    assert scores(song, network).tolist() == pytest.approx(wanted, abs=1e-4)


def test_a_recorded_mixture_is_separated_rather_than_the_sum() -> None:
    a = noise(0)
    one = WholeSong("song", 330, {"a": Sound(a)}, Sound(10 * a))
    assert scores(one)[0] > 70  # a tenth of it is the stem


@pytest.mark.parametrize(("own", "asked", "stride"), [(None, None, 30), (0.5, None, 20), (0.5, 0.0, 40)])
def test_the_overlap_is_the_configuration_s_the_model_s_or_the_usual(
    own: float | None, asked: float | None, stride: int
) -> None:
    network = Share()
    network.overlap = own
    scores(song(a=noise(0)), network, overlap=asked)
    assert network.calls == -(-330 // stride)


def test_the_metrics_of_a_configuration_are_those_of_the_table() -> None:
    assert set(get_args(get_type_hints(ValidConfig)["metric"])) == set(VALIDATION)


@pytest.mark.parametrize("metric", VALIDATION)
def test_every_metric_selects_the_weights_of_a_run(
    metric: str, tiny_config: Callable[..., str], tmp_path: Path
) -> None:
    text = tiny_config(extra=f"valid: {{metric: {metric}}}")
    file = parse_config(text, "config.yaml", ["fit.epochs=1", "fit.steps_per_epoch=2"])
    result = train(file)
    network, (song,) = load_model(tmp_path / "run"), whole_songs(file.config.data)
    mix = torch.from_numpy(song.mix())
    estimates, function = separate_array(network, mix), VALIDATION[metric][0]
    stems = [torch.from_numpy(song.stems[stem].read(0, song.frames)) for stem in network.stems]
    pairs = zip(stems, estimates, strict=True)
    expected = [float(function(Signals(stem, found, mix, 1000))) for stem, found in pairs]
    assert result.score == pytest.approx(sum(expected) / 4, rel=1e-5)
    assert len(set(expected)) == 4


def whole_songs(config: DataConfig) -> list[WholeSong]:
    stems = ("drums", "bass", "other", "vocals")
    return open_whole(config.valid, data_spec(config, stems, 1000, 2, False), lambda message: None)


@pytest.mark.parametrize(("metric", "expected"), [("usdr", [4.0, 5.0]), ("usdr_median", [3.0, 5.0])])
def test_scores_are_averaged_over_songs(metric: Any, expected: list[float]) -> None:
    nan = float("nan")
    table = torch.tensor([[[1.0, 5.0, nan]], [[3.0, nan, nan]], [[8.0, 5.0, nan]]])
    found = summary(table, ValidConfig(metric=metric))
    assert found[0, :2].tolist() == expected and found[0, 2].isnan()


def test_the_best_candidate_wins_and_must_be_beaten() -> None:
    best, nan = BestCandidate(), float("nan")
    assert best.update(["raw", "mean"], torch.tensor([1.0, 2.0]), 10)
    assert (best.score, best.candidate, best.step, best.stale_validations) == (2.0, "mean", 10, 0)
    assert not best.update(["raw", "mean"], torch.tensor([2.0, nan]), 20)
    assert (best.candidate, best.stale_validations) == ("mean", 1)
    assert not best.update(["raw"], torch.tensor([nan]), 30)
    assert best.update(["raw", "mean"], torch.tensor([nan, 2.5]), 40) and best.stale_validations == 0

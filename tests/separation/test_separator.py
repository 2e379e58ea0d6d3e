"""Tests of the parts of the Python API that the command line doesn't use."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from stemsplit.errors import Cancelled, InputError, NotFiniteError, SettingsError
from stemsplit.events import Event, Progress
from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.load import load_model
from stemsplit.separation.separator import Separator, separate
from stemsplit.settings import ChunkSettings


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Separator:
    """Return a model that gives NaN."""
    path = tmp_path_factory.mktemp("model") / "damaged.safetensors"
    network = load_model("tiny")
    with torch.no_grad():
        next(network.parameters()).fill_(3e38)  # finite, but results overflow
    save_package(path, network)
    network.identity = load_model(path).identity
    return Separator(network)


def test_a_damaged_model_is_named_with_the_track(damaged: Separator, tmp_path: Path) -> None:
    song = tmp_path / "song.wav"
    soundfile.write(song, 0.1 * np.ones((9000, 2)), 44100)
    for source, name in ((song, str(song)), (0.1 * np.ones((2, 9000), np.float32), "audio")):
        with pytest.raises(NotFiniteError) as caught:
            damaged.separate(source, 44100)
        assert str(caught.value).startswith(f"{name}: the model /")
        assert str(caught.value).endswith("/damaged.safetensors gave NaN or infinite samples at 0.0 s")


@pytest.mark.parametrize("model", ["classic", "tiny"])
@pytest.mark.parametrize("peak", [3e38, 1e20])
def test_an_input_that_overflows_is_named_with_the_place(model: str, peak: float) -> None:
    audio = 0.1 * np.ones((2, 20_000), np.float32)
    audio[:, 12_000] = peak
    try:
        stems = Separator(model).separate(audio, 8000)
    except InputError as error:
        assert str(error).startswith("audio: has samples too large to compute with (the first at 1.500 s;")
    else:
        assert peak < 3e38 and all(np.isfinite(stem).all() for stem in stems.values())


class Halves(torch.nn.Module):
    """A user's own module: two stems that are half of the mix each, by a learnt gain."""

    stems, sample_rate, channels = ("left half", "Rest"), 22050, 2
    segment_samples, context_samples, normalise, overlap = 5000, 0, False, None

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.5))

    def forward(self, mix: torch.Tensor) -> torch.Tensor:
        return self.gain * torch.stack([mix, mix], dim=1)


def tone(samples: int) -> np.ndarray:
    time = np.arange(samples) / 44100
    return np.stack([0.2 * np.sin(2 * np.pi * hz * time) for hz in (220, 331)]).astype(np.float32)


def test_a_module_of_ones_own_is_run_like_any_model() -> None:
    audio = tone(44100)
    module = Halves()
    separator = Separator(module, stems=["LEFT_HALF"])
    assert separator.stems == ("left half",) and separator.sample_rate == 22050
    found = separator.separate(audio, 44100)
    assert list(found) == ["left half"]
    assert np.abs(found["left half"] - 0.5 * audio)[:, 300:-300].max() < 1e-3
    assert not module.training


def test_a_function_with_a_models_attributes_will_do() -> None:
    def third(mix: torch.Tensor) -> torch.Tensor:
        return mix[:, None] / 3

    given = {"stems": ("third",), "sample_rate": 44100, "channels": 2, "segment_samples": 9999}
    for name, value in {**given, "context_samples": 0, "normalise": False, "overlap": None}.items():
        setattr(third, name, value)
    audio = tone(20_000)
    assert np.abs(separate(audio, third, sample_rate=44100)["third"] - audio / 3).max() < 1e-6


class Own(torch.nn.Module):
    """A module of one's own: two halves of the mix."""

    stems: Any = ("one", "two")
    sample_rate: Any = 8000
    channels, segment_samples, context_samples = 2, 4000, 0
    normalise: Any = False
    overlap: Any = None

    def forward(self, mix: Tensor) -> Any:
        return torch.stack([mix / 2, mix / 2], dim=1)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"stems": ("a", "a")}, r"Own\.stems .*must be names that differ"),
        ({"stems": ()}, r"Own\.stems \(\): must be names"),
        ({"stems": ("lead/vox", "b")}, "Own: has a stem 'lead/vox', which can't be a file's name"),
        ({"stems": ("", "b")}, "Own: has a stem '', which can't be a file's name"),
        ({"stems": ("..", "b")}, "Own: has a stem '..', which can't be a file's name"),
        ({"residual": "a\nb"}, r"Own: has a stem 'a\\nb', which can't be a file's name"),
        ({"stems": "ab"}, r"Own\.stems 'ab': must be a tuple of text"),
        ({"sample_rate": 44100.5}, r"Own\.sample_rate 44100\.5: must be a whole number"),
        ({"segment_samples": 0}, r"Own\.segment_samples 0: must be at least 1"),
        ({"context_samples": -1}, r"Own\.context_samples -1: must be at least 0"),
        ({"normalise": "yes"}, r"Own\.normalise 'yes': must be true or false"),
        ({"overlap": 2}, r"Own\.overlap 2: must be from 0 to 0\.99"),
        ({"forward": lambda mix: (mix / 2)[:, None]}, r"Own: returns the shape \[1, 1, 2, \d+\] where"),
        (
            {"forward": lambda mix: torch.stack([mix, mix], 1)[..., :-1]},
            r"shape .*, 3999\] where",
        ),
        ({"forward": lambda mix: mix.numpy()}, "the model returns a ndarray, not a tensor"),
    ],
)
def test_a_module_that_is_no_model_is_refused(attributes: dict[str, Any], said: str) -> None:
    model = Own()
    for name, value in attributes.items():
        setattr(model, name, value)
    with pytest.raises(SettingsError, match=said):
        Separator(model).separate(np.zeros((2, 9000), np.float32), 8000)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weights": 5},
        {"weights": ["1"]},
        {"blend": None},
        {"model_options": {1: 2}},
        {"model_options": 5},
        {"sequential": "no"},
        {"callback": 5},
    ],
)
def test_arguments_are_named_when_they_are_wrong(arguments: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"^{next(iter(arguments))} .*: must be ") as caught:
        Separator("classic", **arguments)
    assert caught.value.setting == next(iter(arguments))


def test_progress_knows_the_length_of_a_track() -> None:
    events = list[Event]()
    Separator(Own(), callback=events.append).separate(np.zeros((2, 9000), np.float32), 8000)
    found = [event for event in events if isinstance(event, Progress)]
    assert found and {event.total_s for event in found} == {9000 / 8000}


def test_a_numpy_false_cancels_too() -> None:
    with pytest.raises(Cancelled):
        Separator(Own(), callback=lambda _: np.False_).separate(np.zeros((2, 9000), np.float32), 8000)


def test_an_object_that_cannot_be_run_is_refused_with_what_it_lacks() -> None:
    with pytest.raises(SettingsError, match="Linear: must be .* called with stems, sample_rate, channels"):
        Separator(torch.nn.Linear(2, 2))  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="segment_s: an object has its own"):
        Separator(Halves(), segment_s=3)


def test_a_separator_is_pickled_as_its_arguments() -> None:
    separator = Separator("tiny", stems=["vocals"], chunks=ChunkSettings(overlap=0.1), callback=print)
    data = pickle.dumps(separator)
    assert len(data) < 2000  # no weights
    again = pickle.loads(data)
    assert (again.stems, again.chunks, again.callback) == (("vocals",), ChunkSettings(overlap=0.1), None)
    separator.callback = None
    audio = tone(30_000)
    expected = separator.separate(audio, 44100)["vocals"]
    assert np.array_equal(again.separate(audio, 44100)["vocals"], expected)


def test_a_closed_separator_says_so() -> None:
    with Separator("classic") as separator:
        separator.separate(tone(1000), 44100)
    with pytest.raises(SettingsError, match="the separator is closed"):
        separator.separate(tone(1000), 44100)
    separator.close()

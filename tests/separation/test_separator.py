"""The Python API, as far as it isn't the command line's too."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from stemsplit.errors import InputError, NotFiniteError
from stemsplit.hub.checkpoints import save_package
from stemsplit.hub.load import load_model
from stemsplit.separation.separator import Separator


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Separator:
    """A model with a weight that is no number."""
    path = tmp_path_factory.mktemp("model") / "damaged.safetensors"
    network = load_model("tiny")
    with torch.no_grad():
        next(network.parameters()).fill_(3e38)  # finite, and what is computed with it isn't
    save_package(path, network)
    separator = Separator("tiny")
    separator.model, separator.identity = network, load_model(path).identity
    return separator


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
